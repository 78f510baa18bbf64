"""Real clients, unchanged: each pushes one image, starting with an empty state."""

import base64
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.images import MadeImage
from support.programs import absent, needs, run
from support.waiting import PATIENCE

_ISOLATED = ("--storage-driver", "vfs")


@dataclass(frozen=True, slots=True)
class Push:
    """One push to make.

    Attributes:
        image: what to push.
        address: `host:port` of the registry or proxy.
        name: the repository.
        folder: an empty folder for the client's state.
        user: `name:password`; empty for none.
        authority: the file of the authority to trust; None speaks http.
    """

    image: MadeImage
    address: str
    name: str
    folder: Path
    user: str
    authority: Path | None = None

    @property
    def dest(self) -> str:
        """The reference."""
        return f"{self.address}/{self.name}:v1"

    @property
    def home(self) -> dict[str, str]:
        """An environment without any trace of earlier pushes."""
        folder = str(self.folder)
        return {"HOME": folder, "XDG_DATA_HOME": folder, "XDG_RUNTIME_DIR": folder, "TMPDIR": folder}


Client = Callable[[Push], None]


def skopeo(push: Push) -> None:
    """Copy from a layout; sends a HEAD for each digest."""
    creds = ("--dest-creds", push.user) if push.user else ()
    run(
        "skopeo",
        *("--insecure-policy", "copy", "--dest-tls-verify=false", *creds),
        *(f"oci:{push.image.path}:{push.image.tag}", f"docker://{push.dest}"),
        **push.home,
        BLOB_INFO_CACHE_DIR=str(push.folder),
    )


def _storage(program: str, push: Push) -> None:
    """Push from its own store; compresses on the fly and names each digest last."""
    needs(program)
    creds = ("--creds", push.user) if push.user else ()
    with tempfile.TemporaryDirectory(prefix="cm-") as short:  # podman's runroot may have 50 characters
        where = ("--root", f"{short}/root", "--runroot", f"{short}/run", *_ISOLATED)
        run(program, *where, "pull", f"oci:{push.image.path}:{push.image.tag}", **push.home)
        images = run(program, *where, "images", "--quiet", "--no-trunc", **push.home).split()
        run(program, *where, "push", "--tls-verify=false", *creds, images[0], f"docker://{push.dest}", **push.home)


def buildah(push: Push) -> None:
    """Push from buildah's storage."""
    _storage("buildah", push)


def podman(push: Push) -> None:
    """Push from podman's storage."""
    _storage("podman", push)


def containerd(push: Push) -> None:
    """Import into a new containerd, and push from there; sends a HEAD for everything."""
    archive = push.folder / "image.tar"
    subprocess.run(["tar", "-cf", str(archive), "-C", str(push.image.path), "."], check=True)
    with _containerd(push.folder) as socket:
        ctr = ("--address", str(socket))
        run("ctr", *ctr, "images", "import", "--no-unpack", "--base-name", "made", str(archive), **push.home)
        image = run("ctr", *ctr, "images", "list", "--quiet", **push.home).split()[0]
        run("ctr", *ctr, "images", "tag", image, push.dest, **push.home)
        user = ("--user", push.user) if push.user else ()
        run("ctr", *ctr, "images", "push", "--plain-http", *user, push.dest, **push.home)


@contextmanager
def _containerd(folder: Path) -> Iterator[Path]:
    program = needs("containerd")
    config, socket, log = folder / "containerd.toml", folder / "s", folder / "containerd.log"
    config.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
    )
    with log.open("wb") as out:
        process = subprocess.Popen([program, "--config", str(config)], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 20
        while "successfully booted" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "containerd does not start"
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def oras_py(push: Push, *, backend: str = "basic") -> None:
    """Push the layers as files, with a HEAD for each; without a user it uses no token backend."""
    script = (
        "import sys, oras.client\n"
        "host, name, user, ca, *files = sys.argv[1:]\n"
        f"backend = {backend!r} if user else 'token'\n"
        "client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend=backend)\n"
        "if user:\n"
        "    client.auth.set_basic_auth(*user.split(':'))\n"
        "client.push(files=files, target=f'{host}/{name}:v1', disable_path_validation=True)\n"
    )
    _python("oras", script, push)


def python_dxf(push: Push) -> None:
    """Push the layers as blobs, with a HEAD for each; it sends credentials only over https."""
    script = (
        "import sys\n"
        "from dxf import DXF\n"
        "host, name, user, ca, *files = sys.argv[1:]\n"
        "auth = (lambda dxf, response: dxf.authenticate(*user.split(':'), response=response)) if user else None\n"
        "dxf = DXF(host, name, auth=auth, insecure=not ca, tlsverify=ca or True)\n"
        "dxf.set_alias('v1', *[dxf.push_blob(file) for file in files])\n"
    )
    _python("dxf", script, push)


def _python(module: str, script: str, push: Push) -> None:
    if importlib.util.find_spec(module) is None:
        absent(f"the module {module} is not installed: pip install --group clients")
    files = [str(push.image.path / "blobs" / "sha256" / layer.digest.encoded) for layer in push.image.layers]
    ca = "" if push.authority is None else str(push.authority)
    run(sys.executable, "-c", script, push.address, push.name, push.user, ca, *files, **push.home)


def _docker_config(push: Push) -> None:
    """Write the login where Go's clients look for it."""
    auth = base64.b64encode(push.user.encode()).decode()
    config = push.folder / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {push.address: {"auth": auth}} if push.user else {}}))


def crane(push: Push) -> None:
    """Push a layout; sends a HEAD for each digest, and each layer in one PATCH."""
    _docker_config(push)
    run("crane", "push", "--insecure", str(push.image.path), push.dest, **push.home)


def oras(push: Push) -> None:
    """Copy from a layout; sends a HEAD for each digest, and asks for a mount in the POST."""
    _docker_config(push)
    source = f"{push.image.path}:{push.image.tag}"
    run("oras", "copy", "--from-oci-layout", source, "--to-plain-http", push.dest, **push.home)


def regctl(push: Push) -> None:
    """Copy from a layout; some blobs go straight to a POST with `mount` and without `from`."""
    _docker_config(push)
    plain = f"reg={push.address},tls=disabled"
    run(
        "regctl",
        "--host",
        plain,
        "image",
        "copy",
        f"ocidir://{push.image.path}:{push.image.tag}",
        push.dest,
        **push.home,
    )


CLIENTS: dict[str, Client] = {
    "skopeo": skopeo,
    "buildah": buildah,
    "podman": podman,
    "containerd": containerd,
    "oras-py": oras_py,
    "python-dxf": python_dxf,
}
"""The clients that Debian and PyPI have: a missing one skips its tests, and fails them in CI."""

CLIENTS |= {client.__name__: client for client in (crane, oras, regctl) if shutil.which(client.__name__)}
"""Clients that `go install` and their projects' pages have. They are tried where they are on the PATH."""
