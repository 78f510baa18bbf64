"""Credentials in memory: every way to a registry takes them, and only their own registry gets them."""

from pathlib import Path
from typing import Any

import pytest

import crossmount
from crossmount import ClientOptions, Credential, InvalidInputError
from crossmount import asyncio as aio
from crossmount.testing import BasicAuth, RegistryOptions, TokenAuth, running_registry
from support.images import make_layers, make_layout

WORD = "hush-hush"
USERS = {"ann": WORD}


@pytest.mark.parametrize("auth", [BasicAuth(users=USERS), TokenAuth(users=USERS)])
@pytest.mark.parametrize("given", [("ann", WORD), Credential("ann", WORD)])
def test_a_push_logs_in_with_what_it_is_given(tmp_path: Path, auth: Any, given: Any) -> None:
    """A pair or a credential in the options is the login of a push, blocking as async, and of a client."""
    image = make_layout(tmp_path / "image", make_layers(2, size=100))
    options = ClientOptions(plain_http=True, credentials=given)
    with running_registry(RegistryOptions(auth=auth)) as registry:
        report = crossmount.push(str(image.path), f"{registry.address}/a:1", options=options)
        assert report.count("uploaded") == 3
        with crossmount.RegistryClient(registry.address, options=options) as client:
            assert client.head_manifest(report.reference) is not None
        with crossmount.RegistryClient(
            registry.address, options=ClientOptions(plain_http=True), credentials=given
        ) as client:
            assert client.head_manifest(report.reference) is not None
        copied = crossmount.copy(f"{registry.address}/a:1", f"{registry.address}/b", options=options)
        assert copied.failures == ()


async def test_the_asynchronous_flavour_takes_the_same() -> None:
    """A mapping by registry is a login for the registry that it names, and no other."""
    with running_registry(RegistryOptions(auth=BasicAuth(users=USERS))) as registry:
        options = ClientOptions(plain_http=True, credentials={registry.address: ("ann", WORD)})
        async with aio.RegistryClient(registry.address, options=options) as client:
            assert [tag async for tag in client.catalog()] == []
        other = ClientOptions(plain_http=True, credentials={"other.example": ("ann", WORD)})
        async with aio.RegistryClient(registry.address, options=other) as client:
            with pytest.raises(crossmount.AccessDeniedError):
                [tag async for tag in client.catalog()]


def test_credentials_that_could_be_for_two_registries_are_refused() -> None:
    """A copy between two registries asks whose the credentials are before anything is sent."""
    with running_registry() as one, running_registry() as two:
        options = ClientOptions(plain_http=True, credentials=("ann", WORD))
        with pytest.raises(crossmount.CrossmountError, match="give a mapping by registry") as caught:
            crossmount.copy(f"{one.address}/a:1", f"{two.address}/a", options=options)
        assert WORD not in str(caught.value)
        assert not [*one.requests, *two.requests]
        with pytest.raises(InvalidInputError, match="for which registry"):
            crossmount.prune(crossmount.MemoryMountIndex(), options=options)


def test_a_registry_that_only_the_index_names_gets_no_given_credentials(tmp_path: Path) -> None:
    """A registry that the index names, and that asks for a login, is not shown the one for the destination."""
    image = make_layout(tmp_path / "image", make_layers(1, size=100))
    index = crossmount.MemoryMountIndex()
    closed = RegistryOptions(auth=BasicAuth(users=USERS))
    options = ClientOptions(plain_http=True, credentials=("ann", WORD))
    with running_registry(closed) as origin, running_registry(closed) as dest:
        crossmount.push(str(image.path), f"{origin.address}/a:1", index=index, options=options)
        for blob in image.layers:
            (image.path / "blobs/sha256" / blob.digest.encoded).unlink()
        before = len(origin.requests)
        with pytest.raises(crossmount.CrossmountError):
            crossmount.push(str(image.path), f"{dest.address}/a:1", index=index, options=options)
        assert len(origin.requests) > before
        assert {request.auth_scheme for request in origin.requests[before:]} == {""}


@pytest.mark.parametrize("given", ["ann:hush-hush", 7, ("ann",), ("ann", 7), ("ann", ""), {7: ("a", "b")}, b"x"])
def test_what_is_no_credential_is_refused(given: Any) -> None:
    """Anything else is refused with what to give, and never repeated."""
    with pytest.raises(InvalidInputError, match="give") as caught:
        ClientOptions(credentials=given)
    assert WORD not in str(caught.value)
    with pytest.raises(InvalidInputError):
        aio.RegistryClient("localhost:1", credentials=given)


def test_no_text_of_the_options_has_the_password() -> None:
    """The options' repr does not show credentials, and options stay hashable."""
    options = ClientOptions(credentials={"a.example": ("ann", WORD)})
    assert WORD not in repr(options)
    assert hash(options)
