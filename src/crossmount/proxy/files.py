"""The files that a proxy's settings name: read, and checked before a start."""

from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.oci.reference import is_loopback
from crossmount.proxy.auth.service_mode import AllowedCallers
from crossmount.proxy.http.serving import check_certificate
from crossmount.proxy.policy import Policy, read_policy
from crossmount.proxy.settings import ProxySettings, UpstreamSettings
from crossmount.proxy.uploads.spool import check_spool
from crossmount.registry.credentials.given import credential_source
from crossmount.registry.credentials.lookup import CredentialSource, StoredCredentials
from crossmount.registry.http.location import Origin
from crossmount.registry.http.transport import make_client


def policy_of(settings: ProxySettings) -> Policy:
    """Read the policy.

    Raises:
        InvalidInputError: it is invalid, or another setting contradicts it.
    """
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


def callers_of(settings: ProxySettings) -> AllowedCallers:
    """Read the callers.

    Raises:
        InvalidInputError: a file is invalid, or anybody could use the proxy's rights.
    """
    if settings.auth != "service":
        return AllowedCallers()
    callers = AllowedCallers.read(settings.htpasswd, settings.tokens)
    if callers.permits_everyone and not is_loopback(settings.host):
        raise InvalidInputError(
            f"--auth service on {settings.host} would lend the proxy's rights to anybody: give --htpasswd or "
            "--tokens, or listen on 127.0.0.1"
        )
    return callers


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
    policy, callers = policy_of(settings), callers_of(settings)
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
