"""The clients of many registries, one for each, and the distance of each registry."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from crossmount import events
from crossmount._arguments import check_kind
from crossmount._dataclass import dataclass
from crossmount._tasks import Closing
from crossmount.errors import CrossmountError, InvalidInputError
from crossmount.oci import Located, Repository
from crossmount.oci.reference import is_loopback
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy
from crossmount.registry.credentials.given import is_for_one

MEASURE_SECONDS = 5.0
"""A registry that takes longer to answer a ping counts as too far away."""

AGAIN_SECONDS = 60.0
"""How long a registry that did not answer is not asked again; a process may outlive an outage."""

MEASURED_MAX = 64
"""How many registries are measured; beyond that, a registry that only the index names counts as far away."""

FAR_AWAY = float("inf")

_HINT_RETRY = RetryPolicy(attempts=2, outage=0.0, wait_initial=0.1, wait_max=1.0, timeout=20.0)


@dataclass(frozen=True, slots=True)
class _Measuring:
    """The measurement of a distance, and when it began."""

    task: asyncio.Task[float]
    since: float

    def is_old(self, now: float) -> bool:
        return self.task.done() and self.task.result() == FAR_AWAY and now - self.since >= AGAIN_SECONDS


class Registries(Closing):
    """Clients of registries, each made when it is first needed; each registry's credentials go to it alone.

    Make one for a process and pass it to each copy, which then shares connections, tokens and distances.

    Args:
        options: how to reach the registries that the user named. Credentials that do not say their registry are
            for the only one that is named.
        special: other options for some registries, by name (`host:port`).
        observer: receives an event before each retry.
        clock: seconds, for distances.

    Attributes:
        clock: the same.
    """

    def __init__(
        self,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        *,
        special: Mapping[str, ClientOptions] | None = None,
        observer: events.Observer = events.ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_kind("options", options, ClientOptions, "a crossmount.ClientOptions")
        self._options = options
        self._special = dict(special or {})
        self._observer = observer
        self.clock = clock
        self._clients: dict[tuple[str, bool, bool], RegistryClient] = {}
        self._lent: dict[str, RegistryClient] = {}
        self._named: set[str] = set(self._special)
        self._distances: dict[tuple[str, bool], _Measuring] = {}

    async def aclose(self) -> None:
        """Close all clients."""
        tasks = [measuring.task for measuring in self._distances.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._distances.clear()
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    def lend(self, client: RegistryClient, place: Located) -> None:
        """Use a client for the registry of `place`; its owner closes it."""
        self._lent[place.repository.registry] = client

    def name(self, *registries: str) -> None:
        """Mark registries as named by the user."""
        self._named.update(registries)

    def is_named(self, place: Located) -> bool:
        """Return whether the user named the registry of `place`, rather than the index alone."""
        return place.repository.registry in self._named

    def by_given_name(self, place: Repository, names: Iterable[str]) -> Repository:
        """Return `place` by a name of its registry that the user gave, as far as the user gave one of `names`."""
        if self.is_named(place):
            return place
        return next((Repository(name, place.name) for name in names if name in self._named), place)

    def client(self, place: Located, *, loopback_http: bool = False) -> RegistryClient:
        """Return the client of the registry of `place`.

        A registry that only the index names, where anybody may have written it, is asked over https with its
        certificate checked, with short timeouts and few retries.

        Args:
            place: a repository or a reference on the registry.
            loopback_http: whether a registry that only the index names is asked over http if it is on the loopback
                of this machine, and if the options allow http at all: what is sent there does not leave it.
        """
        registry = place.repository.registry
        if (lent := self._lent.get(registry)) is not None:
            return lent
        named, options = self.is_named(place), self._special.get(registry, self._options)
        http = self._uses_http(place, loopback_http=loopback_http)
        key = (registry, named, http)
        if key not in self._clients:
            options = self._with_own_credentials(options, registry)
            if not named:
                options = replace(
                    options,
                    plain_http=http,
                    insecure=False,
                    cert_file=None,
                    key_file=None,
                    ssl_context=None,
                    transport=None,
                    connect_timeout=3.0,
                    read_timeout=min(options.read_timeout, 10.0),
                    retry=_HINT_RETRY,
                )
            self._clients[key] = RegistryClient(place, options=options, observer=self._observer)
        return self._clients[key]

    def _with_own_credentials(self, options: ClientOptions, registry: str) -> ClientOptions:
        """Return the options for one registry, without credentials that are for another.

        Raises:
            InvalidInputError: the credentials do not say their registry, and several are named.
        """
        if registry in self._special or not is_for_one(options.credentials):
            return options
        if registry not in self._named:
            return replace(options, credentials=None)
        if len(named := self._named - self._special.keys()) > 1:
            raise InvalidInputError(
                f"credentials: for which of {', '.join(sorted(named))}? give a mapping by registry: "
                f"{{{registry!r}: (user, password)}}"
            )
        return options

    async def distance(self, place: Located, *, loopback_http: bool = False) -> float:
        """Return the seconds that a ping of the registry takes, measured once; infinite without an answer.

        Args:
            place: a repository or a reference on the registry.
            loopback_http: as for `client`.
        """
        registry, now = place.repository.registry, self.clock()
        key = (registry, self._uses_http(place, loopback_http=loopback_http))
        measuring = self._distances.get(key)
        if measuring is None and registry not in self._named and len(self._distances) >= MEASURED_MAX:
            return FAR_AWAY
        if measuring is None or measuring.is_old(now):
            task = asyncio.create_task(self._measure(self.client(place, loopback_http=loopback_http)))
            measuring = self._distances[key] = _Measuring(task, now)
        return await asyncio.shield(measuring.task)

    def _uses_http(self, place: Located, *, loopback_http: bool) -> bool:
        registry = place.repository.registry
        if not self._special.get(registry, self._options).plain_http:
            return False
        return self.is_named(place) or (loopback_http and is_loopback(_host(registry)))

    async def _measure(self, client: RegistryClient) -> float:
        """Ping twice: the first ping may have to connect."""
        shortest = FAR_AWAY
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                for _ in range(2):
                    started = self.clock()
                    await client.ping()
                    shortest = min(shortest, self.clock() - started)
        except (CrossmountError, TimeoutError):
            return shortest
        return shortest


def _host(registry: str) -> str:
    """Return a registry's host, without its port."""
    return registry if registry.endswith("]") else registry.rpartition(":")[0] or registry
