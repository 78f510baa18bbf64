"""Who may upload, who waits: one process's view of it, as states and what follows from an answer. No I/O.

A layer on a registry has one `_LayerQueue`: its waiters of this process, first come first, and the one
of them that uploads it, if any. While one of ours uploads, nobody is asked: the others wait for it here, with
or without a server. Otherwise the first in line that has an upload slot, or else the first, asks the server for
all (`ask`), and the answer (`apply_answer`) lets it upload, lets all mount, or leaves them waiting. Who leaves,
fails or is cancelled hands over to the next.

Why nobody waits in a circle:

- On a registry that mounts as soon as the blob is there, a lease is taken only together with an upload slot, and
  ends with that upload. A holder waits for no other lease in between, so every chain of waiters ends at an
  upload that runs.
- On one that mounts only after a manifest, a push keeps its leases until its manifest is accepted, and may wait
  for others meanwhile. It asks for leases in the order of their digests, one after the other
  (`transfer.turns`), so it waits only for a digest greater than all that it holds. In a circle of waiting pushes
  look at the one that holds the greatest digest held in the circle: it waits for a greater one still, which some
  push of the circle holds. That can't be.
- Besides, each waits no longer than its own patience.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from crossmount.fleet.waiting import (
    INVALID_NAMES_MAX,
    Claim,
    ClaimAnswer,
    Decision,
    GiveUp,
    IndexDown,
    LeaseAcquired,
    LeaseBusy,
    LeaseFree,
    MountFrom,
    ReleaseLease,
    ReturnSlot,
    SourcesFound,
    StartUpload,
    Waiter,
)
from crossmount.oci import Digest, Repository


@dataclass(slots=True)
class _LayerQueue:
    """One layer on one registry: who of this process uploads it, and who waits, the first first.

    `busy` is what the server last said of another process that uploads it.
    """

    holder: Waiter | None = None
    line: list[Waiter] = field(default_factory=list)
    busy: LeaseBusy | None = None

    @property
    def into(self) -> str | None:
        """The repository that it is being uploaded into, as far as that is known."""
        if self.holder is not None:
            return self.holder.dest.name
        return None if self.busy is None else self.busy.into

    def urgency(self, now: float, rate: float | None) -> int:
        """Return a lesser number for those that should have a slot before others: they can most likely use it."""
        return (
            0 if any(waiter.is_out_of_patience(now, rate) for waiter in self.line) else 1 + (self.busy is not None)
        )


class LayerQueues:
    """All layers that this process wants, waits for or uploads."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, Digest], _LayerQueue] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody waits."""
        return not any(place.line for place in self._places.values())

    def join(self, waiter: Waiter) -> None:
        """Stand in line."""
        self._places.setdefault(waiter.place, _LayerQueue()).line.append(waiter)

    def waiting(self) -> dict[tuple[str, Digest], list[str]]:
        """Return who waits for what another, here or elsewhere, uploads: by registry and layer, their values."""
        return {
            key: [waiter.value for waiter in place.line if waiter.busy_since is not None]
            for key, place in self._places.items()
            if any(waiter.busy_since is not None for waiter in place.line)
        }

    def take_unannounced(self) -> list[tuple[Waiter, Repository | None]]:
        """Return who waits for another's upload and was not told yet, and the repository that it goes into."""
        began = [
            (waiter, None if place.into is None else waiter.dest.sibling(place.into))
            for place in self._places.values()
            for waiter in place.line
            if waiter.busy_since is not None and not waiter.announced
        ]
        for waiter, _ in began:
            waiter.announced = True
        return began

    def uploader(self, registry: str, layer: Digest) -> Repository | None:
        """Return the repository that this process uploads a layer into now, if it does."""
        place = self._places.get((registry, layer))
        return None if place is None or place.holder is None else place.holder.dest

    def stop_waiting(self, dest: Repository) -> None:
        """End the patience of all who would bring something into a repository."""
        for place in self._places.values():
            for waiter in place.line:
                waiter.stopped = waiter.stopped or waiter.dest == dest

    def leave(self, waiter: Waiter) -> None:
        """Wait no more (cancelled): the next in line is the first."""
        place = self._places.get(waiter.place)
        if place is not None and waiter in place.line:
            place.line.remove(waiter)
            self._tidy(waiter)

    def ask(self, now: float, rate: float | None) -> tuple[list[Claim], list[Decision]]:
        """Say what to ask the server now, and who need not wait for an answer.

        Args:
            now: seconds.
            rate: bytes a second that uploads of this process make, None if none was seen.
        """
        claims: list[Claim] = []
        decisions: list[Decision] = []
        for place in sorted(self._places.values(), key=lambda place: place.urgency(now, rate)):
            if place.holder is not None:
                decisions.extend(self._wait(place, now, rate))
            elif place.line:
                able = next((waiter for waiter in place.line if waiter.takes_slot()), None)
                claims.append(Claim(able or place.line[0], take=able is not None))
        return claims, decisions

    def apply_answer(self, claim: Claim, answer: ClaimAnswer, now: float, rate: float | None) -> list[Decision]:
        """Fold the server's answer to a claim in."""
        waiter = claim.waiter
        place = self._places.get(waiter.place)
        line = [] if place is None else place.line
        decisions: list[Decision] = []
        if place is not None:
            place.busy = answer if isinstance(answer, LeaseBusy) else None
        match answer:
            case LeaseAcquired() | IndexDown() if claim.take and place is not None and waiter in line:
                place.holder = waiter
                line.remove(waiter)
                return [StartUpload(waiter, leased=True)]
            case LeaseAcquired():
                decisions.append(ReleaseLease(waiter))
            case SourcesFound():
                decisions.extend(self._mount(place, answer.names))
                waiter.invalid_names |= answer.invalid_names
                waiter.stopped = waiter.stopped or len(waiter.invalid_names) > INVALID_NAMES_MAX
            case LeaseFree() | IndexDown():
                decisions.extend(self._give_up(line))
            case LeaseBusy() if waiter not in line:
                decisions.append(ReleaseLease(waiter))
            case LeaseBusy():
                pass
        if isinstance(answer, LeaseBusy | SourcesFound) and place is not None:
            # the server was asked first: only what it did not offer is uploaded without a lease
            kept = waiter if claim.take else None
            done = self._wait(place, now, rate, kept=kept)
            decisions.extend(done)
            if kept is not None and StartUpload(kept, leased=False) in done:
                return decisions
        return [*decisions, ReturnSlot(waiter)] if claim.take else decisions

    def published(self, registry: str, layer: Digest, name: str) -> list[Decision]:
        """A repository holds the layer by now and can be mounted from."""
        return self._mount(self._places.get((registry, layer)), frozenset({name}))

    def ended(self, waiter: Waiter) -> None:
        """An upload ended, well or not: the next in line may ask."""
        place = self._places.get(waiter.place)
        if place is not None and place.holder is waiter:
            place.holder = None
            self._tidy(waiter)

    def _mount(self, place: _LayerQueue | None, names: frozenset[str]) -> list[Decision]:
        decisions: list[Decision] = []
        for waiter in list(place.line) if place is not None else ():
            if helpful := names - waiter.excluded:
                self.leave(waiter)
                decisions.append(MountFrom(waiter, helpful))
        return decisions

    def _give_up(self, waiters: Iterable[Waiter]) -> list[Decision]:
        """Let those go who only look."""
        looking = [waiter for waiter in waiters if waiter.watch_only]
        for waiter in looking:
            self.leave(waiter)
        return [GiveUp(waiter) for waiter in looking]

    def _wait(
        self, place: _LayerQueue, now: float, rate: float | None, *, kept: Waiter | None = None
    ) -> list[Decision]:
        """Let those in line wait for another's upload; those who would wait in vain, or no longer, do not.

        Args:
            place: what they wait for.
            now: seconds.
            rate: bytes a second that uploads make.
            kept: one for whom a slot is kept already.
        """
        done: list[Decision] = []
        into = place.into
        for waiter in list(place.line):
            if waiter.busy_since is None:
                waiter.busy_since = now
            hopeless = into is not None and not waiter.accepts(into)
            if not hopeless and not waiter.is_out_of_patience(now, rate):
                continue
            if waiter.watch_only:
                done.extend(self._give_up([waiter]))
            elif waiter is kept or waiter.takes_slot():
                self.leave(waiter)
                done.append(StartUpload(waiter, leased=False))
        return done

    def _tidy(self, waiter: Waiter) -> None:
        place = self._places.get(waiter.place)
        if place is not None and place.holder is None and not place.line:
            del self._places[waiter.place]
