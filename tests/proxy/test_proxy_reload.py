"""The proxy reads its files again while it runs: all of them count anew, or none."""

import asyncio
import base64
import json
import ssl
from pathlib import Path

import bcrypt
import httpx
import pytest

from crossmount.proxy.reload import Live, Reloader
from crossmount.registry import ClientOptions
from crossmount.testing import BasicAuth, RegistryOptions, ScriptedRegistry
from support.certificates import self_signed
from support.proxies import proxy_before
from support.waiting import until


def write_callers(file: Path, *names: str) -> None:
    """Write a file of callers; the password of each is its name with `-pw`."""
    lines = [f"{name}:{bcrypt.hashpw(f'{name}-pw'.encode(), bcrypt.gensalt(4)).decode()}\n" for name in names]
    file.write_text("".join(lines))


async def test_callers_count_anew_after_a_reload(tmp_path: Path) -> None:
    """A removed caller is out at the next request, even if its password was verified; an added one is let in."""
    htpasswd, tokens = tmp_path / "htpasswd", tmp_path / "tokens"
    write_callers(htpasswd, "ann", "bob")
    tokens.write_text("ci:old-token-of-24-characters\n")
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, auth="service", htpasswd=htpasswd, tokens=tokens) as proxy,
    ):

        async def statuses() -> list[int]:
            logins = [("ann", "ann-pw"), ("bob", "bob-pw"), ("cay", "cay-pw")]
            answers = [await proxy.client.get("/v2/", auth=login) for login in logins]
            for token in ("old", "new"):
                headers = {"Authorization": f"Bearer {token}-token-of-24-characters"}
                answers.append(await proxy.client.get("/v2/", headers=headers))
            return [answer.status_code for answer in answers]

        assert await statuses() == [200, 200, 401, 200, 401]
        write_callers(htpasswd, "ann", "cay")
        tokens.write_text("ci:new-token-of-24-characters\n")
        assert proxy.running.reloader.reload()
        assert await statuses() == [200, 401, 200, 401, 200]


async def test_an_invalid_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If one file is invalid, none of the files counts anew, and the log names the file."""
    htpasswd, tokens = tmp_path / "htpasswd", tmp_path / "tokens"
    write_callers(htpasswd, "ann")
    tokens.write_text("ci:a-token-of-24-characters\n")
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, auth="service", htpasswd=htpasswd, tokens=tokens, policy=policy) as proxy,
    ):
        write_callers(htpasswd, "bob")
        elsewhere = '[[rule]]\nrepositories = ["*"]\nupstream = "none"\npushers = []\n'
        for file, wrong in ((policy, "rules = 1"), (policy, elsewhere), (tokens, "ci:short\n")):
            right = file.read_text()
            file.write_text(wrong)
            caplog.clear()
            assert not proxy.running.reloader.reload()
            assert str(file) in caplog.text
            assert (await proxy.client.get("/v2/", auth=("ann", "ann-pw"))).status_code == 200
            assert (await proxy.client.get("/v2/", auth=("bob", "bob-pw"))).status_code == 401
            file.write_text(right)
        assert proxy.running.reloader.reload()
        assert (await proxy.client.get("/v2/", auth=("bob", "bob-pw"))).status_code == 200


async def test_the_proxys_own_credentials_are_read_again(tmp_path: Path) -> None:
    """A rotated password of the proxy's own counts after a reload."""
    auth = tmp_path / "auth.json"

    def store(address: str, password: str) -> None:
        login = base64.b64encode(f"ann:{password}".encode()).decode()
        auth.write_text(json.dumps({"auths": {address: {"auth": login}}}))

    async with ScriptedRegistry(RegistryOptions(auth=BasicAuth(users={"ann": "new"}))) as registry:
        store(registry.address, "old")
        async with proxy_before(registry.url, auth="service", options=ClientOptions(authfile=auth)) as proxy:
            assert (await proxy.client.post("/v2/a/blobs/uploads/")).status_code == 403
            store(registry.address, "new")
            assert proxy.running.reloader.reload()
            assert (await proxy.client.post("/v2/a/blobs/uploads/")).status_code == 202


