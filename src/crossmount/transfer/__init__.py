"""A whole image on its way: the push and its report."""

from crossmount.transfer.push import Limits, push
from crossmount.transfer.report import BlobReport, PushReport

__all__ = ["BlobReport", "Limits", "PushReport", "push"]
