"""Logging in to servers: user name and password from a URL, from files that it names, or from a provider."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from crossmount.errors import InvalidIndexURLError, InvalidInputError
from crossmount.redis.address import Login
from crossmount.redis.call import current_call

Credentials = tuple[str] | tuple[str, str]

_SECRETS_MAX = 8
_FILE_MAX = 64 * 1024


class Secrets:
    """The passwords that were used lately. A server may repeat one in a reply; our messages never do."""

    def __init__(self, *words: str) -> None:
        self._words = tuple(word for word in words if word)

    def add(self, word: object) -> None:
        """Add a password, in place of the oldest; a user's provider may return one that is no text."""
        text = word.decode(errors="replace") if isinstance(word, bytes) else str(word or "")
        if text and text not in self._words:
            self._words = (*self._words, text)[-_SECRETS_MAX:]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)


class LoginProvider(CredentialProvider):
    """The login of a URL. Its files are read for each connection, so a password can be changed while we run."""

    def __init__(self, login: Login, secrets: Secrets) -> None:
        self._login = login
        self._secrets = secrets

    def get_credentials(self) -> Credentials:
        """Return the name, if there is one, and the password."""
        try:
            name, password = read(self._login)
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"a file of the index URL's login cannot be read: {reason(error)}") from None
        self._secrets.add(password)
        return (name, password) if name else (password,)


class UserProvider(CredentialProvider):
    """A user's own credential provider. Its errors count as a refused login."""

    def __init__(self, provider: CredentialProvider, secrets: Secrets) -> None:
        self._provider = provider
        self._secrets = secrets

    def get_credentials(self) -> Credentials:
        """Return the credentials of the provider.

        Where an event loop waits for the call, an asynchronous provider runs on that loop.
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


def credential_provider(
    login: Login, secrets: Secrets, given: CredentialProvider | None = None
) -> CredentialProvider | None:
    """Return the provider that redis-py asks for each connection's login; None without a login.

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
        return UserProvider(given, secrets)
    if not login.given:
        return None
    try:
        _, password = read(login)
    except (OSError, ValueError) as error:
        raise InvalidIndexURLError(f"the index URL's {_files(login)} cannot be read: {reason(error)}") from None
    secrets.add(password)
    return LoginProvider(login, secrets)


def _files(login: Login) -> str:
    files = {"username_file": login.username_file, "password_file": login.password_file}
    return " or ".join(name for name, path in files.items() if path is not None)


def read(login: Login) -> tuple[str, str]:
    """Return name and password.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is empty, too large, or not a text.
    """
    name = login.username if login.username_file is None else _content(login.username_file)
    return name, login.password if login.password_file is None else _content(login.password_file)


def _content(path: Path) -> str:
    with open_regular_file(path) as file:
        content = file.read(_FILE_MAX + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it holds no text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(content) > _FILE_MAX:
        raise ValueError("it is empty" if not text else "it is too large")
    return text


async def _coroutine(provider: CredentialProvider) -> Credentials:
    return await provider.get_credentials_async()


def _failed(error: Exception) -> AuthenticationError:
    return AuthenticationError(f"the credential provider failed with {type(error).__name__}")


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file that the URL names; it must be one that can be read again for each new connection.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe, a device or the like.
    """
    # O_NONBLOCK, since opening a pipe would wait for a writer without end
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no file that can be read again")
    return file


def reason(error: OSError | ValueError) -> str:
    """Return the reason of an error without the path: in a URL with a mistake it could be the password."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
