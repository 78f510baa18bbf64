"""The registry as a server: its port, connections, scripted faults, and request log."""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from crossmount.oci.descriptor import Digest
from crossmount.testing.acceptor import Acceptor
from crossmount.testing.access_control import TOKEN_PATH, AccessControl
from crossmount.testing.connection import Connection, CutError, GoneError, IncomingBody
from crossmount.testing.faults import (
    Alter,
    CutBefore,
    CutReceiving,
    CutSending,
    Echo,
    Fault,
    FaultScript,
    IgnoreMount,
    LoseAnswer,
    Pass,
    Reply,
)
from crossmount.testing.handlers import Handlers
from crossmount.testing.holdings import Holdings
from crossmount.testing.options import RegistryOptions, TokenAuth
from crossmount.testing.sessions import UploadCounts, UploadSessions
from crossmount.testing.storage import PIECE, FolderBlobs, MemoryBlobs
from crossmount.testing.values import RECORDED_HEADERS, Request, RequestRecord, Response


class ScriptedRegistry:
    """A registry of the distribution specification 1.1.1 in this process, with scripted faults.

        async with ScriptedRegistry(RegistryOptions(finds=True)) as registry:
            registry.play(Fault(method="PUT", action=LoseAnswer()))
            ...  # talk to registry.url

    In a test without an event loop use `running_registry`.

    Attributes:
        requests: a record of each request, in the order of the answers.
        underway: how many requests have no record yet.
        holdings: its repositories; tests may read and change them.
    """

    def __init__(
        self,
        options: RegistryOptions | None = None,
        *,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a registry; `start` or `async with` opens the port.

        Args:
            options: its behaviour.
            faults: the first faults of the script.
            host: the address to listen on.
            port: the port; 0 lets the system choose.
            tls: the context for https; None serves http.
        """
        self.options = options or RegistryOptions()
        self.requests: list[RequestRecord] = []
        self.underway = 0
        self.holdings = Holdings(FolderBlobs(self.options.root) if self.options.root else MemoryBlobs())
        self._tally = UploadCounts()
        self._sessions = UploadSessions(self.holdings, self.options, self._tally)
        self._authorizer = AccessControl(self.options.auth)
        self._handlers = Handlers(self.options, self.holdings, self._sessions, self._authorizer)
        self._script = FaultScript(faults)
        self._host, self._port, self._tls = host, port, tls
        self._acceptor = Acceptor(self._converse, limit=2 * PIECE, tls=tls)
        self._connections = 0

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self._tls else "http"

    @property
    def address(self) -> str:
        """`host:port`, as in a reference."""
        return _address(self._host, self._port)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.address}"

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """The ids of all open upload sessions."""
        return self._sessions.open

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens that the token service issued."""
        return self._authorizer.tokens

    @property
    def unplayed(self) -> tuple[Fault, ...]:
        """The faults that were applied less often than `times`, or never if `times` is None."""
        return self._script.unplayed

    @property
    def bytes_received(self) -> int:
        """Total bytes of all request bodies so far."""
        return sum(record.received for record in self.requests)

    @property
    def upload_bytes(self) -> int:
        """Total size of all uploaded blobs."""
        return self._tally.upload_bytes

    def uploads(self, digest: Digest | str | None = None) -> int:
        """Return the number of finished uploads of a blob, or of all blobs; a lost answer counts too."""
        counts = self._tally.uploads
        return counts.total() if digest is None else counts[Digest(digest)]

    def mounts(self, digest: Digest | str | None = None) -> int:
        """Return the number of mounts of a blob, or of all blobs."""
        counts = self._tally.mounts
        return counts.total() if digest is None else counts[Digest(digest)]

    def matching(self, *, method: str = "*", path: str = "*", query: str = "*") -> list[RequestRecord]:
        """Return the records that match patterns; they have the syntax of those of `Fault`."""
        pattern = Fault(method=method, path=path, query=query)
        return [
            record
            for record in self.requests
            if pattern.fits(Request(record.method, record.path, raw_query=record.query))
        ]

    def play(self, *faults: Fault) -> None:
        """Add faults at the end of the script."""
        self._script.add(faults)

    def clear_script(self) -> None:
        """Remove all faults."""
        self._script.clear()

    def put_blob(self, name: str, data: bytes, *, algorithm: str = "sha256") -> Digest:
        """Put a blob into a repository without a request."""
        return self.holdings.put_blob(name, data, algorithm=algorithm)

    async def start(self) -> None:
        """Open the port.

        Raises:
            OSError: the port is not available.
        """
        self._port = await self._acceptor.open(self._host, self._port)
        realm = self._port
        auth = self.options.auth
        if isinstance(auth, TokenAuth) and auth.separate_port:
            realm = await self._acceptor.open(self._host)
        self._authorizer.realm = f"{self.scheme}://{_address(self._host, realm)}{TOKEN_PATH}"

    async def stop(self) -> None:
        """Close the ports and cut all connections."""
        await self._acceptor.close()
        self.holdings.store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        self._connections += 1
        connection = Connection(reader, writer, self._connections)
        try:
            await self._serve(connection)
        except CutError:
            pass
        except GoneError:
            await connection.refuse()
        finally:
            await connection.close()

    async def _serve(self, connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            await self._exchange(connection, request)

    async def _exchange(self, connection: Connection, request: Request) -> None:
        """Answer one request, with the fault that applies to it."""
        fault = self._script.match(request) or Fault()
        action = fault.action
        body = IncomingBody(connection, cut_after=action.after if isinstance(action, CutReceiving) else None)
        response: Response | None = None
        self.underway += 1
        try:
            await asyncio.sleep(self.options.latency + fault.delay)
            if not isinstance(action, CutBefore):
                response = await self._answer(request, body, fault)
        finally:
            if response is None or isinstance(action, LoseAnswer | CutReceiving):
                response = None
                connection.abort()
            self._record(connection, request, response, body, fault)
            self.underway -= 1
        if response is not None:
            cut_after = action.after if isinstance(action, CutSending) else None
            await connection.send(response, is_head=request.method == "HEAD", cut_after=cut_after)

    async def _answer(self, request: Request, body: IncomingBody, fault: Fault) -> Response:
        """Return the answer to a request, with all headers."""
        action = fault.action
        if isinstance(action, Reply):
            return complete(action.response())
        if isinstance(action, Echo):
            return complete(action.response(request))
        if isinstance(action, IgnoreMount):
            request = Request(request.method, request.path, (), request.headers)
        host = request.headers.get("host") or self.address
        response = complete(await self._handlers.handle(request, body, f"{self.scheme}://{host}"))
        return action.alter(response) if isinstance(action, Alter) else response

    def _record(
        self,
        connection: Connection,
        request: Request,
        response: Response | None,
        body: IncomingBody,
        fault: Fault,
    ) -> None:
        sent = response.sends if response is not None and request.method != "HEAD" else 0
        is_scripted = fault.delay or not isinstance(fault.action, Pass)
        self.requests.append(
            RequestRecord(
                method=request.method,
                path=request.path,
                query=request.raw_query,
                status=response.status if response else 0,
                received=body.received,
                sent=min(sent, fault.action.after) if isinstance(fault.action, CutSending) else sent,
                auth_scheme=request.headers.get("authorization", "").partition(" ")[0].lower(),
                headers={name: value for name, value in request.headers.items() if name in RECORDED_HEADERS},
                fault=fault.label if is_scripted else "",
                connection=connection.number,
            )
        )


def complete(response: Response) -> Response:
    """Add the headers of every answer."""
    headers = (*response.headers, ("Docker-Distribution-API-Version", "registry/2.0"))
    if response.status not in {204, 304}:
        headers = (*headers, ("Content-Length", str(response.sends)))
    return replace(response, headers=headers)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
