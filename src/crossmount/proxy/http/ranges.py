"""`Content-Range` of a chunk: `<first>-<last>`, both inclusive (distribution specification, "Pushing blobs")."""

import re

_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]{1,18})?")


def check(given: str, *, offset: int, length: int | None) -> None:
    """Check that a chunk follows what is there.

    Args:
        given: the header's value.
        offset: how many bytes are there.
        length: how many bytes the chunk has; None if that is not known before.

    Raises:
        ValueError: it does not; the message says why.
    """
    match = _RANGE.fullmatch(given.strip())
    if match is None:
        raise ValueError("Content-Range must be <first byte>-<last byte>")
    first, last = int(match[1]), int(match[2])
    if first != offset:
        raise ValueError(f"the chunk starts at byte {first}, and {offset} bytes are here")
    if length == 0 and last <= first:
        return  # an empty closing chunk has no last byte to name
    if last < first or (length is not None and last - first + 1 != length):
        raise ValueError(f"Content-Range names {last - first + 1} bytes, Content-Length {length}")
