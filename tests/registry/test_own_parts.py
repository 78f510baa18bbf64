"""A program's own parts of httpx and ssl in ClientOptions."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tenacity

import crossmount
from crossmount import ClientOptions, Digest, InvalidInputError
from crossmount._arguments import kind_of
from crossmount.registry.http.certificates import TrustStore
from crossmount.registry.http.location import Origin
from crossmount.registry.http.outbound_proxy import ProxyRules
from crossmount.testing import running_registry
from crossmount.testing.faults import Fault, Reply
from crossmount.transfer.registries import Registries

LAYER = Digest.of(b"layer")


class Through(httpx.AsyncBaseTransport):
    """A transport that counts its requests, and has nothing."""

    sent = 0
    closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Count a request, and answer it."""
        self.sent += 1
        return httpx.Response(404, request=request)

    async def aclose(self) -> None:
        """Note the end."""
        self.closed = True


def test_a_transport_of_httpx_sends_all_requests_and_stays_open() -> None:
    """The blocking flavour sends through a given transport, and leaves it open."""
    transport = Through()
    options = ClientOptions(transport=transport)
    for _ in range(2):
        with crossmount.RegistryClient("r.example", options=options) as client:
            assert client.head_blob("r.example/a", LAYER) is None
    assert (transport.sent, transport.closed) == (2, False)


async def test_a_registry_that_only_the_index_names_gets_no_own_parts() -> None:
    """A TLS context that trusts anything, and a transport, are for registries that the user named."""
    context = ssl._create_unverified_context()  # noqa: S323 the point of it
    async with Registries(ClientOptions(ssl_context=context, transport=Through())) as registries:
        registries.name("named.example")
        for name, given in (("named.example", True), ("unknown.example", False)):
            client = registries.client(crossmount.Repository(name, "a"))
            assert (client._options.ssl_context is context) is given
            assert (client._options.transport is not None) is given


def test_a_tls_context_is_for_the_registry_itself() -> None:
    """The context is used as it is for the registry; other hosts are not shown its client certificate."""
    context = ssl.create_default_context()
    trust = TrustStore(ClientOptions(ssl_context=context), Origin("https", "r.example", 443), places=())
    assert trust.context(for_registry=True) is context
    assert trust.context(for_registry=False) is not context


def test_a_proxy_is_for_everything_but_this_machine() -> None:
    """A given proxy replaces those of the environment."""
    rules = ProxyRules.through("http://proxy.example:3128")
    assert str(rules.proxy_for(httpx.URL("https://r.example/v2/"))) == "http://proxy.example:3128"
    assert rules.proxy_for(httpx.URL("http://127.0.0.1:5000/v2/")) is None
    with pytest.raises(InvalidInputError, match=r"^proxy"):
        ProxyRules.through("ftp://proxy.example")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("transport", each) for each in (httpx.HTTPTransport(), 7)),
        *(("ssl_context", each) for each in ("ca.pem", True)),
        *(("proxy", each) for each in (7, ["http://p"])),
        *(("retry", each) for each in (3, None, tenacity.stop_after_attempt(3))),
        *(("timeout", each) for each in (3, (1.0, 2.0))),
    ],
)
def test_the_error_for_a_wrong_kind_says_what_to_give(name: str, given: Any) -> None:
    """A part of a wrong kind is refused by its name and its kind."""
    with pytest.raises(InvalidInputError, match=f"^{name}: {kind_of(given)}: give"):
        replace(ClientOptions(), **{name: given})


