"""Files of names and references, as `--from` takes them."""

from collections.abc import Iterator
from typing import TextIO

from crossmount.errors import InvalidInputError

LINE_MAX = 64 * 1024
"""No list of ours has a longer line, in characters."""


def lines_of(file: TextIO) -> Iterator[str]:
    """Yield the lines of a list, without what follows a `#`, so that some are empty.

    Raises:
        InvalidInputError: it is no text.
    """
    try:
        while line := file.readline(LINE_MAX + 1):
            if len(line) > LINE_MAX:
                raise InvalidInputError(f"{file.name}: not a list: a line has more than {LINE_MAX} characters")
            yield line.partition("#")[0].strip()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file.name}: not a list: it is no text") from error
