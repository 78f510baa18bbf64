"""The parts that all upstreams of a proxy share: the index, the turns of uploads, and the contents of files."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from typing import TYPE_CHECKING

from crossmount._dataclass import dataclass
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet
from crossmount.index import GuardedIndex
from crossmount.index.protocol import MountableLayers
from crossmount.proxy.auth.service_mode import CallerChecks
from crossmount.proxy.files import callers_of, policy_of
from crossmount.proxy.http.serving import log_index_event
from crossmount.proxy.page import Page
from crossmount.proxy.policy import Policy
from crossmount.proxy.reload import Apply, Live, Prepare
from crossmount.proxy.settings import ProxySettings
from crossmount.proxy.telemetry import Exposition
from crossmount.proxy.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that all upstreams of a proxy share.

    Attributes:
        settings: the proxy's settings.
        index: the index of sources, whose failures are only logged.
        fleet: decides whose turn it is to upload a layer.
        policy: the policy in force.
        checks: checks callers, for `--auth service`.
        secrets: the secrets of senders of events; None accepts no events.
        tracing: makes spans; None makes none.
        page: the page at `/_crossmount/`, if there is one.
        exposition: the metrics of all upstreams.
        probes: check the registry of each upstream.
    """

    settings: ProxySettings
    index: GuardedIndex
    fleet: Fleet
    policy: Live[Policy]
    checks: Live[CallerChecks]
    secrets: Live[WebhookSecrets] | None
    tracing: Tracing | None = None
    page: Page | None = None
    exposition: Exposition = field(default_factory=Exposition)
    probes: list[Callable[[], Awaitable[str | None]]] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        settings: ProxySettings,
        index: MountableLayers,
        *,
        page: Page | None = None,
        provider: "TracerProvider | None" = None,
    ) -> AsyncIterator["Shared"]:
        """Read the files that the settings name, and close what was opened when the block ends.

        Args:
            settings: the proxy's settings.
            index: the index of sources; the caller closes it.
            page: the page at `/_crossmount/`.
            provider: exports spans; None makes none. The caller shuts it down.

        Raises:
            InvalidInputError: a file is invalid, or would let everybody in.
        """
        guarded = GuardedIndex(index, observer=log_index_event, lasting=True)
        events = settings.events_secret
        async with Fleet(guarded) as fleet:
            yield cls(
                settings=settings,
                index=guarded,
                fleet=fleet,
                policy=Live(lambda: policy_of(settings)),
                checks=Live(lambda: CallerChecks(callers_of(settings))),
                secrets=None if events is None else Live(lambda: WebhookSecrets.read(events)),
                tracing=None if provider is None else Tracing(provider),
                page=page,
            )

    def reloads(self) -> list[Prepare]:
        """Return a value that reads the files again."""
        secrets = [] if self.secrets is None else [self.secrets.prepare]
        return [self._prepare_policy, self.checks.prepare, *secrets]

    def _prepare_policy(self) -> Apply:
        fresh = policy_of(self.settings)
        if fresh.upstreams != self.policy.value.upstreams:
            raise InvalidInputError(f"{self.settings.policy}: its upstreams changed: restart the proxy for that")
        self.settings.upstream_list(fresh)  # a rule for an upstream that does not exist would restrict nothing

        def apply() -> None:
            self.policy.value = fresh

        return apply
