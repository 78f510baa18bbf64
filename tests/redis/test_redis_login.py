"""Logins from URLs, files and credential providers, and their errors."""

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

import redis
from crossmount._blocking import run_now
from crossmount.errors import IndexFailedError, IndexRefusedError
from crossmount.index import open_index
from crossmount.index.blocking import open_index as open_blocking
from crossmount.redis.link import Link
from crossmount.redis.replies import Command
from support.index_kit import layer, repo
from support.links import async_link, blocking_link
from support.servers import Server, StartServer

PING: list[Command] = [("PING",)]
SECRET = "hunter2 sécret"

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


@pytest.fixture
def locked(start_server: StartServer) -> Server:
    """Start a server on which only the user `ci` can log in, with SECRET."""
    server = start_server()
    with server.client() as client:
        client.execute_command("ACL SETUSER", "ci", "on", f">{SECRET}", "~*", "+@all")
        client.execute_command("ACL SETUSER", "default", "off")
    return server


def place(server: Server) -> str:
    """Return where it listens."""
    return f"127.0.0.1:{server.port}"


class Asked:
    """A link in one of the flavours."""

    def __init__(self, url: str, flavour: str, provider: redis.CredentialProvider | None = None) -> None:
        self._flavour = flavour
        connect = async_link if flavour == "async" else blocking_link
        self.link: Link = connect(url, credentials=provider)

    async def run(self) -> list[object]:
        """Send a PING."""
        return await self.link.run(PING) if self._flavour == "async" else run_now(self.link.run(PING))

    async def error(self) -> IndexFailedError:
        """Return the error, after a check that neither it nor a cause of it contains the secret."""
        with pytest.raises(IndexFailedError) as caught:
            await self.run()
        await self.link.aclose()
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in str(error)
            error = error.__cause__
        return caught.value


@both
async def test_a_password_file_is_read_for_each_connection(locked: Server, flavour: str, tmp_path: Path) -> None:
    """A new password in the file is used from the next connection on; a missing file is an error."""
    word = tmp_path / "password"
    word.write_text(f"{SECRET}\n")
    asked = Asked(f"redis://ci@{place(locked)}?password_file={word}", flavour)
    assert await asked.run() == [True]
    with redis.Redis(port=locked.port, username="ci", password=SECRET) as client:
        client.execute_command("ACL SETUSER", "ci", "resetpass", ">another")
        word.write_text("another")
        client.client_kill_filter(_type="normal", skipme=True)
    assert await asked.run() == [True]
    word.unlink()
    with redis.Redis(port=locked.port, username="ci", password="another") as client:
        client.client_kill_filter(_type="normal", skipme=True)
    error = await asked.error()
    assert isinstance(error, IndexRefusedError)
    assert "cannot be read: No such file" in str(error)


@both
async def test_a_name_in_a_file(locked: Server, flavour: str, tmp_path: Path) -> None:
    """User name and password may each be in a file, whose final line end does not count."""
    name, word = tmp_path / "name", tmp_path / "word"
    name.write_text("ci\r\n")
    word.write_text(SECRET)
    asked = Asked(f"redis://{place(locked)}?username_file={name}&password_file={word}", flavour)
    assert await asked.run() == [True]
    await asked.link.aclose()


@both
@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 70_000, b"\n"])
async def test_a_file_that_holds_no_password(locked: Server, flavour: str, tmp_path: Path, content: bytes) -> None:
    """A file that is binary, too long or empty is an error of the URL, and a refusal if it becomes so later."""
    word = tmp_path / "word"
    word.write_bytes(SECRET.encode())
    url = f"redis://ci@{place(locked)}?password_file={word}"
    asked = Asked(url, flavour)
    word.write_bytes(content)
    assert isinstance(await asked.error(), IndexRefusedError)
    with pytest.raises(ValueError, match=r"cannot be read: it (holds no text|is too large|is empty)"):
        Asked(url, flavour)


class Provider(redis.CredentialProvider):
    """A user's own provider."""

    def __init__(self, *credentials: str, error: Exception | None = None) -> None:
        self.credentials = credentials
        self.error = error
        self.calls = 0

    def get_credentials(self) -> tuple[str, str]:
        """Return its credentials."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        name, word = self.credentials
        return name, word


class AsyncProvider(Provider):
    """An asynchronous provider."""

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return its credentials."""
        await asyncio.sleep(0)
        return self.get_credentials()


@both
@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
async def test_a_credential_provider_logs_in(locked: Server, flavour: str, kind: type[Provider]) -> None:
    """A credential provider, asynchronous or not, is asked once for each connection in both flavours."""
    provider = kind("ci", SECRET)
    asked = Asked(f"redis://{place(locked)}", flavour, provider)
    assert await asked.run() == [True]
    assert provider.calls == 1
    await asked.link.aclose()


@both
@pytest.mark.parametrize("kind", [Provider, AsyncProvider])
async def test_a_provider_that_fails_is_a_login_that_is_refused(
    locked: Server, flavour: str, kind: type[Provider]
) -> None:
    """Any exception of a provider is a refused login, and so an index error."""
    asked = Asked(f"redis://{place(locked)}", flavour, kind(error=KeyError("token")))
    error = await asked.error()
    assert isinstance(error, IndexRefusedError)
    assert "provider failed with KeyError" in str(error)
    assert isinstance(await Asked(f"redis://{place(locked)}", flavour, kind("ci")).error(), IndexRefusedError)


@both
@pytest.mark.parametrize("word", [b"a password in bytes", 7, None])
async def test_a_provider_that_returns_anything_is_a_login_that_is_refused(
    locked: Server, flavour: str, word: object
) -> None:
    """A provider that returns a password of another type leads to a refusal."""
    provider = Provider("ci", cast("str", word))
    error = await Asked(f"redis://{place(locked)}", flavour, provider).error()
    assert isinstance(error, IndexRefusedError)


@both
async def test_a_password_file_that_cannot_be_read_again(locked: Server, flavour: str, tmp_path: Path) -> None:
    """A pipe in place of a password file is an error, first and later; it is never waited for."""
    word = tmp_path / "word"
    url = f"redis://ci@{place(locked)}?password_file={word}"
    word.write_text(SECRET)
    asked = Asked(url, flavour)
    word.unlink()
    os.mkfifo(word)
    assert "no file that can be read again" in str(await asked.error())
    with pytest.raises(ValueError, match="no file that can be read again"):
        Asked(url, flavour)


@both
async def test_a_wrong_password_is_a_refusal(locked: Server, flavour: str) -> None:
    """A wrong login from a URL, a provider or nowhere is a refusal in the server's words, without the password."""
    for asked in (
        Asked(f"redis://ci:hunter2%20s%C3%A9cret!@{place(locked)}", flavour),
        Asked(f"redis://{place(locked)}?username=ci&password=wrong", flavour),
        Asked(f"redis://{place(locked)}", flavour, Provider("ci", f"{SECRET}!")),
        Asked(f"redis://{place(locked)}", flavour),
    ):
        assert isinstance(await asked.error(), IndexRefusedError)


async def test_open_index_takes_a_provider(locked: Server) -> None:
    """`open_index` takes a provider in both flavours."""
    provider = Provider("ci", SECRET)
    async with open_index(f"redis://{place(locked)}", credentials=provider) as index:
        await index.add_source(layer(), repo("a"))
    with open_blocking(f"redis://{place(locked)}", credentials=provider) as same:
        assert same.sources(layer(), repo("b")) == (repo("a"),)
