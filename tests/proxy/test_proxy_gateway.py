"""Several registries behind one proxy: each request reaches its own, and credentials reach the first alone."""

import asyncio
import json
import logging
from pathlib import Path
from typing import cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossmount.oci import Digest
from crossmount.proxy.app import App
from crossmount.proxy.gateway import Choice, Gateway, choose
from crossmount.proxy.http.exchange import Message, Receive, Send
from crossmount.proxy.http.headers import ClientPaths
from crossmount.testing import BasicAuth, Grant, RegistryOptions, ScriptedRegistry, TokenAuth
from support.clients import Push, skopeo
from support.images import make_layers, make_layout
from support.proxies import begin_upload, proxy_before
from support.wire import answering

NAMES = {"hub": "hub", "docker.io": "hub", "lab": "lab", "127.0.0.1:5001": "lab"}
DATA = b"a layer"
DIGEST = Digest.of(DATA)


@pytest.mark.parametrize(
    ("target", "header", "expected"),
    [
        ("/v2/team/app/tags/list", "", Choice("hub", b"/v2/team/app/tags/list", b"")),
        ("/v2/", "", Choice("hub", b"/v2/", b"")),
        ("/v2/lab", "", Choice("hub", b"/v2/lab", b"")),
        ("/v2/lab/", "", Choice("lab", b"/v2/", b"", ClientPaths(prefix=b"lab/"))),
        ("/v2/LAB/a/tags/list", "", Choice("lab", b"/v2/a/tags/list", b"", ClientPaths(prefix=b"LAB/"))),
        (
            "/v2/127.0.0.1%3A5001/a/tags/list?n=1",
            "",
            Choice("lab", b"/v2/a/tags/list", b"n=1", ClientPaths(prefix=b"127.0.0.1%3A5001/")),
        ),
        (
            "/v2/a/tags/list?ns=docker.io&n=1",
            "",
            Choice("hub", b"/v2/a/tags/list", b"n=1", ClientPaths(namespace="docker.io")),
        ),
        ("/v2/a/tags/list", "lab", Choice("lab", b"/v2/a/tags/list", b"", ClientPaths(namespace="lab"))),
        ("/v2/lab/a?ns=hub", "", Choice("hub", b"/v2/lab/a", b"", ClientPaths(namespace="hub"))),
        ("/v2/a?ns=else", "", Choice(None, b"/v2/a", b"", ClientPaths(namespace="else"))),
        ("/_crossmount/healthz", "", Choice("hub", b"/_crossmount/healthz", b"")),
        ("/_crossmount/token/lab?scope=x", "", Choice("lab", b"/_crossmount/token", b"scope=x")),
        ("/_crossmount/token/else", "", Choice(None, b"/_crossmount/token", b"")),
        ("/_crossmount/metrics/lab", "", Choice("hub", b"/_crossmount/metrics/lab", b"")),
        (
            "/v2/lab/a/blobs/uploads/?mount=sha256:1&from=lab/b",
            "",
            Choice("lab", b"/v2/a/blobs/uploads/", b"mount=sha256:1&from=b", ClientPaths(prefix=b"lab/")),
        ),
        (
            "/v2/lab/a/blobs/uploads/?mount=sha256:1&from=team/b",
            "",
            Choice("lab", b"/v2/a/blobs/uploads/", b"mount=sha256:1", ClientPaths(prefix=b"lab/")),
        ),
    ],
)
def test_the_registry_that_a_request_names(target: str, header: str, expected: Choice) -> None:
    """A request is for the registry of `ns`, of the header, of its first component, else for the first one."""
    path, _, query = target.partition("?")
    assert choose(path.encode(), query.encode(), header=header, names=NAMES, default="hub") == expected


async def test_cookies_reach_the_first_registry_alone() -> None:
    """A cookie that the first registry has set is not sent to another one."""
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append(scope["headers"])

    gateway = Gateway({"hub": cast(App, app), "lab": cast(App, app)}, NAMES)
    headers = [(b"host", b"h"), (b"cookie", b"sid=1"), (b"oci-namespace", b"lab")]
    for own in (headers[:2], headers):
        scope = {"raw_path": b"/v2/", "query_string": b"", "headers": own}
        await gateway(scope, cast(Receive, None), cast(Send, None))
    assert seen == [headers[:2], headers[:1]]


