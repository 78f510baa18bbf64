"""Names of keys."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from crossmount.errors import InvalidInputError
from crossmount.index import Keys
from crossmount.index.keys import ParsedKey
from support.index_kit import layer, repo

ONE = layer(1)


def test_keys_have_the_documented_names() -> None:
    """Keys have the documented names: operators grant access by these patterns."""
    keys = Keys("ns")
    assert keys.sources(ONE, "[::1]:5000") == f"crossmount:ns:{{{ONE}}}:sources:[::1]:5000"
    assert keys.deleted(ONE, "r.example") == f"crossmount:ns:{{{ONE}}}:deleted:r.example"
    assert keys.flags(ONE) == f"crossmount:ns:{{{ONE}}}:flags"
    assert keys.manifest(ONE) == f"crossmount:ns:{{{ONE}}}:manifest"
    assert keys.scan("r.example", "0a") == "crossmount:ns:scan:0a:r.example"
    assert keys.scanned("r.example") == "crossmount:ns:scanned:r.example"
    assert keys.scan_done("0a") == "crossmount:ns:scan:0a:"
    assert keys.scan_tags(repo("a/b"), "0a") == "crossmount:ns:scan:0a:r.example/a/b"
    assert keys.traits("r.example") == "crossmount:ns:registry:r.example"
    assert keys.stats("2026-11-24") == "crossmount:ns:stats:{ns}:2026-11-24"
    assert keys.savings(date(2026, 11, 24)) == "crossmount:ns:savings:{ns}:2026-11-24"
    assert keys.savings_layers(date(2026, 11, 24)) == "crossmount:ns:savings:{ns}:2026-11-24:layers"
    recent = "crossmount:ns:savings:{ns}:pushes"
    assert keys.savings_pushes() == (recent, f"{recent}:before")
    assert keys.prune("0a") == "crossmount:ns:prune:0a"
    assert Keys() == Keys("default")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_a_namespace_never_moves_a_layer(namespace: str) -> None:
    """In every namespace the slot of a layer is that of its digest."""
    keys = Keys(namespace)
    assert (
        key_slot(keys.flags(ONE).encode()) == key_slot(keys.sources(ONE, "x").encode()) == key_slot(ONE.encode())
    )


@pytest.mark.parametrize(
    "namespace", ["", "a{b}", "a:b", "a*", "a b", "é", ".a", "-a", "a\n", "a" * 65, "[a]", "a/b"]
)
def test_other_namespaces_are_refused(namespace: str) -> None:
    """A namespace with characters of patterns or hash tags is refused."""
    with pytest.raises(InvalidInputError, match="not a namespace"):
        Keys(namespace)


def test_keys_are_parsed_as_they_are_named() -> None:
    """`Keys.parse` is the inverse of the methods that return keys."""
    keys = Keys("ns")
    for registry in ("r.example", "[::1]:5000", "docker.io"):
        assert keys.parse(keys.sources(ONE, registry).encode()) == ParsedKey("sources", ONE, registry)
        assert keys.parse(keys.deleted(ONE, registry).encode()) == ParsedKey("deleted", ONE, registry)
        assert keys.parse(keys.lease(ONE, registry).encode()) == ParsedKey("lease", ONE, registry)
        assert keys.parse(keys.waiters(ONE, registry).encode()) == ParsedKey("waiters", ONE, registry)
    assert keys.parse(keys.flags(ONE).encode()) == ParsedKey("flags", ONE)
    assert keys.parse(keys.manifest(ONE).encode()) == ParsedKey("manifest", ONE)
    for other in (
        keys.traits("r.example"),
        keys.stats("2026-11-24"),
        keys.prune("0a"),
        keys.savings(date(2026, 11, 24)),
        *keys.savings_pushes(),
        keys.scan("r.example", "0a"),
    ):
        assert keys.parse(other.encode()) == ParsedKey("other")


@pytest.mark.parametrize(
    "key",
    [
        b"crossmount:other:{%b}:flags" % ONE.encode(),
        b"crossmount:ns2:{%b}:flags" % ONE.encode(),
        b"crossmount:ns:{sha256:0}:flags",
        b"crossmount:ns:{%b}:flags:r.example" % ONE.encode(),
        b"crossmount:ns:{%b}:sources" % ONE.encode(),
        b"crossmount:ns:{%b}:sources:R.EXAMPLE" % ONE.encode(),
        b"crossmount:ns:{%b}:sources:index.docker.io" % ONE.encode(),
        b"crossmount:ns:{%b}:sources:\xff" % ONE.encode(),
        b"crossmount:ns:{%b}:else" % ONE.encode(),
        b"crossmount:ns:{",
        b"\xff",
        b"",
    ],
)
def test_other_keys_are_not_parsed(key: bytes) -> None:
    """Keys of other namespaces and unknown keys are not parsed."""
    assert Keys("ns").parse(key) is None
