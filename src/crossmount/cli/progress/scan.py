"""How far a scan is: its numbers from its events."""

from dataclasses import dataclass, field

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.retries import Retries


@dataclass(slots=True)
class ScanState:
    """A scan as its observer sees it.

    Attributes:
        total: how many repositories there will be, if that is known.
        through: repositories that are done with, however.
        scanned: repositories that were scanned to their end.
    """

    total: int | None = None
    through: int = 0
    scanned: int = 0
    tags: int = 0
    layers: int = 0
    retries: Retries = field(default_factory=Retries)

    @property
    def begun(self) -> bool:
        """Whether something is done that the next run need not do again."""
        return self.scanned > 0

    def apply(self, event: events.Event) -> None:
        """Take an event in."""
        if isinstance(event, events.RepositoryScanned):
            self.through += 1
            self.scanned += event.outcome == "scanned"
            self.tags += event.tags
            self.layers += event.layers

    def words(self) -> str:
        """Say how far it is."""
        of = "" if self.total is None else f" of {self.total}"
        noun = "repository" if self.through == 1 and self.total is None else "repositories"
        return f"{self.through}{of} {noun}, {text.count(self.tags, 'tag')}, {text.count(self.layers, 'layer')}"

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return what to say of an event at once: a repository that failed, retries; with `verbose` each one."""
        match event:
            case events.Retrying():
                return self.retries.notice(event, now=now, verbose=verbose)
            case events.RepositoryScanned(outcome="failed"):
                return f"crossmount: {event.repository}: failed: {event.cause}"
            case events.RepositoryScanned(outcome="scanned") if verbose:
                return (
                    f"{event.repository}: {text.count(event.tags, 'tag')}, "
                    f"{text.count(event.manifests, 'manifest')}, {text.count(event.layers, 'layer')}"
                )
            case events.RepositoryScanned() if verbose:
                return f"{event.repository}: {event.outcome}"
        return None