@pytest.mark.parametrize("way", ["path", "ns"])
async def test_an_upload_to_each_registry(way: str, tmp_path: Path) -> None:
    """An upload follows the Locations that it gets, and its blob is in the registry that it names alone."""
    async with (
        ScriptedRegistry() as one,
        ScriptedRegistry() as two,
        proxy_before(one.url, f"lab={two.url}", spool=tmp_path) as proxy,
    ):
        for name, registry in (("", one), ("lab", two)):
            data = f"for {name}".encode()
            digest = Digest.of(data)
            target = f"/v2/{name}/a" if name and way == "path" else "/v2/a"
            query = f"?ns={name}" if name and way == "ns" else ""
            answer = await proxy.client.post(f"{target}/blobs/uploads/{query}")
            location = answer.headers["location"]
            assert location.startswith(target)
            location = (await proxy.client.patch(location, content=data)).headers["location"]
            joint = "&" if "?" in location else "?"
            answer = await proxy.client.put(f"{location}{joint}digest={digest}")
            assert answer.status_code == 201, answer.text
            assert (await proxy.client.get(answer.headers["location"])).content == data
            assert [each.uploads(digest) for each in (one, two)] == [registry is one, registry is two]


async def test_a_layer_is_mounted_within_its_own_registry_alone(tmp_path: Path) -> None:
    """A HEAD mounts from a repository of the registry that it names, never from one of another."""
    async with (
        ScriptedRegistry() as one,
        ScriptedRegistry() as two,
        proxy_before(one.url, f"lab={two.url}", spool=tmp_path) as proxy,
    ):
        digest = one.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        assert (await proxy.client.head(f"/v2/lab/a/blobs/{digest}")).status_code == 404
        assert (await proxy.client.head(f"/v2/a/blobs/{digest}")).status_code == 200
        target = f"/v2/lab/a/blobs/uploads/?mount={digest}&from=base"
        assert (await proxy.client.post(target)).status_code == 202
        assert not two.matching(query="*from=*")


async def test_callers_credentials_reach_the_first_registry_alone() -> None:
    """In client mode a password and a token for the first registry are never sent to another one."""
    users = {"ann": "ann-password"}
    async with (
        ScriptedRegistry(RegistryOptions(auth=BasicAuth(users=users))) as one,
        ScriptedRegistry(RegistryOptions(auth=TokenAuth(users=users))) as two,
        proxy_before(one.url, f"lab={two.url}") as proxy,
    ):
        login = httpx.BasicAuth("ann", "ann-password")
        assert (await proxy.client.head(f"/v2/a/blobs/{DIGEST}", auth=login)).status_code == 404
        assert one.matching(method="HEAD")[-1].auth_scheme == "basic"
        for header in ("Basic YW5uOmFubi1wYXNzd29yZA==", "Bearer cmp_of-another", "Bearer other", "Negotiate x"):
            for target in ("/v2/lab/a/tags/list", "/v2/a/tags/list?ns=lab", "/_crossmount/token/lab?scope=x"):
                await proxy.client.get(target, headers={"Authorization": header})
        form = {"grant_type": "password", "username": "ann", "password": "ann-password", "service": "x"}
        assert (await proxy.client.post("/_crossmount/token/lab", data=form)).status_code == 405
        assert two.matching(path="/v2/a/tags/list")
        assert two.matching(path="/token")
        assert {sent.auth_scheme for sent in two.requests} == {""}


@pytest.mark.parametrize("scope", ["repository:a:pull", "repository:lab/a:pull"])
async def test_anonymous_tokens_of_a_further_registry_work(scope: str) -> None:
    """A client without credentials gets a token of a further registry; its scope may name the registry or not."""
    auth = TokenAuth(anonymous=(Grant("a", frozenset({"pull"})),))
    async with (
        ScriptedRegistry() as one,
        ScriptedRegistry(RegistryOptions(auth=auth)) as two,
        proxy_before(one.url, f"lab={two.url}") as proxy,
    ):
        digest = two.put_blob("a", DATA)
        refused = await proxy.client.head(f"/v2/lab/a/blobs/{digest}")
        assert refused.status_code == 401
        realm = refused.headers["www-authenticate"].partition('realm="')[2].partition('"')[0]
        assert realm == f"{proxy.url}/_crossmount/token/lab"
        token = (await proxy.client.get(realm, params={"scope": scope})).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert (await proxy.client.head(f"/v2/lab/a/blobs/{digest}", headers=headers)).status_code == 200
        assert (await proxy.client.head(f"/v2/a/blobs/{digest}?ns=lab", headers=headers)).status_code == 200


async def test_an_unknown_registry_gives_no_tokens() -> None:
    """Credentials for a registry that this proxy does not have are sent to no other one."""
    async with (
        ScriptedRegistry(RegistryOptions(auth=TokenAuth(users={"ann": "secret"}))) as one,
        ScriptedRegistry() as two,
        proxy_before(one.url, f"lab={two.url}") as proxy,
    ):
        answers = [
            await proxy.client.get(f"/_crossmount/token{name}", auth=("ann", "secret")) for name in ("", "/else")
        ]
        assert [answer.status_code for answer in answers] == [200, 404]


