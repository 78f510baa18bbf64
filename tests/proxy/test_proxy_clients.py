"""Real clients push through `crossmount proxy`, unchanged, to real registries."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from crossmount.oci import Digest, Reference, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.given import GivenCredentials, NoCredentials
from support.clients import CLIENTS, Push, oras_py
from support.images import make_layers, make_layout
from support.programs import run
from support.registries import PASSWORD, USER, DockerRegistry, TokenRegistry
from support.running_proxy import proxy_process
from support.servers import Server

LAYERS = 3


@pytest.fixture(params=["open", "htpasswd", "token"])
def real(request: pytest.FixtureRequest) -> tuple[str, DockerRegistry, str]:
    """Each kind of registry, with its user."""
    kind: str = request.param
    user = "" if kind == "open" else f"{USER}:{PASSWORD}"
    if kind == "token":
        both: TokenRegistry = request.getfixturevalue("token_registry")
        return kind, both.registry, user
    name = "docker_registry" if kind == "open" else "htpasswd_registry"
    registry: DockerRegistry = request.getfixturevalue(name)
    return kind, registry, user


def pull(registry: DockerRegistry, name: str, user: str, folder: Path, *, image: bool) -> list[str]:
    """Pull an image (or only blobs) back, which checks every digest; returns its layers' digests."""
    if not image:
        return asyncio.run(_pull_blobs(registry, name, user))
    creds = ["--src-creds", user] if user else []
    dest = folder / f"back-{name.replace('/', '-')}"
    reference = f"docker://{registry.address}/{name}:v1"
    run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", *creds, reference, f"dir:{dest}")
    manifest = json.loads((dest / "manifest.json").read_text())
    return [layer["digest"] for layer in manifest["layers"]]


async def _pull_blobs(registry: DockerRegistry, name: str, user: str) -> list[str]:
    """Read a manifest's layers and verify them: python-dxf's manifests are no images that skopeo would take."""
    name_of, _, password = user.partition(":")
    given = GivenCredentials(registry.address, Credential(name_of, password)) if user else NoCredentials()
    repository = Repository(registry.address, name)
    options = ClientOptions(plain_http=True)
    async with RegistryClient(repository, options=options, credentials=given) as client:
        manifest = await client.get_manifest(Reference(repository, "v1"))
        layers = json.loads(manifest.content)["layers"]
        for layer in layers:
            async with client.stream_blob(repository, Digest(layer["digest"])) as stream:
                assert sum([len(part) async for part in stream]) == layer["size"]
    return [layer["digest"] for layer in layers]


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for the loopback address, and its key."""
    cert, key = folder / "tls.pem", folder / "tls.key"
    line: tuple[str, ...] = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    line += ("-days", "2", "-subj", "/CN=proxy", "-addext", "subjectAltName=IP:127.0.0.1")
    run("openssl", *line, "-keyout", str(key), "-out", str(cert))
    return cert, key


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_a_client_with_an_empty_state_mounts_every_shared_layer(
    client: str, real: tuple[str, DockerRegistry, str], valkey: Server, tmp_path: Path
) -> None:
    """A push into a second repository uploads no layer, its image can be pulled, and no index is needed."""
    kind, registry, user = real
    image = make_layout(tmp_path / "image", make_layers(LAYERS))
    if (client, kind) == (
        "oras-py",
        "token",
    ):  # its push fails without the proxy too: it uses a token for a pull
        with pytest.raises(AssertionError, match="authentication required"):
            oras_py(Push(image, registry.address, "team/one", tmp_path, user), backend="token")
        return
    more: list[str] = []
    authority = None
    if client == "python-dxf" and user:
        authority, key = certificate(tmp_path)
        more = ["--tls-cert", str(authority), "--tls-key", str(key)]

    def push_fresh(address: str, name: str) -> list[str]:
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        CLIENTS[client](Push(image, address, name, folder, user, authority))
        return pull(registry, name, user, tmp_path, image=client != "python-dxf")

    with proxy_process(registry.url, valkey.url, tmp_path, *more) as address:
        layers = push_fresh(address, "team/one")
        assert len(layers) == LAYERS
        assert push_fresh(address, "other/two") == layers
        assert {layer: registry.uploads(layer) for layer in layers} == dict.fromkeys(layers, 1)
        assert {layer: registry.mounts(layer) for layer in layers} == dict.fromkeys(layers, 1)
        valkey.stop()
        assert push_fresh(address, "third/three") == layers
    table = os.environ.get("CROSSMOUNT_CLIENT_TABLE")
    if table:
        with Path(table).open("a") as file:
            file.write(f"| {client} | {kind} | {LAYERS} of {LAYERS} | yes | yes |\n")


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_a_client_uploads_no_more_than_straight(
    client: str, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """Two pushes of one image by fresh clients upload no more through a fresh proxy than straight."""
    image = make_layout(tmp_path / "image", make_layers(LAYERS))
    counts: dict[str, list[int]] = {"straight": [], "through": []}
    with proxy_process(docker_registry.url, "memory://", tmp_path) as proxy:
        for way, address in (("straight", docker_registry.address), ("through", proxy)):
            for number in range(2):
                before, folder = docker_registry.uploads(), tmp_path / f"{way}-{number}"
                folder.mkdir()
                CLIENTS[client](Push(image, address, f"{way}/app", folder, ""))
                counts[way].append(docker_registry.uploads() - before)
    assert counts["through"][0] <= counts["straight"][0]
    assert counts["through"][1] == 0


def test_an_idle_proxy_stops_at_once(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """SIGTERM ends an idle proxy with status 0, without a wait for the time that pushes under way have."""
    with proxy_process(docker_registry.url, "off", tmp_path, "--grace", "3600"):
        pass  # the end of this block waits for the process
