"""Work that takes hours, a scan or a prune: its progress, and what is printed if it stops early."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import field
from typing import Any, TypeVar

from crossmount import _formatting as text
from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.advice import explain
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.progress.display import Bar, Display, Tracker, View
from crossmount.errors import CrossmountError


@dataclass(slots=True)
class BulkTracker(Tracker):
    """State of a scan or a prune: one bar on a terminal, a status line now and then in a log.

    Attributes:
        total: how much there is to do, None if that is unknown.
        done: how much of it is done.
    """

    total: int | None = None
    done: int = field(default=0, init=False)

    @property
    @abstractmethod
    def resumable(self) -> bool:
        """Whether some work is done that the next run can skip."""

    @abstractmethod
    def status(self) -> str:
        """Return the progress in one line."""

    def view(self, height: int, *, now: float) -> View:
        """Return one bar with the status after it."""
        del height, now
        return View(bars=(Bar(text=self.status(), done=self.done, total=self.total),))


@dataclass(slots=True)
class ScanTracker(BulkTracker):
    """State of a scan; `total` and `done` count repositories.

    Attributes:
        scanned: repositories that were scanned completely.
        tags: tags in them.
        layers: layers recorded in the index.
    """

    scanned: int = field(default=0, init=False)
    tags: int = field(default=0, init=False)
    layers: int = field(default=0, init=False)

    @property
    def resumable(self) -> bool:
        """Whether a repository was scanned completely."""
        return self.scanned > 0

    def apply(self, event: events.Event, *, now: float) -> None:
        """Count a repository."""
        del now
        if isinstance(event, events.RepositoryScanned):
            self.done += 1
            self.scanned += event.outcome == "scanned"
            self.tags += event.tags
            self.layers += event.layers

    def status(self) -> str:
        """Return the numbers of repositories, tags and layers."""
        of = "" if self.total is None else f" of {self.total}"
        noun = "repository" if self.done == 1 and self.total is None else "repositories"
        return f"{self.done}{of} {noun}, {text.count(self.tags, 'tag')}, {text.count(self.layers, 'layer')}"

    def _notice(self, event: events.Event, *, verbose: int) -> str | None:
        """Return the line for a repository that failed; with `verbose`, for each repository."""
        match event:
            case events.RepositoryScanned(outcome="failed"):
                why = explain(event.cause, registry=event.repository.registry)
                why = why.replace(f"{event.repository} wants", "it wants")
                return f"crossmount: {event.repository}: failed: {why}"
            case events.RepositoryScanned(outcome="scanned") if verbose:
                return (
                    f"{event.repository}: {text.count(event.tags, 'tag')}, "
                    f"{text.count(event.manifests, 'manifest')}, {text.count(event.layers, 'layer')}"
                )
            case events.RepositoryScanned() if verbose:
                return f"{event.repository}: {event.outcome}"
        return None


@dataclass(slots=True)
class PruneTracker(BulkTracker):
    """State of a prune; `total` and `done` count keys of the index's server.

    Attributes:
        verdicts: number of sources by the registry's answer.
        unreachable: registries that were reported as unreachable.
    """

    verdicts: Counter[events.Verdict] = field(default_factory=Counter, init=False)
    unreachable: set[str] = field(default_factory=set, init=False)

    @property
    def resumable(self) -> bool:
        """Whether a source was verified."""
        return self.verdicts.total() > 0

    def apply(self, event: events.Event, *, now: float) -> None:
        """Count keys and sources."""
        del now
        match event:
            case events.IndexWalked(keys=keys, total=total):
                self.done, self.total = keys, total
            case events.SourceVerified(verdict=verdict):
                self.verdicts[verdict] += 1

    def status(self) -> str:
        """Return the share of the index and the number of sources."""
        share = "" if not self.total else f"{100 * self.done // self.total} % of the index, "
        return f"{share}{text.count(self.verdicts.total(), 'source')}, {self.verdicts['gone']} gone"

    def _notice(self, event: events.Event, *, verbose: int) -> str | None:
        """Return the line for a failure or an unreachable registry; with `verbose`, for a lost source."""
        match event:
            case events.SourceVerified(verdict="failed"):
                return f"crossmount: {event.layer} in {event.source}: not verified: {explain(event.cause)}"
            case events.SourceVerified(verdict="unreachable") if event.source.registry not in self.unreachable:
                self.unreachable.add(event.source.registry)
                return f"crossmount: {event.source.registry}: not asked any more: {explain(event.cause)}"
            case events.SourceVerified(verdict=verdict) if verbose and verdict not in {"held", "unreachable"}:
                return f"{event.layer} in {event.source}: {verdict}"
        return None


R = TypeVar("R")
B = TypeVar("B", bound=BulkTracker)


def run_bulk(work: Coroutine[Any, Any, R], display: Display[B], so_far: Callable[[B], str]) -> R:
    """Run a scan or a prune, and show its progress. If it stops early, print what `so_far` returns.

    Raises:
        Interrupted: a signal ended it.
        CrossmountError: it failed.
    """
    try:
        with display:
            return run_async(work)
    except Interrupted as interrupted:
        raise interrupted.with_note(so_far(display.tracker)) from None
    except CrossmountError:
        if display.tracker.resumable:
            output.note(so_far(display.tracker))
        raise
