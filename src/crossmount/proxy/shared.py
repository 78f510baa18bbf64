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
from crossmount.oci.reference import is_loopback
from crossmount.proxy.auth.service_mode import AllowedCallers, CallerChecks
from crossmount.proxy.http.serving import check_certificate, log_index_event
from crossmount.proxy.page import Page
from crossmount.proxy.policy import Policy, read_policy
from crossmount.proxy.reload import Apply, Live, Prepare
from crossmount.proxy.settings import ProxySettings, UpstreamSettings
from crossmount.proxy.telemetry import Exposition
from crossmount.proxy.tracing import Tracing
from crossmount.proxy.uploads.spool import check_spool
from crossmount.registry.credentials.given import credential_source
from crossmount.registry.credentials.lookup import CredentialSource, StoredCredentials
from crossmount.registry.http.location import Origin
from crossmount.registry.http.transport import make_client

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
                policy=Live(lambda: _policy(settings)),
                checks=Live(lambda: CallerChecks(_callers(settings))),
                secrets=None if events is None else Live(lambda: WebhookSecrets.read(events)),
                tracing=None if provider is None else Tracing(provider),
                page=page,
            )

    def reloads(self) -> list[Prepare]:
        """Return a value that reads the files again."""
        secrets = [] if self.secrets is None else [self.secrets.prepare]
        return [self._prepare_policy, self.checks.prepare, *secrets]

    def _prepare_policy(self) -> Apply:
        fresh = _policy(self.settings)
        if fresh.upstreams != self.policy.value.upstreams:
            raise InvalidInputError(f"{self.settings.policy}: its upstreams changed: restart the proxy for that")
        self.settings.upstream_list(fresh)  # a rule for an upstream that does not exist would restrict nothing

        def apply() -> None:
            self.policy.value = fresh

        return apply


def stored_credentials(upstream: UpstreamSettings) -> CredentialSource:
    """Return the source of the proxy's own credentials for an upstream."""
    options, registry = upstream.options, upstream.registry
    return credential_source(
        options.credentials,
        registry=registry.registry,
        authfile=options.authfile,
        written=registry.address,
        lasting=True,
    )


def check_credentials(upstream: UpstreamSettings) -> None:
    """Check the files of the proxy's own credentials for an upstream.

    Raises:
        CredentialsError: one cannot be used.
    """
    source = stored_credentials(upstream)
    if isinstance(source, StoredCredentials):
        source.read_files(upstream.registry.registry)


def check_settings(settings: ProxySettings) -> list[str]:
    """Read all files that the settings name, and return lines that say what was found.

    Raises:
        InvalidInputError: a setting or a file is invalid.
        CredentialsError: a file of the proxy's own credentials is.
    """
    policy, callers = _policy(settings), _callers(settings)
    check_certificate(settings.tls_cert, settings.tls_key)
    settings.callers_url()
    if settings.spool is not None:
        check_spool(settings.spool)
    if settings.events_secret is not None:
        WebhookSecrets.read(settings.events_secret)
    upstreams = settings.upstream_list(policy)
    for upstream in upstreams:
        make_client(upstream.options, registry=Origin.of(upstream.url))  # reads the files of certificates
        if settings.auth == "service":
            check_credentials(upstream)
    lines = [f"upstream {upstream.name}: {upstream.url}" for upstream in upstreams]
    if settings.auth == "service":
        names = sorted({*callers.passwords, *callers.tokens.values()})
        lines.append(f"callers: {', '.join(names) or 'anybody on this machine'}")
        known = {name for rule in policy.rules for name in (rule.pushers or set()) | (rule.readers or set())}
        lines += [f"warning: a rule names {name}, which is no caller" for name in sorted(known - set(names))]
    lines += [
        f"rule {number}: {', '.join(rule.repositories)}" for number, rule in enumerate(policy.rules, start=1)
    ]
    return [*lines, "ok"]


def _policy(settings: ProxySettings) -> Policy:
    policy = Policy() if settings.policy is None else read_policy(settings.policy)
    if policy.names_callers and settings.auth != "service":
        raise InvalidInputError(
            f"{settings.policy}: rules with pushers or readers need --auth service: with --auth client the "
            "registry alone knows the callers"
        )
    if policy.names_callers and settings.page == "names":
        raise InvalidInputError(
            f"{settings.policy}: its rules keep repositories from callers, and --page names would show them the "
            "names: omit --page names"
        )
    return policy


def _callers(settings: ProxySettings) -> AllowedCallers:
    if settings.auth != "service":
        return AllowedCallers()
    callers = AllowedCallers.read(settings.htpasswd, settings.tokens)
    if callers.permits_everyone and not is_loopback(settings.host):
        raise InvalidInputError(
            f"--auth service on {settings.host} would lend the proxy's rights to anybody: give --htpasswd or "
            "--tokens, or listen on 127.0.0.1"
        )
    return callers
