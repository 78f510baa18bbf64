"""Finds where the final answer begins in the bytes of a connection. No I/O."""

import re

import httpx

INTERIM_MAX = 100
"""The most interim answers before an answer."""

HEAD_BYTES_MAX = 100 * 1024
"""The most bytes of an interim answer; h11 has this limit too, but sees no answer while a body is sent."""

_STATUS = re.compile(rb"HTTP/\d\.\d (\d\d\d)")
_STATUS_BYTES = len(b"HTTP/1.1 200")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class AnswerHeads:
    """Finds the final answer among interim ones, in bytes as they come. No I/O.

    Attributes:
        status: the status of the final answer, 0 if the bytes are not HTTP, None before it begins.
        interim: the number of interim answers before it.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.interim = 0
        self._head = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes.

        Raises:
            httpx.RemoteProtocolError: there were too many interim answers, or one is too long.
        """
        if self.status is not None:
            return
        self._head += data
        while len(self._head) >= _STATUS_BYTES:
            line = _STATUS.match(self._head)
            status = 0 if line is None else int(line[1])
            if not 100 <= status < 200 or status == 101:
                self.status = status
                self._head.clear()
                return
            end = _HEAD_END.search(self._head, self._searched)
            if (len(self._head) if end is None else end.end()) > HEAD_BYTES_MAX:
                raise httpx.RemoteProtocolError(
                    f"an interim answer (1xx) of more than {HEAD_BYTES_MAX // 1024} KiB"
                )
            if end is None:
                self._searched = max(0, len(self._head) - len(b"\r\n\r"))
                return
            self.interim, self._searched = self.interim + 1, 0
            del self._head[: end.end()]
            if self.interim > INTERIM_MAX:
                raise httpx.RemoteProtocolError(f"more than {INTERIM_MAX} interim answers (1xx), and no final one")
