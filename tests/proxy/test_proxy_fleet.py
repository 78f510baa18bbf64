"""Many skopeo at once, through one proxy and through several, with a real Valkey and a real docker-registry."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clients import Push, skopeo
from support.images import make_layers, make_layout
from support.registries import DockerRegistry
from support.running_proxy import proxy_process
from support.servers import Server

SIZE, SHARED, CLIENTS = 1_500_000, 3, 6


@pytest.mark.parametrize("proxies", [1, 3])
def test_clients_at_once_send_each_shared_layer_once(
    proxies: int, docker_registry: DockerRegistry, valkey: Server, tmp_path: Path
) -> None:
    """Unchanged clients with an empty index and a new base image upload every layer exactly once."""
    shared = make_layers(SHARED, size=SIZE)
    images = [
        make_layout(tmp_path / f"image-{i}", [*shared, *make_layers(1, size=SIZE, seed=f"own-{i}")])
        for i in range(CLIENTS)
    ]
    with ExitStack() as stack:
        addresses = []
        for number in range(proxies):
            folder = tmp_path / f"proxy-{number}"
            folder.mkdir()
            addresses.append(stack.enter_context(proxy_process(docker_registry.url, valkey.url, folder)))

        def push(number: int) -> None:
            folder = tmp_path / f"home-{number}"
            folder.mkdir()
            skopeo(Push(images[number], addresses[number % proxies], f"team/app-{number}", folder, ""))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(push, range(CLIENTS)))
    digests = {layer.digest for image in images for layer in image.layers}
    assert Counter(docker_registry.uploads(digest) for digest in digests) == {1: SHARED + CLIENTS}