async def test_an_unknown_registry_is_refused() -> None:
    """A request for a registry that is not behind the proxy is answered 404, and sent nowhere."""
    async with ScriptedRegistry() as one, ScriptedRegistry() as two, proxy_before(one.url, two.url) as proxy:
        answer = await proxy.client.get("/v2/a/tags/list?ns=registry.invalid")
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "NAME_UNKNOWN"
        assert not one.matching(path="*/tags/list") + two.matching(path="*/tags/list")


async def test_who_may_not_use_the_proxy_learns_no_names_of_registries(tmp_path: Path) -> None:
    """Without a valid password the answer is the same for a registry that is there and one that is not."""
    file = tmp_path / "tokens"
    file.write_text("ci:a-token-of-24-characters\n")
    async with (
        ScriptedRegistry() as one,
        ScriptedRegistry() as two,
        proxy_before(one.url, f"lab={two.url}", auth="service", tokens=file) as proxy,
    ):
        found = [(await proxy.client.get(f"/v2/a/tags/list?ns={name}")) for name in ("lab", "other")]
        assert [answer.status_code for answer in found] == [401, 401]
        assert found[0].content == found[1].content


async def test_metrics_and_log_name_the_registry(caplog: pytest.LogCaptureFixture) -> None:
    """With several registries each series has the label upstream, and each line of the access log the name."""
    caplog.set_level(logging.INFO, "crossmount.proxy.access")
    async with ScriptedRegistry() as one, ScriptedRegistry() as two:
        async with proxy_before(f"main={one.url}", f"lab={two.url}") as proxy:
            await proxy.client.head(f"/v2/lab/a/blobs/{DIGEST}")
            await proxy.client.head(f"/v2/a/blobs/{DIGEST}")
            page = (await proxy.client.get("/_crossmount/metrics")).text
        counted = {
            sample.labels["upstream"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "crossmount_proxy_requests_total" and sample.labels["route"] == "blob"
        }
        assert counted == {"main": 1.0, "lab": 1.0}
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name.endswith(".access")]
    assert [line["upstream"] for line in lines] == ["lab", "main"]


async def test_the_proxy_is_ready_while_one_registry_answers() -> None:
    """One registry that does not answer does not stop the others' pushes."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, "http://127.0.0.1:1") as proxy:
        assert (await proxy.client.get("/_crossmount/readyz")).status_code == 200
        await begin_upload(proxy, "a")
        assert (await proxy.client.head(f"/v2/127.0.0.1:1/a/blobs/{DIGEST}")).status_code == 502


async def test_skopeo_pushes_to_a_registry_by_its_name(tmp_path: Path) -> None:
    """Skopeo pushes an image to the second registry by a path that begins with its name."""
    image = make_layout(tmp_path / "image", make_layers(2))
    async with (
        ScriptedRegistry() as one,
        ScriptedRegistry() as two,
        proxy_before(one.url, f"lab={two.url}", spool=tmp_path / "spool") as proxy,
    ):
        (tmp_path / "skopeo").mkdir()
        made = Push(image, proxy.url.partition("://")[2], "lab/team/app", tmp_path / "skopeo", "")
        await asyncio.to_thread(skopeo, made)
        assert not one.matching(method="P*")
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{two.url}/v2/team/app/tags/list")
        assert answer.json()["tags"] == ["v1"]


async def test_headers_that_may_be_credentials_reach_the_first_registry_alone() -> None:
    """A cookie and headers of unknown names stay with the first registry; no other sets a cookie."""
    sent = {"Cookie": "session=x", "Private-Token": "x", "X-JFrog-Art-Api": "x", "Accept": "application/json"}
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    seen: list[bytes] = []
    async with (
        answering(answer, seen=seen) as one,
        answering(answer, seen=seen) as two,
        proxy_before(one, f"lab={two}") as proxy,
    ):
        first = await proxy.client.get("/v2/a/tags/list", headers=sent)
        other = await proxy.client.get("/v2/lab/b/tags/list", headers=sent)
    assert ("set-cookie" in first.headers, "set-cookie" in other.headers) == (True, False)
    [to_first] = [request.lower() for request in seen if b"/v2/a/" in request]
    [to_other] = [request.lower() for request in seen if b"/v2/b/" in request]
    for name in (b"cookie:", b"private-token:", b"x-jfrog-art-api:"):
        assert (name in to_first, name in to_other) == (True, False)
    assert b"accept: application/json" in to_other
