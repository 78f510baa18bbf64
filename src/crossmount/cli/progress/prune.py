"""How far a prune is: its numbers from its events."""

from collections import Counter
from dataclasses import dataclass, field

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.retries import Retries


@dataclass(slots=True)
class PruneState:
    """A prune as its observer sees it.

    Attributes:
        total: how many keys the index's server holds, if it says so.
        through: about how many of them were looked at.
        verdicts: sources by what registries said of them.
        lost: registries of which it was said that they do not answer.
    """

    total: int | None = None
    through: int = 0
    retries: Retries = field(default_factory=Retries)
    verdicts: Counter[events.Verdict] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)

    @property
    def begun(self) -> bool:
        """Whether something is done that the next run need not do again."""
        return self.verdicts.total() > 0

    def apply(self, event: events.Event) -> None:
        """Take an event in."""
        match event:
            case events.IndexWalked(keys=keys, total=total):
                self.through, self.total = keys, total
            case events.SourceVerified(verdict=verdict):
                self.verdicts[verdict] += 1

    def words(self) -> str:
        """Say how far it is."""
        share = "" if not self.total else f"{100 * self.through // self.total} % of the index, "
        return f"{share}{text.count(self.verdicts.total(), 'source')}, {self.verdicts['gone']} gone"

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return what to say of an event at once: what failed, a lost registry; with `verbose` what is gone."""
        match event:
            case events.Retrying():
                return self.retries.notice(event, now=now, verbose=verbose)
            case events.SourceVerified(verdict="failed"):
                return f"crossmount: {event.layer} in {event.source}: not verified: {event.cause}"
            case events.SourceVerified(verdict="unreachable") if event.source.registry not in self.lost:
                self.lost.add(event.source.registry)
                return f"crossmount: {event.source.registry}: not asked any more: {event.cause}"
            case events.SourceVerified(verdict=verdict) if verbose and verdict not in {"held", "unreachable"}:
                return f"{event.layer} in {event.source}: {verdict}"
        return None
