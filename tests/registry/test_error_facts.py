"""What an error of the library knows besides its message."""

import pickle
from pathlib import Path
from typing import Any

import pytest

import crossmount
from crossmount import ClientOptions, CrossmountError, Digest, MemoryMountIndex, Repository, RetryPolicy
from crossmount.errors import knowing
from crossmount.testing import (
    BasicAuth,
    Fault,
    RegistryOptions,
    Reply,
    TokenAuth,
    running_registry,
)
from support.images import MadeImage, make_layers, make_layout

PLAIN = ClientOptions(plain_http=True, retry=RetryPolicy(attempts=1, outage=0.0))


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of one layer."""
    return make_layout(tmp_path / "image", make_layers(1, size=500))


def _pickled(error: CrossmountError) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 our own


def check(error: CrossmountError, **facts: Any) -> None:
    """Check an error's facts, and those of its pickle."""
    for shown in (error, _pickled(error)):
        assert (type(shown), str(shown)) == (type(error), str(error))
        assert {name: getattr(shown, name) for name in facts} == facts
        assert "?" not in (shown.url or "")


def pushed(image: MadeImage, address: str, **more: Any) -> CrossmountError:
    """Return the error of a push."""
    with pytest.raises(CrossmountError) as caught:
        crossmount.push(str(image.path), f"{address}/team/app:1", options=PLAIN, **more)
    return caught.value


@pytest.mark.parametrize("auth", [BasicAuth(users={"ann": "word"}), TokenAuth(users={"ann": "word"})])
def test_a_push_that_is_denied(image: MadeImage, auth: Any) -> None:
    """A refused login knows registry, repository, image, status, method and URL."""
    with running_registry(RegistryOptions(auth=auth)) as registry:
        error = pushed(image, registry.address)
    assert isinstance(error, crossmount.AccessDeniedError)
    name = f"{registry.address}/team/app"
    check(error, registry=registry.address, repository=name, reference=f"{name}:1", status=error.status)
    assert error.method
    assert (error.url or "").startswith("http://")


def test_a_registry_that_is_not_there(image: MadeImage) -> None:
    """An unreachable registry is named, though there is no answer and so no status."""
    error = pushed(image, "127.0.0.1:1")
    check(error, registry="127.0.0.1:1", repository="127.0.0.1:1/team/app", status=None, codes=())


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_upload_that_is_refused_names_the_blob(image: MadeImage, method: str) -> None:
    """Whichever request of an upload is refused, the error has the blob's digest and the registry's code."""
    with running_registry() as registry:
        registry.play(
            Fault(
                action=Reply(status=400, code="BLOB_UPLOAD_INVALID"), method=method, path="*/uploads/*", times=None
            )
        )
        error = pushed(image, registry.address)
    check(error, registry=registry.address, status=400, codes=("BLOB_UPLOAD_INVALID",), method=method)
    assert error.digest in {str(blob.digest) for blob in image.blobs}


def test_a_must_mount_layer(image: MadeImage) -> None:
    """A must-mount layer that is not mounted is the error's digest."""
    index = MemoryMountIndex()
    with running_registry() as registry:
        layer = image.layers[0].digest
        index.add_source(layer, Repository(registry.address, "base/os"), must_mount=True)
        error = pushed(image, registry.address, index=index)
    assert isinstance(error, crossmount.MountRequiredError)
    check(error, registry=registry.address, repository=f"{registry.address}/team/app", digest=layer)


def test_manifests_and_blobs_that_are_not_there() -> None:
    """A client's own errors name the repository, and the digest or the reference that was asked for."""
    digest = Digest.of(b"nowhere")
    with running_registry() as registry, crossmount.RegistryClient(registry.address, options=PLAIN) as client:
        name = f"{registry.address}/no/such"
        with pytest.raises(crossmount.RegistryRefusedError) as caught:
            b"".join(client.stream_blob(name, digest))
        check(caught.value, registry=registry.address, repository=name, digest=digest, status=404, reference=None)
        with pytest.raises(crossmount.RegistryRefusedError) as caught:
            client.get_manifest(f"{name}:1")
        check(caught.value, repository=name, reference=f"{name}:1", digest=None, method="GET")
        with pytest.raises(crossmount.RegistryRefusedError) as caught:
            list(client.list_tags(name))
        check(caught.value, repository=name, digest=None, status=404)


def test_an_error_keeps_what_it_knows() -> None:
    """What is nearer to the trouble knows better: facts that are there are not replaced."""
    with pytest.raises(CrossmountError) as caught, knowing(registry="b", digest=None, status=500):
        raise CrossmountError("trouble").knowing(registry="a")
    assert caught.value.facts == {"registry": "a", "status": 500}


@pytest.mark.parametrize("kind", [getattr(crossmount, name) for name in dir(crossmount) if name.endswith("Error")])
def test_every_error_survives_a_pickle(kind: type[CrossmountError]) -> None:
    """Each kind comes out of a pickle with its message, its facts and its own attributes."""
    more: dict[str, Any] = {"report": ()} if kind is crossmount.CopyFailedError else {}
    if issubclass(kind, crossmount.RegistryRefusedError):
        more = {"status": 418, "codes": ("TEAPOT",)}
    if kind is crossmount.BlobUnknownError:
        more["blobs"] = frozenset({"sha256:1"})
    error = kind("message", **more).knowing(registry="r.example", digest="sha256:0")
    shown = _pickled(error)
    assert (type(shown), str(shown), vars(shown)) == (kind, "message", vars(error))
