"""The client of one registry (distribution specification 1.1).

Its methods stand in four groups, which are its base classes: blobs, uploads (and mounts), manifests, listings.
"""

import random
import time
from collections.abc import Callable, Collection

import httpx

from crossmount._arguments import check_kind
from crossmount._tasks import Closing
from crossmount.errors import InvalidAnswerError
from crossmount.events import Observer, ignore
from crossmount.oci import Located, Repository
from crossmount.registry.auth.challenge import Basic, Bearer
from crossmount.registry.auth.scope import Wanted, pull, push
from crossmount.registry.blobs import Blobs
from crossmount.registry.credentials.given import AnyCredentials, credential_source
from crossmount.registry.endpoints import Endpoints, Ping, Prepared
from crossmount.registry.http.errors import refusal
from crossmount.registry.http.location import Origin, parse_url, shown
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.requester import RegistryRequest, Requester
from crossmount.registry.http.retry import Retrier
from crossmount.registry.http.transport import make_client
from crossmount.registry.manifests import Listings, Manifests
from crossmount.registry.uploads import Uploads


class RegistryClient(Blobs, Uploads, Manifests, Listings, Closing):
    """One registry over HTTP.

    A failed request is sent again as `options.retry` says, if it can be repeated. Besides the errors in its own
    docstring, each method raises: RegistryUnreachableError if there is no answer, AccessDeniedError for 401 and
    403, RegistryRefusedError for any other refusal, InvalidAnswerError for an answer outside the specification,
    CredentialsError if credentials cannot be used or would go to an untrusted host, and InvalidInputError for a
    repository on another registry.

    Args:
        registry: the registry's name, or a repository or reference on it.
        options: how to reach it.
        credentials: user name and password, a `Credential`, a mapping of those by registry, or a source of
            credentials; None takes `options.credentials`, else the files and helpers of docker and podman. It is
            asked only if the registry asks for credentials.
        observer: receives an event before each wait for a retry.
        clock: seconds, from any start.
        rng: the source of the waits' jitter.
        transport: sends the requests instead of sockets; for tests.

    Attributes:
        registry: the registry, normalised.
    """

    def __init__(
        self,
        registry: str | Located,
        *,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        credentials: AnyCredentials | None = None,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        check_kind("options", options, ClientOptions, "a crossmount.ClientOptions")
        self._endpoints = Endpoints.of(registry, plain_http=options.plain_http)
        self.registry = self._endpoints.registry
        self._options = options
        self._http = make_client(options, registry=Origin.of(self._endpoints.root()), transport=transport)
        self._requester = Requester(
            self.registry,
            self._endpoints.root(),
            client=self._http,
            retrier=Retrier(options.retry, observer=observer, clock=clock, rng=rng),
            credentials=credential_source(
                options.credentials if credentials is None else credentials,
                registry=self.registry,
                authfile=options.authfile,
                written=Repository.on(registry).address,
            ),
            trusted_realms=options.trusted_realms,
            rate=options.rate,
            commit_timeout=options.commit_timeout,
        )
        self._authorizer = self._requester.authorizer
        self._connected = False

    async def aclose(self) -> None:
        """Close all connections."""
        await self._authorizer.aclose()
        await self._http.aclose()

    async def connect(self) -> None:
        """Open the first connection by one attempt of `GET /v2/`, and learn if the registry asks for credentials.

        Raises:
            CrossmountError: no answer. The next request says why, and is tried again.
        """
        if self._connected:
            return
        self._connected = True
        root = RegistryRequest(method="GET", url=self._endpoints.root(), repeat=False)
        answer = await self._requester.send_anonymously(root)
        if Origin.of(answer.url) == self._requester.origin:
            self._authorizer.learn(answer.headers.get_list("www-authenticate"))

    async def ping(self) -> Ping:
        """Send `GET /v2/` without credentials, and return how the registry wants to be authorized.

        Raises:
            InvalidAnswerError: the answer is not a registry's.
        """
        answer = await self._requester.send_anonymously(RegistryRequest(method="GET", url=self._endpoints.root()))
        if answer.status not in {200, 401}:
            raise refusal(answer, "GET")
        version = answer.headers.get("docker-distribution-api-version")
        if answer.status == 200 and version is None and answer.content_type == "text/html":
            raise InvalidAnswerError(f"GET {shown(answer.url)}: a web page: is this a registry?")
        same = Origin.of(answer.url) == self._requester.origin
        challenges = answer.headers.get_list("www-authenticate") if same else []
        match self._authorizer.learn(challenges):
            case Bearer(realm):
                return Ping(status=answer.status, version=version, scheme="bearer", realm_host=_host(realm))
            case Basic():
                return Ping(status=answer.status, version=version, scheme="basic")
        return Ping(status=answer.status, version=version)

    async def credential_origin(self, repository: Repository | None = None) -> str | None:
        """Return the origin of the credentials for a repository, or None if there are none.

        Args:
            repository: the repository; None for the registry itself.
        """
        return await self._authorizer.credential_origin(_name(repository))

    async def account(self, dest: Repository) -> str | None:
        """Return a digest that names the account for a repository, and reveals nothing about it.

        Args:
            dest: the repository.

        Returns:
            The digest; None if a helper would have to be asked for the credential.
        """
        return await self._authorizer.account(dest.name)

    async def authorization(self, repository: Repository | None, wanted: Wanted) -> str | None:
        """Return the Authorization header for a request that the caller sends to this registry itself.

        Args:
            repository: the request's repository; None for the registry itself.
            wanted: the scopes that the request needs.

        Returns:
            The header's value; None if the registry has not asked for credentials yet (`ping` finds out).
        """
        return (await self._authorizer.authorize(_name(repository), wanted)).header

    async def reauthorization(
        self, repository: Repository | None, wanted: Wanted, refused: str | None, challenges: Collection[str]
    ) -> str | None:
        """Return the Authorization header to try after a 401.

        Args:
            repository: the request's repository; None for the registry itself.
            wanted: the scopes that the request needs.
            refused: the header that was refused; its token is not used again.
            challenges: the answer's WWW-Authenticate headers.

        Returns:
            The header's value; None if there is no other than the refused one.
        """
        name = _name(repository)
        used = await self._authorizer.authorize(name, wanted)
        if used.header != refused:
            return used.header  # renewed meanwhile
        better = await self._authorizer.reauthorize(name, wanted, used, challenges)
        return None if better is None else better.header

    async def prepare(self, dest: Repository, sources: Collection[Repository], *, more: bool = False) -> Prepared:
        """Announce the mounts into a repository, so that few tokens cover all of them.

        If the registry is known to use tokens, they are requested now. Otherwise nothing is sent.

        Args:
            dest: the repository to mount into.
            sources: the repositories to mount from.
            more: whether the sources are some beside earlier ones.

        Returns:
            The sources that no token is given for, as far as that is known.
        """
        for repository in (dest, *sources):
            self._endpoints.check(repository)
        await self._authorizer.prepare(push(dest), [pull(source) for source in sources], more=more)
        return self.prepared(dest)

    def prepared(self, dest: Repository) -> Prepared:
        """Return which sources of mounts into a repository are refused, as far as that is known by now.

        Args:
            dest: the repository to mount into.
        """
        mounts = self._authorizer.mounts
        unusable, denied = (
            frozenset(dest.sibling(scope.name) for scope in scopes)
            for scopes in (mounts.unusable(dest.name), mounts.denied(dest.name))
        )
        return Prepared(refused=unusable, denied=denied)

    @property
    def was_challenged(self) -> bool:
        """Whether the registry has ever asked this client for credentials."""
        return self._authorizer.challenge is not None

    def may_use_tokens(self) -> bool:
        """Return whether the registry asked for tokens, or for nothing so far."""
        return not isinstance(self._authorizer.challenge, Basic)


def _name(repository: Repository | None) -> str:
    return "" if repository is None else repository.name


def _host(realm: str) -> str | None:
    url = parse_url(realm)
    return None if url is None else url.host or None
