"""Files that an index URL names. Each new connection reads them, so they must be such as can be read again."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_again(path: Path) -> BinaryIO:
    """Open a file that can be read again.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe, a device or the like.
    """
    # O_NONBLOCK: to open a pipe would wait for somebody who writes, for ever, and hold up whoever pushes
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no file that can be read again")
    return file


def why(error: OSError | ValueError) -> str:
    """Return why, without the path: in a URL with a mistake in it that could be the password."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
