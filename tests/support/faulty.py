"""A server between clients and a real registry that applies scripted faults, like the scripted registry."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from crossmount.testing import Alter, CutBefore, CutReceiving, CutSending, Fault, LoseAnswer, Reply
from crossmount.testing.acceptor import Acceptor
from crossmount.testing.connection import Connection, CutError, GoneError, IncomingBody
from crossmount.testing.faults import FaultScript
from crossmount.testing.server import complete
from crossmount.testing.values import Inline, Request, Response
from support.waiting import PATIENCE

_OF_ONE_HOP = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request that passed through.

    Attributes:
        carried: number of bytes of its body that were sent to the registry.
        status: the status of the answer, 0 if there was none.
        fault: the name of the fault that applied, empty if none did.
    """

    method: str
    path: str
    carried: int
    status: int
    fault: str


class FaultyWay:
    """Forwards requests to a registry, and applies faults.

    Attributes:
        address: where it listens.
        passed: the forwarded requests, in the order of the answers.
    """

    def __init__(self, upstream: str, faults: Iterable[Fault], client: httpx.AsyncClient) -> None:
        self.address = ""
        self.passed: list[Passed] = []
        self._upstream = upstream
        self._script = FaultScript(faults)
        self._client = client
        self._connections = 0

    @property
    def carried(self) -> int:
        """Number of bytes of blobs that were sent to the registry."""
        return sum(each.carried for each in self.passed if "/blobs/uploads/" in each.path)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        self._connections += 1
        connection = Connection(reader, writer, self._connections)
        try:
            while (request := await connection.request()) is not None:
                await self._exchange(connection, request)
        except (CutError, GoneError, OSError):
            pass
        finally:
            await connection.close()

    async def _exchange(self, connection: Connection, request: Request) -> None:
        fault = self._script.match(request)
        action = None if fault is None else fault.action
        body = IncomingBody(connection, cut_after=action.after if isinstance(action, CutReceiving) else None)
        response: Response | None = None
        try:
            if fault is not None:
                await asyncio.sleep(fault.delay)
            if isinstance(action, Reply):
                response = complete(action.response())
            elif not isinstance(action, CutBefore):
                response = await self._carry(request, body)
            if isinstance(action, Alter) and response is not None:
                response = action.alter(response)
        except httpx.TransportError:  # the registry is gone or cut the connection, so this server does the same
            response = None
        finally:
            if response is None or isinstance(action, LoseAnswer | CutReceiving):
                response = None
                connection.abort()
            self.passed.append(
                Passed(
                    method=request.method,
                    path=request.path,
                    carried=body.received,
                    status=0 if response is None else response.status,
                    fault="" if fault is None else fault.label,
                )
            )
        if response is None:
            raise CutError
        cut_after = action.after if isinstance(action, CutSending) else None
        await connection.send(response, is_head=request.method == "HEAD", cut_after=cut_after)

    async def _carry(self, request: Request, body: IncomingBody) -> Response:
        """Forward a request, and return the complete answer."""
        url = f"{self._upstream}{request.path}{'?' if request.raw_query else ''}{request.raw_query}"
        length = request.headers.get("content-length")
        answer = await self._client.send(
            self._client.build_request(
                request.method,
                url,
                headers={name: value for name, value in request.headers.items() if name != "connection"},
                content=_Pieces(body) if (length or "0") != "0" else None,
            )
        )
        kept = tuple((name, value) for name, value in answer.headers.multi_items() if name not in _OF_ONE_HOP)
        size = answer.headers.get("content-length") if request.method == "HEAD" else None
        sized = () if answer.status_code in {204, 304} else (("Content-Length", size or str(len(answer.content))),)
        return Response(answer.status_code, (*kept, *sized), Inline(answer.content))


class _Pieces(httpx.AsyncByteStream):
    """A body that is forwarded."""

    def __init__(self, body: IncomingBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece


@asynccontextmanager
async def faulty_way(upstream: str, *faults: Fault) -> AsyncIterator[FaultyWay]:
    """Run it in front of a registry, whose Locations must be relative.

    Args:
        upstream: the registry's URL.
        faults: the script.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client:
        way = FaultyWay(upstream, faults, client)
        async with Acceptor(way.converse) as acceptor:
            way.address = f"127.0.0.1:{await acceptor.open()}"
            yield way
