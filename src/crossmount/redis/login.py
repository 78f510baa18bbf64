"""Logging in to an index's servers: where name and password come from, and never a word of them in a message."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from crossmount.errors import InvalidIndexURLError, InvalidInputError
from crossmount.redis.address import Login
from crossmount.redis.call import current_call
from crossmount.redis.files import open_again, why

Credentials = tuple[str] | tuple[str, str]

_KEPT = 8
_FILE_MAX = 64 * 1024


class Secrets:
    """The passwords used lately: a server may repeat one in an answer, and we never do."""

    def __init__(self, *words: str) -> None:
        self._words = tuple(word for word in words if word)

    def add(self, word: object) -> None:
        """Take in one more, in place of the oldest; a provider of another's making may return what is no text."""
        text = word.decode(errors="replace") if isinstance(word, bytes) else str(word or "")
        if text and text not in self._words:
            self._words = (*self._words, text)[-_KEPT:]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)


class FromLogin(CredentialProvider):
    """What a URL says; files are read for each connection, so that a password can be changed under a process."""

    def __init__(self, login: Login, secrets: Secrets) -> None:
        self._login = login
        self._secrets = secrets

    def get_credentials(self) -> Credentials:
        """Return what to log in with."""
        try:
            name, password = read(self._login)
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"a file of the index URL's login cannot be read: {why(error)}") from None
        self._secrets.add(password)
        return (name, password) if name else (password,)


class FromProvider(CredentialProvider):
    """What a credential provider of the caller's own says; its failures are a login that is refused."""

    def __init__(self, provider: CredentialProvider, secrets: Secrets) -> None:
        self._provider = provider
        self._secrets = secrets

    def get_credentials(self) -> Credentials:
        """Return what the provider returns.

        Where an event loop waits for the call, a provider that is asynchronous runs on that loop.
        """
        provider, call = self._provider, current_call()
        try:
            if (
                call is None
                or call.loop is None
                or type(provider).get_credentials_async is CredentialProvider.get_credentials_async
            ):
                return self._seen(provider.get_credentials())
            asked = asyncio.run_coroutine_threadsafe(_coroutine(provider), call.loop)
            try:
                return self._seen(asked.result(call.left))
            finally:
                asked.cancel()  # where it took too long
        except Exception as error:
            raise _failed(error) from error

    def _seen(self, credentials: Credentials) -> Credentials:
        self._secrets.add(credentials[-1])
        return credentials


def provider_of(
    login: Login, secrets: Secrets, given: CredentialProvider | None = None
) -> CredentialProvider | None:
    """Return what redis-py asks for each connection's login; None where there is none.

    Raises:
        InvalidInputError: `given` is no credential provider, or the URL has a login as well.
        InvalidIndexURLError: a file that the URL names cannot be read.
    """
    if given is not None:
        if login.given:
            raise InvalidInputError("the index URL has a login, and a credential provider is given: give one")
        if not isinstance(given, CredentialProvider):
            raise InvalidInputError(
                f"not a credential provider of redis-py: {type(given).__name__}: give a redis.CredentialProvider"
            )
        return FromProvider(given, secrets)
    if not login.given:
        return None
    try:
        _, password = read(login)
    except (OSError, ValueError) as error:
        raise InvalidIndexURLError(f"the index URL's {_files(login)} cannot be read: {why(error)}") from None
    secrets.add(password)
    return FromLogin(login, secrets)


def _files(login: Login) -> str:
    files = {"username_file": login.username_file, "password_file": login.password_file}
    return " or ".join(name for name, path in files.items() if path is not None)


def read(login: Login) -> tuple[str, str]:
    """Return name and password.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds no text, or nothing, or far too much.
    """
    name = login.username if login.username_file is None else _content(login.username_file)
    return name, login.password if login.password_file is None else _content(login.password_file)


def _content(path: Path) -> str:
    with open_again(path) as file:
        held = file.read(_FILE_MAX + 1)
    try:
        text = held.decode()
    except UnicodeDecodeError:
        raise ValueError("it holds no text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(held) > _FILE_MAX:
        raise ValueError("it is empty" if not text else "it is too large")
    return text


async def _coroutine(provider: CredentialProvider) -> Credentials:
    return await provider.get_credentials_async()


def _failed(error: Exception) -> AuthenticationError:
    return AuthenticationError(f"the credential provider failed with {type(error).__name__}")
