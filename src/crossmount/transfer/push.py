"""The public `push`: one read of the index, blobs concurrently, manifests after them, the tag last."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field, replace
from pathlib import Path

from crossmount import events
from crossmount._arguments import check_kind, check_names
from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError, InvalidLayoutError
from crossmount.fleet import Fleet, Patience
from crossmount.index.adapt import adapt
from crossmount.index.guard import GuardedIndex
from crossmount.index.memory import null_index
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Reference, as_reference
from crossmount.oci.image_spool import SPOOL_LIMIT, ImageSpool
from crossmount.oci.layout import Image, load_image, spooled_layout
from crossmount.oci.layout_files import OpenFile
from crossmount.oci.platforms import Platform, parse_all
from crossmount.oci.reference import normalise_registry
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.credentials.given import bound_to
from crossmount.transfer import docker_engine
from crossmount.transfer.image_pusher import ImagePusher, Limits
from crossmount.transfer.missing import AbsentBlobs
from crossmount.transfer.origins import Origins
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import IndexState, PushReport, proven, with_origins


async def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    tags: Sequence[str] = (),
    platforms: Sequence[str] = (),
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    registries: Registries | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    origins: Sequence[str] | None = None,
    spool_limit: int = SPOOL_LIMIT,
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    ignore_must_mount: bool = False,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> PushReport:
    """Push an image: mount the blobs that the registry already has, upload the rest.

    A layer that the layout lacks is mounted, or fetched from another registry that the index names.

    Args:
        source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, a path, `docker-daemon:NAME[:TAG]`, `-` for a tar on
            standard input, or an image that was read before. A tar may be compressed with gzip or zstd.
        dest: the destination; `latest` without a tag.
        tags: further tags of the image.
        platforms: the platforms to push, such as `linux/arm64/v8`, into a new index with those alone; all without.
            Not for an image that was read before.
        index: names the sources; None pushes without an index. Its failures never fail the push.
        client: a client of dest's registry; without it one is made from `options`.
        registries: the clients of all registries; without them they are made from `options`.
        options: how to reach the registries that are named here; credentials without a registry are for dest's. A
            registry that only the index names is asked over https only, and over http on this machine's loopback.
        origins: the only registries to fetch layers from that the layout lacks; None allows all in the index.
        spool_limit: the most bytes of a tar that has to be spooled to disk: `-`, compressed, or of an engine.
        limits: how much is done at once.
        patience: how long to wait for another pusher's upload of the same layer; `Patience(limit=0)` never waits.
        fleet: decides which pusher uploads a layer; made on the same index. None makes one from the index.
        ignore_must_mount: upload must-mount layers that cannot be mounted; their flags stay.
        observer: receives everything that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dest` is not valid, or a blob of the image is nowhere to be had.
        RegistryError: the registry did not accept the image.
        MountRequiredError: a must-mount layer could not be mounted.
    """
    settings = PushSettings(
        tags=tags,
        platforms=platforms,
        origins=origins,
        spool_limit=spool_limit,
        limits=limits,
        patience=patience,
        ignore_must_mount=ignore_must_mount,
        observer=events.never_raising(observer),
        clock=clock,
    )
    check_kind("options", options, ClientOptions, "a crossmount.ClientOptions")
    check_kind("registries", registries, Registries | None, "a crossmount.asyncio.Registries, or None")
    check_kind("client", client, RegistryClient | None, "a crossmount.asyncio.RegistryClient, or None")
    check_kind("fleet", fleet, Fleet | None, "a crossmount.asyncio.Fleet, or None")
    started, reference = clock(), as_reference(dest).or_latest()
    image = await settings.read(source, reference)
    async with AsyncExitStack() as stack:
        if registries is None:
            own = replace(options, credentials=bound_to(reference.registry, options.credentials))
            registries = await stack.enter_async_context(Registries(own, observer=settings.observer))
            if client is not None:
                registries.lend(client, reference)
        pushes = await stack.enter_async_context(opened_pushes(settings, index, registries, fleet))
        registries.name(reference.registry)
        return await pushes.push(image, reference, client or registries.client(reference), started=started)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """How images are pushed: keyword arguments of `push`, which explains them."""

    tags: Sequence[str] = ()
    platforms: Sequence[str] = ()
    origins: Sequence[str] | None = None
    spool_limit: int = SPOOL_LIMIT
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    ignore_must_mount: bool = False
    observer: events.Observer = events.ignore
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Check the kinds of the arguments of `push`.

        Raises:
            InvalidInputError: one is of a wrong kind.
        """
        check_names("tags", self.tags, "['1.2', 'latest']")
        check_names("platforms", self.platforms, "['linux/amd64']")
        if self.origins is not None:
            check_names("origins", self.origins, "['registry.example.com']")
        check_kind("spool_limit", self.spool_limit, int, "a number of bytes")
        check_kind("limits", self.limits, Limits, "a crossmount.Limits")
        check_kind("patience", self.patience, Patience, "a crossmount.Patience")

    async def read(self, source: str | Path | Image, reference: Reference) -> Image:
        """Read the image for a destination.

        Raises:
            InvalidInputError: it cannot be read, or is not the one that the destination names by its digest.
        """
        _further_tags(reference, self.tags)
        image = await _image_of(source, parse_all(self.platforms), ImageSpool(limit=self.spool_limit))
        if reference.digest is not None and reference.digest != image.root.descriptor.digest:
            raise InvalidInputError(
                f"{reference}: the image has the digest {image.root.descriptor.digest}: give that one, or none"
            )
        return image


@asynccontextmanager
async def opened_pushes(
    settings: PushSettings, index: MountableLayers | None, registries: Registries, fleet: Fleet | None = None
) -> AsyncIterator["PushGroup"]:
    """Open what pushes share: the guard of the index, the fleet, and the limits."""
    guard = None if index is None else GuardedIndex(adapt(index), observer=settings.observer)
    known = null_index() if guard is None else guard
    allowed = None if settings.origins is None else tuple(map(normalise_registry, settings.origins))
    registries.name(*(allowed or ()))
    async with AsyncExitStack() as stack:
        if fleet is None and guard is not None:
            fleet = await stack.enter_async_context(Fleet(guard))
        pusher = ImagePusher.of(
            known,
            fleet,
            settings.limits,
            patience=settings.patience,
            observer=settings.observer,
            clock=settings.clock,
            allow_transfer=settings.ignore_must_mount,
        )
        yield PushGroup(settings=settings, guard=guard, registries=registries, pusher=pusher, allowed=allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushGroup:
    """Pushes of one process, which share connections, limits, and what fails of the index."""

    settings: PushSettings
    guard: GuardedIndex | None
    registries: Registries
    pusher: ImagePusher
    allowed: tuple[str, ...] | None

    @property
    def index_state(self) -> IndexState:
        """Whether the index works."""
        return "off" if self.guard is None else self.guard.state

    @property
    def index_reason(self) -> str | None:
        """Why the index failed."""
        return None if self.guard is None else self.guard.reason

    async def push(
        self, image: Image, reference: Reference, client: RegistryClient, *, started: float
    ) -> PushReport:
        """Push one image; `started` is when its push began, by the clock of the settings."""
        index, further = self.pusher.index, _further_tags(reference, self.settings.tags)
        absent = AbsentBlobs(
            origins=Origins(
                registries=self.registries,
                index=index,
                allowed=self.allowed,
                loopback_http=True,
                observer=self.settings.observer,
            ),
            requests=self.pusher.requests,
            index_state=lambda: self.index_state,
        )
        blobs = await self.pusher.push(image, reference, client, absent=absent, tags=further)
        if absent.fetched:
            await index.record(proven(absent.fetched))
        return PushReport(
            reference=reference,
            digest=image.root.descriptor.digest,
            blobs=tuple(with_origins(blobs.reports(), absent.fetched)),
            index=self.index_state,
            index_reason=self.index_reason,
            seconds=self.settings.clock() - started,
            build_cache=image.root.is_build_cache,
            platforms=image.platforms,
            tags=further,
        )


def _further_tags(reference: Reference, tags: Sequence[str]) -> tuple[str, ...]:
    """Return the tags that the reference does not have itself, each once.

    Raises:
        InvalidReferenceError: one breaks the grammar.
    """
    return tuple(dict.fromkeys(tag for tag in tags if reference.with_tag(tag).tag != reference.tag))


async def _image_of(source: str | Path | Image, platforms: Sequence[Platform], spool: ImageSpool) -> Image:
    """Read the image, from a tar on disk if the source cannot be read in place."""
    if isinstance(source, Image):
        if platforms:
            raise InvalidInputError("platforms are chosen when an image is read: give them to load_image")
        return source
    try:
        if docker_engine.is_source(source):
            saved = await docker_engine.save_image(source, spool)
            return await asyncio.to_thread(_saved_image, saved, source, platforms)
        return await asyncio.to_thread(load_image, source, allow_absent=True, platforms=platforms, spool=spool)
    except asyncio.CancelledError:
        spool.stop()  # the thread goes on otherwise, for as long as standard input is open
        raise


def _saved_image(saved: OpenFile, source: str, platforms: Sequence[Platform]) -> Image:
    try:
        return spooled_layout(saved, where=source).select(allow_absent=True, platforms=platforms)
    except InvalidLayoutError as error:
        if "legacy docker-archive" not in str(error):
            raise
        raise InvalidLayoutError(
            f"{source}: the engine is older than Docker 25, its images are no layouts: "
            f"skopeo copy {source} oci-archive:image.tar, then push image.tar"
        ) from error
