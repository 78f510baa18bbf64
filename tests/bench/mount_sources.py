"""Round trips and requests of a push whose layers lie in many repositories, or in many that it may not read.

    python tests/bench/mount_sources.py

The registry is scripted, and answers each request after half a second, which the speed of the machine hardly
changes: the time of a push, less that without a delay, is its number of round trips. The first table compares
40 layers in one repository with 40 layers in 40 repositories. The second one pushes 8 layers that lie in one
readable and many unreadable repositories, by each way in which token services refuse.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from setting import machine, table

from crossmount.asyncio import ClientOptions, MemoryMountIndex, Repository, push
from crossmount.registry import Credential, GivenCredentials, RegistryClient
from crossmount.testing import Grant, RegistryOptions, ScriptedRegistry, TokenAuth
from support.images import make_layers, make_layout

LATENCY = 0.5
UNREADABLE = (1, 3, 12, 50)
READ = frozenset({"pull"})
GRANTS = {"ci": (Grant("team/*"), Grant("src*", READ), Grant("base/*", READ))}


def tokens(**traits: object) -> TokenAuth:
    """Return a token service of these traits."""
    return TokenAuth(users={"ci": "pw"}, grants=GRANTS, **traits)  # type: ignore[arg-type]  # options of tests


AUTHS = {"open": None, "token": tokens(), "refuses whole": tokens(refuses_whole=True)}


async def measure(
    folder: Path, auth: TokenAuth | None, layers: Sequence[bytes], names: Sequence[Sequence[str]], latency: float
) -> tuple[float, int, int, int]:
    """Return the seconds of a push, its requests, and how many layers were mounted and uploaded."""
    image = make_layout(folder / "image", layers)
    async with ScriptedRegistry(RegistryOptions(auth=auth, latency=latency)) as registry:
        index = MemoryMountIndex()
        for blob, data, where in zip(image.blobs[-len(layers) :], layers, names, strict=True):
            for name in where:
                registry.put_blob(name, data)
                await index.add_source(blob.digest, Repository.parse(f"{registry.address}/{name}"))
        login = GivenCredentials(registry.address, Credential("ci", "pw", origin="the bench"))
        options = ClientOptions(plain_http=True)
        async with RegistryClient(registry.address, options=options, credentials=login) as client:
            started = time.perf_counter()
            report = await push(image.path, f"{registry.address}/team/app:1", index=index, client=client)
            taken = time.perf_counter() - started
        return taken, len(registry.requests), report.count("mounted"), report.count("uploaded")


def run(auth: TokenAuth | None, layers: Sequence[bytes], names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Push near and far; return the cells of a row."""
    with tempfile.TemporaryDirectory() as folder:
        near = asyncio.run(measure(Path(folder) / "near", auth, layers, names, 0.0))
        far, asked, mounted, uploaded = asyncio.run(measure(Path(folder) / "far", auth, layers, names, LATENCY))
    return f"{(far - near[0]) / LATENCY:.1f}", str(asked), f"{mounted} of {len(layers)}", str(uploaded)


def main() -> None:
    """Print both tables."""
    columns = ("round trips", "requests", "mounted", "uploaded, with the config")
    layers = make_layers(40, size=5000)
    rows = []
    for title, auth in AUTHS.items():
        rows.append((f"{title}, one repository", *run(auth, layers, [["src/all"]] * 40)))
        rows.append((f"{title}, 40 repositories", *run(auth, layers, [[f"src{n:03d}/image"] for n in range(40)])))
    table(("push of 40 mountable layers", *columns), rows)
    layers = make_layers(8, size=5000)
    rows = []
    for title, auth in list(AUTHS.items())[1:]:
        for count in UNREADABLE:
            hidden = [f"team-of-others/private-{number}" for number in range(count)]
            rows.append((f"{title}, {count} unreadable", *run(auth, layers, [[*hidden, "base/debian"]] * 8)))
    table(("push of 8 layers with one readable source", *columns), rows)
    print(f"\n{machine()}; {LATENCY * 1000:.0f} ms a round trip, one run")


if __name__ == "__main__":
    main()
