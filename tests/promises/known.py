"""Faults that worlds found. No such world is made until a fault is mended and its entry is in the lower list."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, example, settings

from promises.worlds import HEAVY, REFUSED_PARTS, Family, Layer, World, closure

Oracle = Literal["with = without", "no byte too many", "no word too many", "once in the fleet", "few requests"]

F = TypeVar("F", bound=Callable[..., Any])

NIGHTLY = settings.get_current_profile_name() == "nightly"
NIGHT = 1000
"""How many times more worlds the nightly profile tries."""

LIMIT = 900
"""Seconds that a test may take on a busy machine; at night it may take any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFault:
    """A fault that is not mended yet.

    Attributes:
        families: no world with all of these is made for the oracle.
        oracle: which one the world breaks.
        world: the least world that shows it; an example of the oracle's test, which expects it to fail.
        wrong: what is wrong.
    """

    families: frozenset[Family]
    oracle: Oracle
    world: World
    wrong: str


def _known(oracle: Oracle, families: Collection[Family], wrong: str, *layers: Layer, **world: Any) -> KnownFault:
    """Make an entry; `also` are families that its world has besides, and that alone make no fault."""
    all_families = closure({*families, *world.pop("also", ())})
    least = World(families=all_families, layers=layers or (Layer(),), **world)
    return KnownFault(families=frozenset(families), oracle=oracle, world=least, wrong=wrong)


_OPEN = ("base/open-0",)
_BOTH: tuple[Oracle, ...] = ("with = without", "no byte too many")

KNOWN_FAULTS: tuple[KnownFault, ...] = ()


MENDED_FAULTS: tuple[KnownFault, ...] = (
    *(
        _known(oracle, {Family.HEAD_REFUSED}, "a push fails where HEAD of a blob is not served, and needs none")
        for oracle in _BOTH
    ),
    *(
        _known(
            oracle,
            {Family.REFUSED_PARTS},
            "after a cut, a registry that refuses parts fails the push instead of getting the whole blob anew",
            part_status=status,
        )
        for oracle in _BOTH
        for status in REFUSED_PARTS
    ),
    _known(
        "no byte too many",
        {Family.SLOW_COMMIT},
        "a layer is sent again while the registry stores it",
        Layer(),
    ),
    _known(
        "with = without",
        {Family.FALSE_SHA512, Family.UNCHECKED},
        "a 201 to the mount of a sha512 digest is believed, and the layer is absent",
        Layer(algorithm="sha512", readable=_OPEN),
    ),
    _known(
        "no byte too many",
        {Family.MANY_SOURCES},
        "a push mounted from sixteen repositories at most",
        *(Layer(size=300 + number, readable=(f"part-{number}/image",)) for number in range(17)),
    ),
    _known(
        "no byte too many",
        {Family.UNREADABLE},
        "a small layer was tried from one source, and uploaded if the caller may not read that one",
        Layer(readable=_OPEN, unreadable=("team/hidden-0",)),
    ),
    _known(
        "no byte too many",
        {Family.STALE},
        "a small layer was tried from one source, and uploaded if that one no longer holds it",
        Layer(readable=_OPEN, stale=("team/gone-0",)),
    ),
    _known(
        "no byte too many",
        {Family.STALE_DEST},
        "a large layer that the destination lost was uploaded: its other sources were not asked",
        Layer(size=HEAVY, readable=_OPEN),
    ),
    _known(
        "with = without",
        {Family.SPARSE, Family.SHARED},
        "a layout that lacks a layer is refused although the destination holds the layer",
        Layer(missing=True, in_dest=True),
    ),
    _known(
        "no byte too many",
        {Family.SPARSE},
        "a layout that lacks a layer is refused before the index is asked",
        Layer(missing=True, readable=_OPEN),
    ),
    _known(
        "no word too many",
        {Family.ECHO},
        "an error of the registry is shown as it came, with the credentials that it repeats",
        also={Family.TOKEN},
    ),
    _known(
        "with = without",
        {Family.FALSE_MOUNTS, Family.UNCHECKED},
        "a 201 to a mount is believed: an image is tagged, and its layer is absent",
        Layer(readable=_OPEN),
    ),
    *(
        fault
        for oracle in _BOTH
        for fault in (
            _known(
                oracle,
                {Family.HEAD_ALWAYS},
                "a HEAD that a refused manifest has shown to be wrong is believed a second time",
            ),
            _known(
                oracle,
                {Family.HEAD_ANYWHERE},
                "the same, where HEAD reports blobs of other repositories",
                Layer(readable=_OPEN),
                also={Family.NO_MOUNTS},
            ),
        )
    ),
    _known(
        "no byte too many",
        {Family.FINDS, Family.STALE},
        "after its sources failed, a registry that is not known to find layers is not asked to",
        Layer(stale=("team/gone-0",), unknown=("far/away-0",)),
    ),
    _known(
        "no byte too many",
        {Family.FINDS, Family.HIDDEN},
        "the same, where the sources are hidden from the caller",
        Layer(unreadable=("team/hidden-0",), unknown=("far/away-0",)),
        also={Family.TOKEN, Family.UNREADABLE},
    ),
    *(
        _known(
            oracle,
            {Family.HEAD_ALWAYS, Family.CUT},
            "an upload whose answer was lost is believed by a HEAD, although a refused manifest names the blob",
        )
        for oracle in _BOTH
    ),
    _known(
        "with = without",
        {Family.INDEX_OFF, Family.SPARSE, Family.SHARED},
        "without an index such a layout is refused although the destination holds the layer",
        Layer(missing=True, in_dest=True),
    ),
    _known(
        "with = without",
        {Family.HEAD_ALWAYS, Family.FALSE_MOUNTS, Family.CUT, Family.STALE_DEST},
        "a blob was given up after a HEAD, a mount and the HEAD after a cut upload had all been untrue",
        Layer(readable=_OPEN),
    ),
)
"""Faults that were in the list before; their worlds are tried first, every time."""


def excluded(oracle: Oracle) -> tuple[frozenset[Family], ...]:
    """Return the combinations of families that no world of an oracle may have."""
    return tuple(fault.families for fault in KNOWN_FAULTS if fault.oracle == oracle)


def tried(oracle: Oracle, count: int) -> Callable[[F], F]:
    """Return what lets a test try so many worlds, and those of the lists: of known faults they must fail.

    In the usual profile they are the same worlds each time, so that no change is blamed for a fault that another
    world would have found before it; and a world that fails is shown as it was found: to look for the least
    one may take longer than a test may.
    """

    def decorate(test: F) -> F:
        for fault in KNOWN_FAULTS:
            if fault.oracle == oracle:
                test = example(world=fault.world).xfail(reason=fault.wrong, raises=AssertionError)(test)
        for fault in MENDED_FAULTS:
            if fault.oracle == oracle:
                test = example(world=fault.world)(test)
        limited: F = pytest.mark.timeout(0 if NIGHTLY else LIMIT)(test)
        return settings(
            max_examples=count * (NIGHT if NIGHTLY else 1),
            deadline=None,
            phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if NIGHTLY else [])],
            derandomize=not NIGHTLY,
            suppress_health_check=[HealthCheck.too_slow],
        )(limited)

    return decorate
