"""Worlds in which a push happens: an image, a registry, an index and a caller, as frozen values.

A world is a set of families (kinds of trouble, each one switch) and the numbers that those need. A family that is
not in the set plays no part, so Hypothesis shrinks a failing world to the families that matter.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

DEST = "team/app"
SECOND = "team/twin"
"""Where the second of two pushers pushes to."""
MANY = 16
"""Source repositories of an image; a world that has more has `MANY_SOURCES`."""
HEAVY = 1_200_000
"""Bytes of a layer that is worth a wait for another's upload; the other sizes are not."""

SIZES = (1, 300, 5_000, 140_000, HEAVY)
REFUSED_PARTS = (405, 411, 413, 415, 416, 501, 200, 204)
REFUSED_MOUNTS = (200, 204, 400, 403, 404, 405, 416, 501)


class Family(enum.StrEnum):
    """A kind of trouble. Each is one switch of a world."""

    # the image
    SHA512 = "some layers are named by sha512"
    DUPLICATES = "some layers are in the manifest twice"
    SPARSE = "the layout lacks the bytes of some layers"
    SHARED = "the destination holds some layers already"
    PLATFORMS = "the image has two platforms, which share a layer"
    MANY_SOURCES = "more than sixteen repositories to mount from"

    # the caller and how it logs in
    BASIC = "the registry wants a password"
    TOKEN = "the registry wants a token"
    REFUSES_WHOLE = "a token is refused if one of its scopes is"
    FIRST_SCOPE = "of the scopes of a token only the first is granted"
    SHORT_TOKENS = "a token is accepted thirty times"
    UNREADABLE = "the index names repositories that hold layers and that the caller may not read"
    HIDDEN = "a mount from a repository that the caller may not read opens an upload session"
    NO_DELETE = "the caller may not cancel an upload session"
    NO_PUSH = "the caller may only read the destination"

    # mounts
    NO_MOUNTS = "the registry never mounts"
    FINDS = "the registry finds layers without a source, also those that the index does not know"
    AFTER_MANIFEST = "the registry mounts only what a manifest references"
    FALSE_SHA512 = "a mount of a sha512 digest is confirmed and not carried out"
    FALSE_MOUNTS = "every mount is confirmed and not carried out"
    REFUSED_MOUNTS = "every mount is answered with an odd status"

    # uploads
    CUT = "the first upload of one layer is cut in its middle"
    REFUSED_PARTS = "after a cut the registry refuses the rest as a part"
    PART_NOT_TAKEN = "after a cut the registry confirms the rest as a part and takes nothing"
    SLOW_COMMIT = "an upload becomes a blob later than an answer is waited for"
    BUSY = "one request of each kind is answered 503 first"

    UNCHECKED = "the registry accepts manifests whose blobs are absent"
    RELATIVE = "Locations have no host"

    # HEAD of a blob
    HEAD_WITHOUT_LENGTH = "HEAD reports no Content-Length"
    HEAD_REFUSED = "HEAD is answered 405"
    HEAD_ALWAYS = "HEAD reports every blob as existing"
    HEAD_ANYWHERE = "HEAD reports blobs of other repositories as existing"
    HEAD_LINKING = "HEAD reports blobs of other repositories as existing, and they exist from then on"

    # the index
    MUST_MOUNT = "the index says that some layers must not be uploaded"
    STALE = "the index names repositories that no longer hold a layer"
    STALE_DEST = "the index says that the destination holds every layer"
    WRONG_SIZES = "the index has wrong sizes"
    WRONG_TRAITS = "the index is wrong about what the registry does"
    STRANGE_MEMBERS = "the index has members that are no repositories of this registry"
    STRANGE_TYPES = "the index has values of other types than ours"
    INDEX_GONE = "the index's server is gone in the middle of the push"
    INDEX_SILENT = "the index's server answers nothing from the middle of the push on"
    INDEX_OFF = "the push has no index"

    # whoever wants the secrets
    STRANGER_REALM = "the registry says that another host gives tokens"
    STRANGER_LOCATION = "the registry's Locations lead to another host"
    STRANGER_REDIRECT = "HEAD of a blob is redirected to another host"
    ECHO = "the registry refuses one kind of request with an error that repeats the request's headers"
    INDEX_PASSWORD = "the index wants a password, and the push has it"
    INDEX_WRONG_PASSWORD = "the push has a wrong password for the index"


