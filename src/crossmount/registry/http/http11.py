"""An HTTP/1.1 client connection (RFC 9112), one request at a time: h11 parses and formats, this does the I/O."""

import re

import h11
import httpx

from crossmount.registry.http.answer_heads import HEAD_BYTES_MAX
from crossmount.registry.http.options import LAST_ON_CONNECTION, ON_ANSWER
from crossmount.registry.http.streams import NetworkStream

_END = h11.EndOfMessage()
_QUOTED = re.compile(r" b['\"].*", re.DOTALL)
"""The header in a text of h11."""

RawHeaders = list[tuple[bytes, bytes]]


class Http11Connection:
    """A connection to a server, or to a proxy that forwards requests.

    Args:
        stream: the bytes.
        forwarding: the headers that a proxy wants in each request that it forwards; None without one.
    """

    def __init__(self, stream: NetworkStream, *, forwarding: RawHeaders | None = None) -> None:
        self._stream = stream
        self._forwarding = forwarding
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._is_last = False
        self._read_timeout: float | None = None

    async def send(self, request: httpx.Request) -> h11.Response:
        """Send a request, and return the head of its final answer.

        Raises:
            httpx.TransportError: the request is not valid HTTP, or there is no answer.
        """
        extensions = request.extensions
        timeouts = extensions.get("timeout", {})
        self._is_last = LAST_ON_CONNECTION in extensions
        self._read_timeout = timeouts.get("read")
        self._stream.start_request(extensions.get(ON_ANSWER))
        try:
            await self._send(request, timeouts.get("write"))
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(_QUOTED.sub("", str(error))) from None  # both may quote a credential
        while not isinstance(event := await self._receive(), h11.Response):
            pass
        # with both headers, two readers may disagree where the body ends (RFC 9112, 6.3)
        self._is_last |= {b"transfer-encoding", b"content-length"} <= {name for name, _ in event.headers}
        return event

    async def read(self) -> bytes:
        """Return the next bytes of the answer's body, b"" at its end.

        Raises:
            httpx.TransportError: the answer ends early, or is not HTTP.
        """
        while True:
            event = await self._receive()
            if not isinstance(event, h11.Data):
                return b""
            if event.data:
                return bytes(event.data)

    def finish(self) -> bool:
        """End an exchange, without waiting; return whether another one may follow on this connection.

        None may if the answer is incomplete, if bytes follow it, or if its end is not certain: they would be read
        as the next request's answer, which may be another caller's (RFC 9112, 6.3, 11.1).
        """
        state = self._state
        try:
            while isinstance(state.next_event(), h11.Data):
                pass
        except h11.RemoteProtocolError:
            return False
        if (
            self._is_last
            or state.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
            or any(state.trailing_data)
            or self._stream.holds_bytes
        ):
            return False
        state.start_next_cycle()
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer, not even the end."""
        return self._stream.is_quiet

    def close(self) -> None:
        """Close the connection; what waits for it fails."""
        self._stream.close()

    async def _send(self, request: httpx.Request, timeout: float | None) -> None:  # noqa: ASYNC109 httpx's, a number
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise httpx.LocalProtocolError("the request's body has no async iterator")
        url, headers = request.url, request.headers.raw
        target = request.extensions.get("target", url.raw_path)
        if self._forwarding is not None:
            target = b"%b://%b%b" % (url.raw_scheme, url.netloc, target)
            headers = [*self._forwarding, *headers]
        head = h11.Request(method=request.method, target=target, headers=headers)
        if not await self._written(head, timeout, is_body=False):
            return
        async for part in request.stream:
            if part and not await self._written(h11.Data(data=part), timeout):
                return
        await self._written(_END, timeout)

    async def _written(
        self,
        event: h11.Event,
        timeout: float | None,  # noqa: ASYNC109 see above
        *,
        is_body: bool = True,
    ) -> bool:
        """Write a part of a request; return False if that failed: the answer may have come first and says more."""
        data = self._state.send(event)
        try:
            if data:
                await self._stream.write(data, timeout=timeout, is_body=is_body)
        except httpx.WriteError:
            self._is_last = True  # the server may wait for the rest, while h11 takes a last chunk for sent
            return False
        return True

    async def _receive(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value] # mypy does not narrow h11's sentinels
            data = await self._stream.read(timeout=self._read_timeout)
            if not data and self._state.their_state is h11.SEND_RESPONSE:
                # httpcore's words, which `errors.CUT_WORDS` recognises
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            self._state.receive_data(data)
