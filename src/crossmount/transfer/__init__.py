"""Transfers of whole images: the push, the copy between registries, and their reports."""

from crossmount.transfer.cache import BlobCache
from crossmount.transfer.copy import copy
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import BlobReport, CopyReport, ImageCopy, ImageFailure, PushReport

__all__ = [
    "BlobCache",
    "BlobReport",
    "CopyReport",
    "ImageCopy",
    "ImageFailure",
    "Limits",
    "PushReport",
    "Registries",
    "copy",
    "push",
]
