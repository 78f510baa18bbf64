"""Transfers of whole images: the push, the copy between registries, and their reports."""