@pytest.mark.parametrize("kind", [tenacity.Retrying, tenacity.AsyncRetrying])
def test_a_retry_object_of_tenacity_says_how_often_and_how_long(
    kind: type[tenacity.Retrying] | type[tenacity.AsyncRetrying],
) -> None:
    """Its strategies stop and wait are used; which failures are worth another attempt is decided here."""
    waits: list[float] = []

    def observe(event: crossmount.events.Event) -> None:
        if isinstance(event, crossmount.Retrying):
            waits.append(event.wait)

    retry = kind(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_incrementing(start=0.01, increment=0.01))
    with running_registry(faults=[Fault(action=Reply(status=503), method="HEAD", times=None)]) as registry:
        options = ClientOptions(plain_http=True, retry=retry)
        with (
            crossmount.RegistryClient(registry.address, options=options, observer=observe) as client,
            pytest.raises(crossmount.RegistryRefusedError),
        ):
            client.head_blob(f"{registry.address}/a", LAYER)
        assert len(registry.matching(method="HEAD")) == 3
        assert waits == [0.01, 0.02]
        registry.clear_script()
        registry.play(Fault(action=Reply(status=400), method="HEAD"))
        with (
            crossmount.RegistryClient(registry.address, options=options) as client,
            pytest.raises(crossmount.RegistryRefusedError),
        ):
            client.head_blob(f"{registry.address}/a", LAYER)
        assert len(registry.matching(method="HEAD")) == 4


def test_time_outs_of_httpx_are_taken() -> None:
    """An httpx.Timeout stands for connect_timeout and read_timeout; None in it sets no limit."""
    options = ClientOptions(timeout=httpx.Timeout(3.0, connect=1.0))
    assert (options.connect_timeout, options.read_timeout) == (1.0, 3.0)
    assert ClientOptions(timeout=httpx.Timeout(None)).read_timeout == float("inf")
    assert replace(options, read_timeout=7.0).connect_timeout == 1.0


def test_a_proxy_of_httpx_is_taken() -> None:
    """A proxy is a URL, as text or of httpx, or an httpx.Proxy with a login; one with headers is refused."""
    wanted = "http://ann:wo%2Frd@p.example:3128"
    for given in (wanted, httpx.URL(wanted), httpx.Proxy("http://p.example:3128", auth=("ann", "wo/rd"))):
        assert ClientOptions(proxy=given).proxy == wanted
        assert "rd@" not in repr(ClientOptions(proxy=given))
    assert ClientOptions(proxy=httpx.Proxy("http://p.example")).proxy == "http://p.example"
    with pytest.raises(InvalidInputError, match=r"^proxy: an httpx\.Proxy with headers"):
        ClientOptions(proxy=httpx.Proxy("http://p.example", headers={"a": "b"}))


def test_a_context_stands_alone() -> None:
    """A context beside options that would change it is refused."""
    with pytest.raises(InvalidInputError, match="alone"):
        ClientOptions(ssl_context=ssl.create_default_context(), insecure=True)


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        *((ClientOptions, name, "5") for name in ("rate", "chunk_size", "commit_timeout", "connect_timeout")),
        (ClientOptions, "read_timeout", None),
        (ClientOptions, "max_connections", 0),
        *((crossmount.RetryPolicy, "attempts", given) for given in (0, "3", 2.5)),
        *((crossmount.RetryPolicy, "timeout", given) for given in (-1, "3", True)),
        *((crossmount.Limits, "uploads", given) for given in (0, "4", None)),
    ],
)
def test_a_number_that_is_none_is_refused_by_its_name(kind: Any, name: str, given: Any) -> None:
    """A number as text, or out of its range, is refused at once and not in the middle of a push."""
    with pytest.raises(InvalidInputError, match=f"^{name}: {given!r}: give"):
        kind(**{name: given})


def test_files_are_paths_or_text() -> None:
    """The path of a file may be text."""
    assert ClientOptions(ca_file="/x.pem").ca_file == Path("/x.pem")  # type: ignore[arg-type]  # a text


def test_a_cache_is_no_path() -> None:
    """A folder in the place of a cache is refused with what to give."""
    with pytest.raises(InvalidInputError, match=r"^cache: a str: give a crossmount\.BlobCache"):
        crossmount.copy("r.example/a:1", "s.example/a:1", cache="/x")  # type: ignore[arg-type]  # the point
