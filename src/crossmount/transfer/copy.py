"""Copies between registries: an image's manifests byte for byte, each layer in the cheapest way.

A copy is a push whose blobs lie on other registries: there already, mounted, brought by another, or fetched from
the nearest registry that holds them and sent on.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack

from crossmount import events
from crossmount.errors import CopyFailedError
from crossmount.fleet import Fleet, Patience
from crossmount.index.adapt import widen
from crossmount.index.guard import GuardedIndex
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Reference
from crossmount.oci.reference import normalise_registry
from crossmount.registry import ClientOptions
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.cache_fetch import CacheFetcher
from crossmount.transfer.concurrency import run_each
from crossmount.transfer.copy_jobs import CopyJob
from crossmount.transfer.image_copier import ImageCopier
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
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> CopyReport:
    """Copy an image from one registry to others: manifests byte for byte, each layer in the cheapest way.

    Args:
        source: the image; without a tag it is `latest`.
        dests: where to; without a tag it is the source's.
        all_tags: copy every tag of the repository `source`.
        index: who knows where layers are; None knows of this copy alone. It never makes the copy fail.
        registries: the clients of all registries, if there are some already; else made from `options`.
        options: how to reach the registries that are named here; one that only the index names is asked over
            https alone.
        prefer: registries to fetch from, the best first, however far away.
        cache: through which bytes go from one registry to another; None streams them.
        referrers: whether signatures, SBOMs and whatever else refers to the image come along.
        allow_transfer: whether a must-mount layer that cannot be mounted may be brought this way.
        limits: how much goes on side by side.
        patience: how long to wait for another's upload of the same layer.
        fleet: whom to take turns with; made on the same index. None takes turns with whoever shares the index.
        observer: told of each thing that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dests` cannot be understood, or the cache's folder is no cache.
        CopyFailedError: an image did not arrive; the others did. `error.report` says which, and why.
    """
    jobs = [CopyJob.of(source, dests, all_tags=all_tags)]
    return await copy_all(
        jobs,
        index=index,
        registries=registries,
        options=options,
        prefer=prefer,
        cache=cache,
        referrers=referrers,
        allow_transfer=allow_transfer,
        limits=limits,
        patience=patience,
        fleet=fleet,
        observer=observer,
        clock=clock,
    )


async def copy_all(
    jobs: Iterable[CopyJob],
    *,
    index: MountableLayers | None = None,
    registries: Registries | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    prefer: Sequence[str] = (),
    cache: BlobCache | None = None,
    referrers: bool = False,
    allow_transfer: bool = False,
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> CopyReport:
    """Copy many images side by side; see `copy`. One that fails does not stop the others.

    Raises:
        InvalidInputError: the cache's folder is no cache, and not empty.
        CopyFailedError: an image did not arrive.
    """
    started = clock()
    jobs = list(jobs)
    if cache is not None:
        await asyncio.to_thread(cache.check)
    guard = None if index is None else GuardedIndex(widen(index), observer=observer)
    preferred = tuple(map(normalise_registry, prefer))
    async with AsyncExitStack() as stack:
        known = MemoryMountIndex() if guard is None else guard
        if registries is None:
            registries = await stack.enter_async_context(Registries(options, observer=observer))
        registries.name(*preferred, *(at.registry for job in jobs for at in (job.source, *job.dests)))
        if fleet is None:
            fleet = await stack.enter_async_context(Fleet(known))
        fillings = None
        if cache is not None:
            fillings = CacheFetcher(cache, observer=observer)
            stack.push_async_callback(fillings.aclose)
        copying = ImageCopier(
            registries=registries,
            pushing=ImagePusher.of(
                known,
                fleet,
                limits,
                patience=patience,
                observer=observer,
                clock=clock,
                allow_transfer=allow_transfer,
            ),
            origins=Origins(registries=registries, index=known, prefer=preferred, observer=observer),
            fillings=fillings,
            with_referrers=referrers,
            state=lambda: "off" if guard is None else guard.state,
        )
        await run_each(copying.work(jobs), at_once=limits.images)
    report = CopyReport(
        images=tuple(image for image in copying.images if image is not None),
        index="off" if guard is None else guard.state,
        seconds=clock() - started,
    )
    if report.failures:
        raise CopyFailedError(_words(report), report=report)
    return report


def _words(report: CopyReport) -> str:
    """Say what did not arrive: why, if it is one image, else how many."""
    first, number, asked = report.failures[0], len(report.failures), len(report.images)
    cause = f"{first.source} to {first.reference}: {first.error}"
    return f"not copied: {cause}" if asked == 1 else f"{number} of {asked} images not copied, first {cause}"
