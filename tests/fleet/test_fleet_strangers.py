"""Values that strangers write among leases and sources: they block nobody, and are not trusted."""

import pytest

from crossmount.fleet import Patience
from crossmount.fleet.lease import LeaseValue
from crossmount.index import Keys
from support.fleets import LAYER, fleet_on, upload_of
from support.index_kit import repo
from support.places import Place


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff" * 10_000,
        b"null",
        b"[" * 5000,
        LeaseValue(token="t", holder="h", dest=None, size=1, since=0).to_text().encode(),
    ],
)
async def test_a_lease_without_an_expiry_blocks_nobody(any_place: Place, value: bytes) -> None:
    """A lease that never expires delays a waiter no longer than its own patience."""
    with any_place.client() as client:
        client.set(Keys().lease(LAYER, "r.example"), value, ex=365 * 86400)
        async with fleet_on(any_place) as fleet:
            turn = await upload_of(fleet, "b", patience=Patience(limit=0.4, least=0.4))
            assert turn.waited >= 0.3
            await turn.publish()
            await turn.release()
        assert client.get(Keys().lease(LAYER, "r.example")) == value  # not ours to delete


async def test_keys_of_another_type_are_no_reason_to_wait(any_place: Place) -> None:
    """A key of a wrong type in place of the lease or the sources leads to a plain upload."""
    with any_place.client() as client:
        for key in (Keys().lease(LAYER, "r.example"), Keys().sources(LAYER, "r.example")):
            client.flushall()
            client.rpush(key, "x")
            async with fleet_on(any_place) as fleet:
                await upload_of(fleet, "b")
        client.flushall()


async def test_hostile_members_are_no_sources(any_place: Place) -> None:
    """Invalid repository names are ignored, and the lease is taken."""
    with any_place.client() as client:
        client.sadd(Keys().sources(LAYER, "r.example"), b"../../etc", b"\xff\xfe", b"UPPER")
        client.expire(Keys().sources(LAYER, "r.example"), 60)
    async with fleet_on(any_place) as fleet:
        await upload_of(fleet, "b")


def test_invalid_parts_of_a_strangers_value_are_ignored() -> None:
    """Parts of a lease with a wrong type, that are too long or no repository, are ignored."""
    text = b'{"token":1,"holder":"h\\u0007ost","dest":"../x","size":-1,"since":1e400,"publishes":"never"}'
    value = LeaseValue.from_text(text, "r.example")
    assert value == LeaseValue(token="", holder="host", dest=None, size=0, since=0)
    good = LeaseValue(token="t", holder="h:1", dest=repo("a"), size=3, since=1.5, publishes="manifest")
    assert LeaseValue.from_text(good.to_text().encode(), "r.example") == good
