"""Sixteen pushers that push at once, each with its own connections, and the outcome."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from crossmount import events
from crossmount.errors import CrossmountError
from crossmount.index import open_index
from crossmount.oci import Digest
from crossmount.registry import ClientOptions
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layers, make_layout

PUSHERS = 16
SHARED, SHARED_BYTES = 3, 1_200_000
"""Layers that all images of a round share, each large enough to wait for."""
OWN_BYTES = 100_000

OPTIONS = ClientOptions(plain_http=True)


class Registry(Protocol):
    """A registry that counts uploads."""

    @property
    def address(self) -> str:
        """`host:port`."""
        ...

    def uploads(self, digest: str | None = None) -> int:
        """Return the number of finished uploads of a blob, or of all blobs."""
        ...


@dataclass(frozen=True, slots=True)
class Images:
    """The images that each pusher pushes, round after round.

    Attributes:
        rounds: images by round and pusher.
    """

    rounds: tuple[tuple[MadeImage, ...], ...]

    @property
    def shared(self) -> tuple[Digest, ...]:
        """The shared layers."""
        return tuple(layer.digest for images in self.rounds for layer in images[0].layers[:SHARED])

    @property
    def blobs(self) -> frozenset[Digest]:
        """All blobs, each once: the minimum of uploads."""
        return frozenset(blob.digest for images in self.rounds for image in images for blob in image.blobs)


def make_images(folder: Path, *, rounds: int = 1, seed: str = "crowd") -> Images:
    """Make images in one layout; each has the shared layers and one of its own."""

    def one(number: int, pusher: int, base: Sequence[bytes]) -> MadeImage:
        own = make_layers(1, size=OWN_BYTES, seed=f"{seed} {number} {pusher}")
        return make_layout(folder, [*base, *own], tag=f"{number}-{pusher}")

    made = []
    for number in range(rounds):
        base = make_layers(SHARED, size=SHARED_BYTES, seed=f"{seed} {number}")
        made.append(tuple(one(number, pusher, base) for pusher in range(PUSHERS)))
    return Images(tuple(made))


@dataclass(frozen=True, slots=True)
class Scene:
    """The scene of a trouble: index, registry and layers.

    Attributes:
        place: the index's server, or servers.
        registry: the registry's address.
        layers: the shared layers.
        over: set when all pushes have ended.
    """

    place: Any
    registry: str
    layers: tuple[Digest, ...]
    over: threading.Event = field(default_factory=threading.Event)


def nothing(scene: Scene) -> None:
    """Do nothing."""
    del scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One push: its outcome, its duration, and the warnings about the index."""

    name: str
    image: MadeImage
    outcome: PushReport | CrossmountError
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of all pushes."""

    pushes: tuple[Pushed, ...]
    registry: Registry
    images: Images

    @property
    def failures(self) -> list[CrossmountError]:
        """The errors of failed pushes."""
        return [pushed.outcome for pushed in self.pushes if isinstance(pushed.outcome, CrossmountError)]

    @property
    def warnings(self) -> list[str]:
        """All warnings about the index."""
        return [cause for pushed in self.pushes for cause in pushed.warnings]

    @property
    def slowest(self) -> float:
        """Seconds of the slowest push."""
        return max(pushed.seconds for pushed in self.pushes)

    @property
    def beyond(self) -> int:
        """The number of uploads beyond one of each blob."""
        return self.registry.uploads() - len(self.images.blobs)

    async def incomplete(self, *, realm: str | None = None, login: tuple[str, str] | None = None) -> list[str]:
        """Read every image and its blobs with plain httpx, and return what is missing or wrong.

        Args:
            realm: the URL of the token service, if the registry needs tokens.
            login: user and password for tokens.
        """
        wrong = []
        read: set[str] = set()
        async with httpx.AsyncClient(base_url=f"http://{self.registry.address}/v2") as client:
            for pushed in self.pushes:
                name, root = pushed.name, pushed.image.root
                headers = {"Accept": root.media_type}
                if realm is not None:
                    asked = await client.get(realm, params={"scope": f"repository:{name}:pull"}, auth=login)
                    headers["Authorization"] = f"Bearer {asked.json()['token']}"
                answer = await client.get(f"/{name}/manifests/latest", headers=headers)
                if _digest(answer.content) != root.digest:
                    wrong.append(f"{name}: its manifest ({answer.status_code})")
                for blob in pushed.image.blobs:
                    url = f"/{name}/blobs/{blob.digest}"
                    if blob.digest in read:
                        right = (await client.head(url, headers=headers)).status_code == 200
                    else:
                        right = _digest((await client.get(url, headers=headers)).content) == blob.digest
                        read.add(blob.digest)
                    if not right:
                        wrong.append(f"{name}: {blob.digest}")
        return wrong


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def push_at_once(
    url: str,
    registry: Registry,
    images: Images,
    *,
    scene: Scene | None = None,
    strike: Callable[[Scene], None] = nothing,
    options: ClientOptions = OPTIONS,
    address: str | None = None,
) -> Outcome:
    """Push with all pushers at once, round after round.

    Args:
        url: the index.
        registry: the registry that counts uploads.
        images: the images to push.
        scene: the scene of the trouble; None is no trouble.
        strike: called once, in a thread, when the first bytes of a shared layer are sent.
        options: how to reach the registry.
        address: the address to push to, if it is not the registry's.
    """
    striking: list[asyncio.Task[None]] = []
    shared = frozenset(images.shared)

    def watch(event: events.Event) -> None:
        if isinstance(event, events.BlobProgress) and event.digest in shared and scene and not striking:
            striking.append(asyncio.create_task(asyncio.to_thread(strike, scene)))

    async def pusher(number: int) -> list[Pushed]:
        done = []
        async with open_index(url) as index:
            for at, made in enumerate(images.rounds):
                warnings: list[str] = []

                def observe(event: events.Event, warnings: list[str] = warnings) -> None:
                    watch(event)
                    if isinstance(event, events.IndexDegraded):
                        warnings.append(event.cause)

                image, name = made[number], f"team/app-{number}-{at}"
                started = time.monotonic()
                outcome: PushReport | CrossmountError
                try:
                    outcome = await push(
                        f"oci:{image.path}:{image.tag}",
                        f"{address or registry.address}/{name}",
                        index=index,
                        options=options,
                        observer=observe,
                    )
                except CrossmountError as error:
                    outcome = error
                seconds = time.monotonic() - started
                done.append(
                    Pushed(name=name, image=image, outcome=outcome, seconds=seconds, warnings=tuple(warnings))
                )
        return done

    try:
        pushes = await asyncio.gather(*(pusher(number) for number in range(PUSHERS)))
    finally:
        if scene is not None:
            scene.over.set()
        await asyncio.gather(*striking)
    return Outcome(tuple(pushed for done in pushes for pushed in done), registry, images)