NEEDS: dict[Family, frozenset[Family]] = {
    Family.REFUSES_WHOLE: frozenset({Family.TOKEN}),
    Family.FIRST_SCOPE: frozenset({Family.TOKEN}),
    Family.SHORT_TOKENS: frozenset({Family.TOKEN}),
    Family.STRANGER_REALM: frozenset({Family.TOKEN}),
    Family.FALSE_SHA512: frozenset({Family.SHA512}),
    Family.REFUSED_PARTS: frozenset({Family.CUT}),
    Family.PART_NOT_TAKEN: frozenset({Family.CUT}),
}
"""Families that mean nothing without others, which they bring."""

EXCLUSIVE: tuple[frozenset[Family], ...] = (
    frozenset({Family.BASIC, Family.TOKEN}),
    frozenset({Family.REFUSED_PARTS, Family.PART_NOT_TAKEN}),
    frozenset({Family.SHORT_TOKENS, Family.MANY_SOURCES}),
    frozenset(
        {
            Family.HEAD_WITHOUT_LENGTH,
            Family.HEAD_REFUSED,
            Family.HEAD_ALWAYS,
            Family.HEAD_ANYWHERE,
            Family.HEAD_LINKING,
        }
    ),
    frozenset({Family.INDEX_GONE, Family.INDEX_SILENT, Family.INDEX_OFF}),
    frozenset({Family.INDEX_PASSWORD, Family.INDEX_WRONG_PASSWORD, Family.INDEX_OFF}),
)
"""Families of which a world has at most one."""

LOGIN = frozenset({Family.NO_DELETE, Family.NO_PUSH, Family.HIDDEN, Family.ECHO})
"""Families that need a caller with a name, by password or by token."""


HOSTILE = frozenset(
    {
        Family.STRANGER_REALM,
        Family.STRANGER_LOCATION,
        Family.STRANGER_REDIRECT,
        Family.ECHO,
        Family.INDEX_PASSWORD,
        Family.INDEX_WRONG_PASSWORD,
    }
)
"""Families about secrets, in which a push need not succeed."""

