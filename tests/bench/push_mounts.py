"""A push of an image whose 20 layers can all be mounted, over a link with 50 ms a round trip.

    python tests/bench/push_mounts.py

In the same run, over the same link and to the same registry, skopeo (with an empty cache) and oras-py push the
image too; both upload it. The number of round trips is the time over the link, less the time without the link,
divided by 50 ms, so that the speed of the machine does not matter.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from setting import forget_skopeo, machine, registry, run, table

from crossmount.asyncio import ClientOptions, MemoryMountIndex, MountableLayers, Repository, push
from support.images import MadeImage, make_layout
from support.link import link

ROUND_TRIP = 0.05
LAYERS, LAYER_BYTES = 20, 1_000_000
RUNS = 5

ORAS = """
import sys, json, oras.client
from pathlib import Path
path, address, digest = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
client = oras.client.OrasClient(hostname=address.split('/')[0], insecure=True)
container = client.remote.get_container(address) if hasattr(client, 'remote') else client.get_container(address)
registry = getattr(client, 'remote', client)
manifest = json.loads((path / 'blobs' / 'sha256' / digest[7:]).read_text())
for layer in (manifest['config'], *manifest['layers']):
    response = registry.upload_blob(str(path / 'blobs' / 'sha256' / layer['digest'][7:]), container, layer)
    assert response.status_code in (200, 201, 202), response
assert registry.upload_manifest(manifest, container).status_code in (200, 201)
"""


async def record_sources(index: MountableLayers, image: MadeImage, address: str) -> None:
    """Record in the index that the first repository has all blobs, under the registry's address of the link."""
    for blob in image.blobs:
        await index.add_source(blob.digest, Repository.parse(f"{address}/first/image"))


async def crossmount_seconds(image: MadeImage, address: str, name: str) -> float:
    """Return the seconds of a push that mounts all layers."""
    index = MemoryMountIndex()
    await record_sources(index, image, address)
    started = time.perf_counter()
    report = await push(image.path, f"{address}/{name}:1", index=index, options=ClientOptions(plain_http=True))
    taken = time.perf_counter() - started
    assert report.bytes("uploaded") == 0, report
    return taken


def skopeo_seconds(image: MadeImage, address: str, name: str, home: Path) -> float:
    """Return the seconds of skopeo with an empty cache."""
    home.mkdir()
    forget_skopeo()
    return run(
        *("skopeo", "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"),
        *(f"oci:{image.path}:latest", f"docker://{address}/{name}:1"),
        env={"HOME": str(home), "XDG_DATA_HOME": str(home)},
    ).seconds


def oras_seconds(image: MadeImage, address: str, name: str) -> float:
    """Return the seconds of oras-py without its import."""
    started = run(sys.executable, "-c", "import oras.client").seconds
    return run(sys.executable, "-c", ORAS, image.path, f"{address}/{name}:1", image.root.digest).seconds - started


def main() -> None:
    """Measure without and with the link in turns, and print the table."""
    with tempfile.TemporaryDirectory() as text, registry(Path(text) / "registry") as real:
        folder = Path(text)
        layers = [os.urandom(LAYER_BYTES) for _ in range(LAYERS)]
        image = make_layout(folder / "image", layers)
        asyncio.run(push(image.path, f"{real.address}/first/image:1", options=ClientOptions(plain_http=True)))
        taken: dict[tuple[str, str], list[float]] = {}
        with link(real.address, round_trip=ROUND_TRIP) as far:
            for number in range(RUNS):
                for place, address in (("near", real.address), ("far", far)):
                    name = f"run-{number}/{place}"
                    home = folder / f"home-{number}-{place}"
                    for tool, seconds in (
                        ("crossmount", asyncio.run(crossmount_seconds(image, address, f"{name}/crossmount"))),
                        ("skopeo", skopeo_seconds(image, address, f"{name}/skopeo", home)),
                        ("oras-py", oras_seconds(image, address, f"{name}/oras")),
                    ):
                        taken.setdefault((tool, place), []).append(seconds)
        median = {key: statistics.median(values) for key, values in taken.items()}
        rows = []
        for tool, sent in (("crossmount", 0), ("skopeo", LAYERS * LAYER_BYTES), ("oras-py", LAYERS * LAYER_BYTES)):
            near, at_distance = median[tool, "near"], median[tool, "far"]
            trips = (at_distance - near) / ROUND_TRIP
            rows.append((tool, f"{near:.2f} s", f"{at_distance:.2f} s", f"{trips:.1f}", f"{sent / 1e6:.0f} MB"))
        table(("push of 20 mountable layers", "near", "50 ms away", "round trips", "layers sent"), rows)
        print(f"\n{machine()}; medians of {RUNS} runs")


if __name__ == "__main__":
    main()
