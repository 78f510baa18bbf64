"""The state of a prune: its checkpoint, the verdicts that it counted, and its report at the end.

The checkpoint lets the next prune resume one that was killed. It has the SCAN cursor of each server, a few bytes
however large the index is, under the run id of the server's process: a cursor is valid for that process only. A
server that was restarted, or that took over from another, is scanned from the start.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, get_args

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._parsing import decimal, one_line
from crossmount.index.checkpoint import Checkpoint, scope_of
from crossmount.index.protocol import BackingServer
from crossmount.oci import Digest, Repository
from crossmount.redis.link import Link

CURSOR_DIGITS = 20
"""A cursor has 64 bits."""


@dataclass(slots=True)
class ServerScan:
    """How far the prune is on one server.

    Attributes:
        link: a link to it.
        process: the run id of its process; "" if the server does not give it, and then nothing is stored.
        cursor: the cursor to continue from.
        keys: about how many keys were looked at.
        done: whether the server is finished.
    """

    link: Link
    process: str
    cursor: int = 0
    keys: int = 0
    done: bool = False

    def text(self) -> str:
        """Return it in the form that `load` reads."""
        return f"{'done' if self.done else self.cursor} {self.keys}"

    def load(self, text: str) -> bool:
        """Continue from where `text` says; return False if it breaks the format."""
        where, _, rest = text.partition(" ")
        cursor, keys = decimal(where, digits=CURSOR_DIGITS), decimal(rest)
        if keys is None or (cursor is None and where != "done"):
            return False
        self.cursor, self.keys, self.done = cursor or 0, keys, cursor is None
        return True


class PruneCheckpoint:
    """The checkpoint of one prune.

    Args:
        server: the server of the index.
        choice: what sets this prune apart from others.
        salt: draws the sample, unless an earlier prune is resumed; 32 hex digits.
    """

    def __init__(self, server: BackingServer, choice: Iterable[str], *, salt: str) -> None:
        self._link = server.link
        self._stored = Checkpoint(server, server.keys.prune(scope_of(choice)), run=salt)

    @property
    def resumed(self) -> bool:
        """Whether an unfinished prune is resumed."""
        return self._stored.resumed

    @property
    def salt(self) -> str:
        """What draws the sample: a resumed prune continues with its own sample."""
        return self._stored.run

    async def begin(self, *, afresh: bool) -> list[ServerScan]:
        """Begin, and return how far each server is; `afresh` deletes an unfinished prune's checkpoint instead.

        Raises:
            IndexFailedError: the server did not answer, or refused.
        """
        scans = [ServerScan(link, await _process(link)) for link in await self._link.servers()]
        fields = await self._stored.begin(afresh=afresh)
        continued = [scan.load(fields.get(scan.process, "")) for scan in scans]
        if self.resumed and not any(continued):  # none of its servers exists any more
            await self._stored.restart()
        return scans

    async def save(self, scan: ServerScan) -> None:
        """Save how far one server is, in one round trip."""
        if scan.process:
            await self._stored.save({scan.process: scan.text()})

    async def end(self) -> None:
        """Delete it: the prune is finished."""
        await self._stored.end()


async def _process(link: Link) -> str:
    (info,) = await link.run([("INFO", "server")])
    return str(info.get("run_id", "")) if isinstance(info, dict) else ""


_REMARKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """A finished prune.

    Attributes:
        dry_run: whether the missing sources were left in the index.
        resumed: whether it resumed an unfinished prune; then the numbers are of this part only.
        counts: sources by the registry's verdict; only those that are `gone` were removed.
        unreachable: registries that stopped answering, and why.
        stranded: must-mount layers that have no source left, so that nobody can push them.
        mended: registries of layers of which a full server had evicted one key and kept another.
        remarks: the first few failures.
        seconds: wall time.
    """

    dry_run: bool
    resumed: bool
    counts: Mapping[events.Verdict, int]
    unreachable: Mapping[str, str]
    stranded: tuple[Digest, ...]
    remarks: tuple[str, ...]
    seconds: float
    mended: int = 0

    @property
    def complete(self) -> bool:
        """Whether every selected source was verified."""
        return not self.counts["failed"] and not self.counts["unreachable"]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount index prune --json` prints."""
        return {
            "dry_run": self.dry_run,
            "resumed": self.resumed,
            "sources": dict(self.counts),
            "unreachable": dict(self.unreachable),
            "must_mount_without_sources": list(self.stranded),
            "mended": self.mended,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class VerdictCounts:
    """The verdicts so far, each of which the observer receives as a `SourceVerified`."""

    observer: events.Observer
    remarks: list[str] = field(default_factory=list)
    _counts: Counter[events.Verdict] = field(default_factory=Counter)

    def add(self, layer: Digest, source: Repository, verdict: events.Verdict, cause: str = "") -> None:
        """Count a verdict, and notify the observer."""
        self._counts[verdict] += 1
        if verdict == "failed" and len(self.remarks) < _REMARKS_MAX:
            self.remarks.append(one_line(cause))
        self.observer(events.SourceVerified(layer=layer, source=source, verdict=verdict, cause=cause))

    def all(self) -> dict[events.Verdict, int]:
        """Return the number of sources for every verdict there is."""
        return {verdict: self._counts[verdict] for verdict in get_args(events.Verdict)}