UNKNOWABLE: tuple[frozenset[Family], ...] = (
    frozenset({Family.HEAD_ALWAYS, Family.UNCHECKED}),
    frozenset({Family.HEAD_ANYWHERE, Family.UNCHECKED}),
)
"""Worlds in which no client that asks before it uploads can succeed: no answer shows that a blob is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of the image, and how many repositories of each kind hold it.

    Attributes:
        size: bytes.
        algorithm: of its digest.
        times: how often the manifest names it.
        missing: whether the layout lacks its bytes.
        in_dest: whether the destination holds it already.
        must_mount: whether it must not be uploaded.
        readable: repositories that hold it, that the index knows and the caller may read.
        unreadable: repositories that hold it, that the index knows and the caller may not read.
        stale: repositories that the index knows and that do not hold it.
        unknown: repositories that hold it and that the index does not know.
    """

    size: int = 5_000
    algorithm: Literal["sha256", "sha512"] = "sha256"
    times: int = 1
    missing: bool = False
    in_dest: bool = False
    must_mount: bool = False
    readable: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def holders(self) -> tuple[str, ...]:
        """All repositories that hold it."""
        return (*self.readable, *self.unreadable, *self.unknown, *((DEST,) if self.in_dest else ()))

    @property
    def known(self) -> tuple[str, ...]:
        """All repositories that the index names."""
        return (*self.readable, *self.unreadable, *self.stale)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A world.

    Attributes:
        families: the kinds of trouble in it.
        layers: the image's layers; the config is one more blob that nobody holds.
        cut: which layer's upload is cut, with `CUT`.
        part_status: the answer to a part, with `REFUSED_PARTS`.
        mount_status: the answer to a mount, with `REFUSED_MOUNTS`.
        index_lasts: how many times the index's server is sent something before it is gone or silent.
        echo: which request is refused, with `ECHO`: a method, or `token` for that of a token.
        echo_status: the status of that refusal.
        trait: what the index says of each trait of the registry, with `WRONG_TRAITS`.
    """

    families: frozenset[Family] = frozenset()
    layers: tuple[Layer, ...] = (Layer(),)
    cut: int = 0
    part_status: int = 405
    mount_status: int = 400
    index_lasts: int = 2
    echo: str = "POST"
    echo_status: int = 400
    trait: bool = False

    def __post_init__(self) -> None:
        """Check that the families say all that is in the world, so that one that is switched off plays no part."""
        assert closure(self.families) == self.families, "a family lacks another that it needs"
        assert is_consistent(self.families), "families that exclude each other"
        seen = {
            Family.SHA512: any(layer.algorithm == "sha512" for layer in self.layers),
            Family.DUPLICATES: any(layer.times > 1 for layer in self.layers),
            Family.SPARSE: any(layer.missing for layer in self.layers),
            Family.SHARED: any(layer.in_dest for layer in self.layers),
            Family.MUST_MOUNT: any(layer.must_mount for layer in self.layers),
            Family.MANY_SOURCES: len({name for layer in self.layers for name in layer.readable}) > MANY,
            Family.UNREADABLE: any(layer.unreadable for layer in self.layers),
            Family.STALE: any(layer.stale for layer in self.layers),
            Family.FINDS: any(layer.unknown for layer in self.layers),
        }
        unsaid = [family.name for family, is_there in seen.items() if is_there and family not in self.families]
        assert not unsaid, f"families that the world does not name: {unsaid}"

    def __contains__(self, family: Family) -> bool:
        return family in self.families


def worlds(
    *, without: Collection[frozenset[Family]] = (), never: Collection[Family] = ()
) -> st.SearchStrategy[World]:
    """Return the strategy of worlds.

    Args:
        without: combinations of families that no world may have, those of known faults.
        never: families that no world may have, because the promise is not made in them.
    """
    alone = {family for combination in without if len(combination) == 1 for family in combination} | {*never}
    choice = [family for family in Family if not closure({family}) & alone]

    def is_allowed(families: frozenset[Family]) -> bool:
        return is_consistent(families) and not any(combination <= families for combination in without)

    switches = st.frozensets(st.sampled_from(choice), max_size=6).map(closure).filter(is_allowed)
    return switches.flatmap(_world)


def is_consistent(families: Collection[Family]) -> bool:
    """Return whether one world can have all these families."""
    has_login = Family.BASIC in families or Family.TOKEN in families
    return (
        all(len(group.intersection(families)) <= 1 for group in EXCLUSIVE)
        and not any(combination <= frozenset(families) for combination in UNKNOWABLE)
        and (has_login or not LOGIN.intersection(families))
    )


def closure(families: Collection[Family]) -> frozenset[Family]:
    """Add the families without which the given ones mean nothing."""
    return frozenset(families).union(*(NEEDS.get(family, frozenset()) for family in families))


def _world(families: frozenset[Family]) -> st.SearchStrategy[World]:
    layers: st.SearchStrategy[tuple[Layer, ...]] = st.lists(_layer(families), min_size=1, max_size=4).map(tuple)
    if Family.MANY_SOURCES in families:
        layers = st.builds(_scattered, st.integers(MANY + 1, MANY + 8), _layer(families))
    return st.builds(
        World,
        families=st.just(families),
        layers=layers,
        cut=st.integers(0, 3),
        part_status=st.sampled_from(REFUSED_PARTS),
        mount_status=st.sampled_from(REFUSED_MOUNTS),
        index_lasts=st.integers(0, 12),
        echo=st.sampled_from(("POST", "PUT", "HEAD", "token")),
        echo_status=st.sampled_from((400, 401, 403, 404, 422)),
        trait=st.booleans(),
    )


def _layer(families: frozenset[Family]) -> st.SearchStrategy[Layer]:
    def if_in(family: Family, strategy: st.SearchStrategy[T], otherwise: T) -> st.SearchStrategy[T]:
        return strategy if family in families else st.just(otherwise)

    algorithms: st.SearchStrategy[Literal["sha256", "sha512"]] = st.sampled_from(("sha512", "sha256"))
    return st.builds(
        Layer,
        size=st.sampled_from(SIZES),
        algorithm=if_in(Family.SHA512, algorithms, "sha256"),
        times=if_in(Family.DUPLICATES, st.integers(1, 3), 1),
        missing=if_in(Family.SPARSE, st.booleans(), otherwise=False),
        in_dest=if_in(Family.SHARED, st.booleans(), otherwise=False),
        must_mount=if_in(Family.MUST_MOUNT, st.booleans(), otherwise=False),
        readable=_names("base/open", "src/image", "team/near"),
        unreadable=if_in(Family.UNREADABLE, _names("team/hidden", "secret/base", "team/private"), ()),
        stale=if_in(Family.STALE, _names("team/gone", "old/base", "team/old"), ()),
        unknown=if_in(Family.FINDS, _names("far/away"), ()),
    )


def _names(*stems: str) -> st.SearchStrategy[tuple[str, ...]]:
    names = [f"{stem}-{number}" for number in range(3) for stem in stems]
    return st.lists(st.sampled_from(names), unique=True, max_size=3).map(tuple)


def _scattered(count: int, layer: Layer) -> tuple[Layer, ...]:
    """Return small layers that lie in one repository each."""
    return tuple(
        Layer(size=300 + number, algorithm=layer.algorithm, readable=(f"part-{number}/image",))
        for number in range(count)
    )