@pytest.mark.parametrize("wrong", ["no JSON", '{"auths": 3}', None], ids=["junk", "shape", "gone"])
async def test_credentials_that_cannot_be_read_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str | None
) -> None:
    """If the file of the proxy's own credentials is invalid, those read before stay in use, and callers too."""
    auth, tokens = tmp_path / "auth.json", tmp_path / "tokens"
    tokens.write_text("ci:a-token-of-24-characters\n")
    headers = {"Authorization": "Bearer a-token-of-24-characters"}
    async with ScriptedRegistry(RegistryOptions(auth=BasicAuth(users={"ann": "word"}))) as registry:
        login = base64.b64encode(b"ann:word").decode()
        auth.write_text(json.dumps({"auths": {registry.address: {"auth": login}}}))
        async with proxy_before(
            registry.url, auth="service", tokens=tokens, options=ClientOptions(authfile=auth)
        ) as proxy:

            async def status(name: str) -> int:
                return (await proxy.client.post(f"/v2/{name}/blobs/uploads/", headers=headers)).status_code

            assert await status("a") == 202
            auth.unlink() if wrong is None else auth.write_text(wrong)
            assert await status("b") == 202, "no file counts before a reload"
            tokens.write_text("ci:another-token-of-24-letters\n")
            assert not proxy.running.reloader.reload()
            assert str(auth) in caplog.text
            assert [await status(name) for name in "abc"] == [202, 202, 202]


async def test_an_upstreams_own_credentials_are_watched(tmp_path: Path) -> None:
    """The file of credentials that the policy names for an upstream is read again when it changes."""
    auth, policy = tmp_path / "auth.json", tmp_path / "policy.toml"
    auth.write_text('{"auths": {}}')
    async with ScriptedRegistry() as registry:
        policy.write_text(f'[[upstream]]\nurl = "{registry.url}"\nname = "lab"\nauthfile = "auth.json"\n')
        async with proxy_before("http://127.0.0.1:1", auth="service", policy=policy) as proxy:
            before = proxy.running.reloader.signatures()
            auth.write_text('{"auths": {"r.example": {}}}')
            assert proxy.running.reloader.signatures() != before


async def test_a_renewed_certificate_is_shown(tmp_path: Path) -> None:
    """New connections are shown the new certificate after a reload; a key that does not fit changes nothing."""
    certificates = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _, made = self_signed(tmp_path / name)
        certificates.append((made, tmp_path / name / "key.pem"))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def use(number: int) -> bytes:
        cert.write_bytes(certificates[number][0].read_bytes())
        key.write_bytes(certificates[number][1].read_bytes())
        return ssl.PEM_cert_to_DER_cert(cert.read_text())

    first = use(0)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, tls_cert=cert, tls_key=key) as proxy:

        async def shown() -> bytes:
            found = await asyncio.to_thread(ssl.get_server_certificate, proxy.address)
            return ssl.PEM_cert_to_DER_cert(found)

        assert await shown() == first
        cert.write_bytes(certificates[1][0].read_bytes())
        assert not proxy.running.reloader.reload()
        assert await shown() == first
        second = use(1)
        assert proxy.running.reloader.reload()
        assert await shown() == second != first


async def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    """A file that is replaced counts without a signal; one that cannot be found changes nothing."""
    file = tmp_path / "words"
    file.write_text("one")
    live = Live(file.read_text)
    reloader = Reloader([file, None], [live.prepare])
    watching = asyncio.create_task(reloader.watch(0.01))
    new = tmp_path / "new"
    new.write_text("another")
    new.replace(file)
    await until(lambda: live.value == "another")
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_upstreams_stay_as_they_were_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A policy whose upstreams changed is refused on a reload, which says that a restart is needed."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[upstream]]\nurl = "http://127.0.0.1:2"\n')
    async with ScriptedRegistry() as registry, proxy_before(registry.url, policy=policy) as proxy:
        policy.write_text('[[upstream]]\nurl = "http://127.0.0.1:3"\n')
        assert not proxy.running.reloader.reload()
        assert "restart the proxy" in caplog.text


async def test_secrets_of_events_count_anew(tmp_path: Path) -> None:
    """After a reload a new secret of events is accepted, and the old one is not."""
    secret = tmp_path / "secret"
    secret.write_text("the-first-secret-of-events\n")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, events_secret=secret) as proxy:

        async def status(word: str) -> int:
            headers = {"Authorization": f"Bearer the-{word}-secret-of-events"}
            answer: httpx.Response = await proxy.client.post(
                "/_crossmount/events", headers=headers, content=b'{"events": []}'
            )
            return answer.status_code

        assert (await status("first"), await status("second")) == (202, 401)
        secret.write_text("the-second-secret-of-events\n")
        assert proxy.running.reloader.reload()
        assert (await status("first"), await status("second")) == (401, 202)
