"""The public `copy`: an image's manifests byte for byte, each layer in the cheapest way.

A copy is a push whose blobs are on other registries: each is there already, is mounted, is uploaded by another
pusher, or is fetched from the nearest registry that has it and uploaded.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import field

from crossmount import events
from crossmount._arguments import check_kind, check_names
from crossmount._dataclass import dataclass
from crossmount._tasks import run_each
from crossmount.errors import CopyFailedError
from crossmount.fleet import Fleet, Patience
from crossmount.index.adapt import adapt
from crossmount.index.guard import GuardedIndex
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Reference
from crossmount.oci.platforms import parse_all
from crossmount.oci.reference import normalise_registry
from crossmount.registry import ClientOptions
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.cache_fetch import CacheFetcher
from crossmount.transfer.image_copier import CopyJob, ImageCopier
from crossmount.transfer.image_pusher import ImagePusher, Limits
from crossmount.transfer.origins import Origins
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import CopyReport


async def copy(
    source: str | Reference,
    *dests: str | Reference,
    all_tags: bool = False,
    index: MountableLayers | None = None,
    registries: Registries | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    prefer: Sequence[str] = (),
    cache: BlobCache | None = None,
    referrers: bool = False,
    allow_transfer: bool = False,
    platforms: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> CopyReport:
    """Copy an image from one registry to others: manifests byte for byte, each layer in the cheapest way.

    Args:
        source: the image; `latest` without a tag.
        dests: the destinations; without a tag the source's.
        all_tags: copy every tag of the repository `source`.
        index: names the repositories that have layers; None starts empty. Its failures never fail the copy.
        registries: the clients of all registries; without them they are made from `options`.
        options: how to reach the registries that are named here; a registry that only the index names is asked
            over https only.
        prefer: registries to fetch from, the best first, however far away.
        cache: the cache through which bytes go from one registry to another; None streams them.
        referrers: whether signatures, SBOMs and everything else that refers to the image is copied too.
        allow_transfer: whether a must-mount layer that cannot be mounted may be uploaded.
        platforms: the platforms to copy, such as `linux/arm64/v8`, into a new index with those alone; all without.
        limits: how much is done at once.
        patience: how long to wait for another pusher's upload of the same layer.
        fleet: decides which pusher uploads a layer; made on the same index. None makes one from the index.
        observer: receives everything that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dests` is not valid, or the cache's folder is not a cache.
        CopyFailedError: an image was not copied; the others were. `error.report` says which, and why.
    """
    return await copy_all(
        [CopyJob.of(source, dests, all_tags=all_tags)],
        CopySettings(
            index=index,
            registries=registries,
            options=options,
            prefer=prefer,
            cache=cache,
            referrers=referrers,
            allow_transfer=allow_transfer,
            platforms=platforms,
            limits=limits,
            patience=patience,
            fleet=fleet,
            observer=observer,
            clock=clock,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """How images are copied: the keyword arguments of `copy`, which explains them."""

    index: MountableLayers | None = None
    registries: Registries | None = None
    options: ClientOptions = field(default_factory=ClientOptions)
    prefer: Sequence[str] = ()
    cache: BlobCache | None = None
    referrers: bool = False
    allow_transfer: bool = False
    platforms: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    fleet: Fleet | None = None
    observer: events.Observer = events.ignore
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Check the kinds of the arguments of `copy`.

        Raises:
            InvalidInputError: one is of a wrong kind.
        """
        check_kind("options", self.options, ClientOptions, "a crossmount.ClientOptions")
        check_kind("registries", self.registries, Registries | None, "a crossmount.asyncio.Registries, or None")
        check_names("prefer", self.prefer, "['registry.example.com']")
        check_kind("cache", self.cache, BlobCache | None, "a crossmount.BlobCache, or None")
        check_names("platforms", self.platforms, "['linux/amd64']")
        check_kind("limits", self.limits, Limits, "a crossmount.Limits")
        check_kind("patience", self.patience, Patience, "a crossmount.Patience")
        check_kind("fleet", self.fleet, Fleet | None, "a crossmount.asyncio.Fleet, or None")


async def copy_all(jobs: Iterable[CopyJob], settings: CopySettings) -> CopyReport:
    """Copy many images concurrently; one that fails does not stop the others.

    Raises:
        InvalidInputError: the cache's folder is neither a cache nor empty.
        CopyFailedError: an image was not copied.
    """
    observer, clock, cache = events.never_raising(settings.observer), settings.clock, settings.cache
    started, jobs = clock(), list(jobs)
    if cache is not None:
        await asyncio.to_thread(cache.check)
    guard = None if settings.index is None else GuardedIndex(adapt(settings.index), observer=observer)
    platforms = parse_all(settings.platforms)
    preferred = tuple(map(normalise_registry, settings.prefer))
    async with AsyncExitStack() as stack:
        index = MemoryMountIndex() if guard is None else guard
        registries = settings.registries
        if registries is None:
            registries = await stack.enter_async_context(Registries(settings.options, observer=observer))
        registries.name(*preferred, *(at.registry for job in jobs for at in (job.source, *job.dests)))
        fleet = settings.fleet
        if fleet is None:
            fleet = await stack.enter_async_context(Fleet(index))
        cached = None
        if cache is not None:
            cached = CacheFetcher(cache, observer=observer)
            stack.push_async_callback(cached.aclose)
        copier = ImageCopier(
            registries=registries,
            pusher=ImagePusher.of(
                index,
                fleet,
                settings.limits,
                patience=settings.patience,
                observer=observer,
                clock=clock,
                allow_transfer=settings.allow_transfer,
            ),
            origins=Origins(registries=registries, index=index, prefer=preferred, observer=observer),
            cached=cached,
            with_referrers=settings.referrers,
            platforms=platforms,
            state=lambda: "off" if guard is None else guard.state,
            reason=lambda: None if guard is None else guard.reason,
        )
        await run_each(copier.tasks(jobs), at_once=settings.limits.images)
    report = CopyReport(
        images=tuple(image for image in copier.images if image is not None),
        index="off" if guard is None else guard.state,
        index_reason=None if guard is None else guard.reason,
        seconds=clock() - started,
    )
    if report.failures:
        raise CopyFailedError(_failure(report), report=report)
    return report


def _failure(report: CopyReport) -> str:
    """Return the error's text: the cause of a single image's failure, otherwise how many failed."""
    first, number, asked = report.failures[0], len(report.failures), len(report.images)
    return f"not copied: {first}" if asked == 1 else f"{number} of {asked} images not copied, first {first}"
