"""Pushes to the real docker-registry with a real Valkey; skopeo reads the images back."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from crossmount.index import open_index
from crossmount.registry import ClientOptions
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layers, make_layout, to_archive
from support.programs import needs
from support.registries import PASSWORD, USER, DockerRegistry, StartRegistry, TokenRegistry
from support.servers import Server


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of five layers."""
    return make_layout(tmp_path / "image", make_layers(5, size=100_000))


@pytest.fixture
def options(tmp_path: Path) -> ClientOptions:
    """Options for plain http with USER's credentials for the registries of these tests."""
    return ClientOptions(plain_http=True, authfile=tmp_path / "auth.json")


def credentials_for(address: str, options: ClientOptions) -> None:
    """Write USER's password to the file that `options` names."""
    assert options.authfile is not None
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    options.authfile.write_text(json.dumps({"auths": {address: {"auth": auth}}}))


def read_back(reference: str, *, options: ClientOptions, digest: str, folder: Path) -> None:
    """Copy an image back with skopeo, and compare its digest and its blobs."""
    skopeo = needs("skopeo")
    assert options.authfile is not None
    subprocess.run(
        [
            *(skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false"),
            *(f"--src-authfile={options.authfile}", f"docker://{reference}", f"oci:{folder}:back"),
        ],
        check=True,
        capture_output=True,
    )
    assert json.loads((folder / "index.json").read_text())["manifests"][0]["digest"] == digest


async def push_twice(
    address: str, image: MadeImage, valkey: Server, options: ClientOptions, folder: Path
) -> tuple[PushReport, PushReport]:
    """Push to two repositories, each with its own connection to the index, and read both back."""
    if options.authfile is not None and not options.authfile.exists():
        options.authfile.write_text("{}")
    reports = []
    for number in range(2):
        async with open_index(valkey.url) as index:
            reports.append(await push(image.path, f"{address}/team/app-{number}:1", index=index, options=options))
        read_back(
            f"{address}/team/app-{number}:1",
            options=options,
            digest=image.root.digest,
            folder=folder / f"back-{number}",
        )
    return reports[0], reports[1]


def assert_second_mounted(first: PushReport, second: PushReport) -> None:
    """The first push uploads every byte, the second none."""
    assert first.bytes("uploaded") == sum(blob.size for blob in first.blobs)
    assert second.bytes("mounted") == sum(blob.size for blob in second.blobs)
    assert first.index == second.index == "ok"


@pytest.mark.parametrize("relative", [False, True])
async def test_open_registry(
    start_docker_registry: StartRegistry,
    image: MadeImage,
    valkey: Server,
    options: ClientOptions,
    tmp_path: Path,
    relative: bool,
) -> None:
    """A push to a second repository only mounts, by the registry's own log, for any form of Location header."""
    registry = start_docker_registry(relative=relative)
    assert_second_mounted(*await push_twice(registry.address, image, valkey, options, tmp_path))
    assert registry.uploads() == registry.mounts() == len(image.blobs)


async def test_registry_with_passwords(
    htpasswd_registry: DockerRegistry, image: MadeImage, valkey: Server, options: ClientOptions, tmp_path: Path
) -> None:
    """The second push only mounts with Basic authentication from a credential file too."""
    credentials_for(htpasswd_registry.address, options)
    assert_second_mounted(*await push_twice(htpasswd_registry.address, image, valkey, options, tmp_path))
    assert htpasswd_registry.uploads() == len(image.blobs)


async def test_registry_with_tokens(
    token_registry: TokenRegistry, image: MadeImage, valkey: Server, options: ClientOptions, tmp_path: Path
) -> None:
    """The second push only mounts with tokens too: one token covers the destination and all sources."""
    address = token_registry.registry.address
    credentials_for(address, options)
    first, second = await push_twice(address, image, valkey, options, tmp_path)
    assert_second_mounted(first, second)
    pushes = [request for request in token_registry.tokens.requests if "push" in " ".join(request.scopes)]
    with_source = [request for request in pushes if any("app-0:pull" in scope for scope in request.scopes[1:])]
    assert len(with_source) == 1


@pytest.mark.parametrize("refuses_whole", [False, True])
async def test_a_source_that_the_token_may_not_cover(
    token_registry: TokenRegistry,
    image: MadeImage,
    valkey: Server,
    options: ClientOptions,
    tmp_path: Path,
    refuses_whole: bool,
) -> None:
    """A push uploads when the account may not read the source, whether the registry says so or not."""
    address = token_registry.registry.address
    credentials_for(address, options)
    tokens = token_registry.tokens
    async with open_index(valkey.url) as index:
        await push(image.path, f"{address}/secret/base:1", index=index, options=options)
        tokens.denied.add((USER, "secret/base"))
        tokens.refuses_whole = refuses_whole
        report = await push(image.path, f"{address}/team/app:1", index=index, options=options)
    assert report.bytes("uploaded") == sum(blob.size for blob in image.blobs)
    read_back(f"{address}/team/app:1", options=options, digest=image.root.digest, folder=tmp_path / "back")


async def test_every_kind_of_layout_is_pushed(
    docker_registry: DockerRegistry, valkey: Server, options: ClientOptions, tmp_path: Path
) -> None:
    """An image from a folder or a tar, of several platforms, or with Docker's media types keeps its digest."""
    assert options.authfile is not None
    options.authfile.write_text("{}")
    made = {
        "oci": make_layout(tmp_path / "oci", make_layers(3)),
        "docker": make_layout(tmp_path / "docker", make_layers(3), family="docker"),
        "platforms": make_layout(tmp_path / "platforms", make_layers(4), platforms=("linux/amd64", "linux/arm64")),
    }
    async with open_index(valkey.url) as index:
        for kind, image in made.items():
            archive = to_archive(image.path, tmp_path / f"{kind}.tar")
            for number, source in enumerate((f"oci:{image.path}", f"oci-archive:{archive}")):
                reference = f"{docker_registry.address}/{kind}/{number}:1"
                await push(source, reference, index=index, options=options)
                folder = tmp_path / f"back-{kind}-{number}"
                read_back(reference, options=options, digest=image.root.digest, folder=folder)


async def test_an_index_that_went_away_does_not_stop_a_push(
    docker_registry: DockerRegistry, image: MadeImage, valkey: Server, options: ClientOptions
) -> None:
    """Without the index's server a push uploads, and its report says that the index failed."""
    async with open_index(valkey.url) as index:
        valkey.stop()
        open_options = ClientOptions(plain_http=True)
        report = await push(image.path, f"{docker_registry.address}/team/app:1", index=index, options=open_options)
    assert report.index == "degraded"
    assert report.bytes("uploaded") == sum(blob.size for blob in image.blobs)
    del options
