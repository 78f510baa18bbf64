"""Pushes of many images in one process; one that fails does not stop the others."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import run_each
from crossmount.errors import CopyFailedError, CrossmountError, InvalidInputError
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Reference
from crossmount.transfer.push import PushGroup, PushSettings, opened_pushes
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import ImageFailure, PushListReport, PushReport


@dataclass(frozen=True, slots=True)
class PushJob:
    """One image and its destination."""

    source: str
    dest: Reference

    @property
    def reference(self) -> Reference:
        """The destination, with the tag `latest` if it has neither tag nor digest."""
        return self.dest.or_latest()

    @classmethod
    def of(cls, words: Sequence[str]) -> "PushJob":
        """Make a job of the words of a line.

        Raises:
            InvalidInputError: they are not a source and a destination.
        """
        source, *dests = words
        if source == "-":
            raise InvalidInputError("-: a list has no images of standard input: give a file")
        if not dests:
            raise InvalidInputError(f"{source}: give a destination too")
        if len(dests) > 1:
            raise InvalidInputError(f"{source}: give one destination a line (and further tags with --tag)")
        return cls(source, Reference.parse(dests[0]))


def read_push_list(lines: Iterable[str], *, where: str) -> list[PushJob]:
    """Parse lines of `SOURCE DEST`; empty lines are ignored.

    Raises:
        InvalidInputError: a line is not valid; the message names it.
    """
    jobs = []
    for number, line in enumerate(lines, 1):
        if words := line.split():
            try:
                jobs.append(PushJob.of(words))
            except InvalidInputError as error:
                raise InvalidInputError(f"{where}:{number}: {error}") from error
    return jobs


async def push_one(
    job: PushJob, settings: PushSettings, *, index: MountableLayers | None, registries: Registries
) -> PushReport:
    """Push one image as `crossmount.push` does."""
    started, dest = settings.clock(), job.reference
    image = await settings.read(job.source, dest)
    async with opened_pushes(settings, index, registries) as pushes:
        registries.name(dest.registry)
        return await pushes.push(image, dest, registries.client(dest), started=started)


async def push_all(
    jobs: Sequence[PushJob], settings: PushSettings, *, index: MountableLayers | None, registries: Registries
) -> PushListReport:
    """Push many images, at most `settings.limits.images` at once.

    Args:
        jobs: the images.
        settings: how they are pushed.
        index: names the sources; None pushes without an index. Its failures never fail a push.
        registries: the clients of all registries.

    Raises:
        CopyFailedError: an image was not pushed; the others were. `error.report` says which, and why.
    """
    started, done = settings.clock(), dict[int, PushReport | ImageFailure]()

    async def push_one(pushes: PushGroup, number: int, job: PushJob) -> None:
        began, dest = settings.clock(), job.reference
        try:
            image = await settings.read(job.source, dest)
            done[number] = await pushes.push(image, dest, registries.client(dest), started=began)
        except CrossmountError as error:
            error.knowing(reference=dest)
            done[number] = ImageFailure(source=job.source, reference=dest, error=error)
            settings.observer(events.ImageFailed(source=job.source, dest=dest, error=error))
        else:
            settings.observer(events.ImageCopied(source=job.source, dest=dest))

    async with opened_pushes(settings, index, registries) as pushes:
        registries.name(*(job.dest.registry for job in jobs))

        async def tasks() -> AsyncIterator[Callable[[], Awaitable[None]]]:
            for number, job in enumerate(jobs):
                yield partial(push_one, pushes, number, job)

        await run_each(tasks(), at_once=settings.limits.images)
        report = PushListReport(
            images=tuple(image for _, image in sorted(done.items(), key=lambda item: item[0])),
            index=pushes.index_state,
            index_reason=pushes.index_reason,
            seconds=settings.clock() - started,
        )
    if report.failures:
        number, asked = len(report.failures), len(report.images)
        raise CopyFailedError(f"{number} of {asked} images not pushed, first {report.failures[0]}", report=report)
    return report
