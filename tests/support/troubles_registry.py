"""Troubles of the registry, as scripted faults: one request in five is affected, or every n-th upload is cut."""

from dataclasses import dataclass
from typing import Any

from crossmount.testing import CutBefore, CutReceiving, CutSending, Fault, LoseAnswer, Reply
from crossmount.testing.faults import Action

CUT_AFTER = 40_000

PATH, UPLOADS = "/v2/*", "/v2/*/blobs/uploads/*"


@dataclass(frozen=True, slots=True)
class RegistryTrouble:
    """One trouble.

    Attributes:
        name: its name in a table.
        faults: its script.
    """

    name: str
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace("%", "").replace(",", "")


def one_in_five(action: Action, **which: Any) -> tuple[Fault, ...]:
    """Return faults that affect 20 % of all requests, in a rhythm that no client has.

    One in nine, and one in ten of the others.
    """
    common = {"path": PATH, "times": None, **which, "action": action}
    return Fault(every=9, **common), Fault(every=10, **common)


ANSWERS = tuple(
    RegistryTrouble(f"20 % answered {status}", one_in_five(Reply(status=status)))
    for status in (500, 502, 503, 429)
)
LATER = tuple(
    RegistryTrouble(f"20 % answered {status}, Retry-After", one_in_five(Reply(status=status, retry_after=1)))
    for status in (500, 502, 503, 429)
)
CUTS = (
    RegistryTrouble("20 % cut before they are carried out", one_in_five(CutBefore())),
    RegistryTrouble("20 % of answers lost", one_in_five(LoseAnswer())),
    RegistryTrouble("20 % cut in the middle of the answer", one_in_five(CutSending(after=1))),
)
BODIES = RegistryTrouble(
    "every second upload cut in its middle",
    (Fault(method="PUT|PATCH", path=UPLOADS, action=CutReceiving(after=CUT_AFTER), every=2, times=None),),
)
