"""What strangers write among a fleet's leases and sources: nobody is held by it, and nothing of it is believed."""

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
async def test_nobody_is_held_hostage(any_place: Place, value: bytes) -> None:
    """A lease that never ends, whatever is in it, is waited for as long as one's own patience, and no longer."""
    with any_place.client() as client:
        client.set(Keys().lease(LAYER, "r.example"), value, ex=365 * 86400)
        async with fleet_on(any_place) as fleet:
            turn = await upload_of(fleet, "b", patience=Patience(limit=0.4, least=0.4))
            assert turn.waited >= 0.3
            await turn.publish()
            await turn.release()
        assert client.get(Keys().lease(LAYER, "r.example")) == value  # not ours to delete


async def test_keys_of_another_type_are_no_reason_to_wait(any_place: Place) -> None:
    """A stranger's list under the lease's name, or under the sources', makes the upload a plain one."""
    with any_place.client() as client:
        for key in (Keys().lease(LAYER, "r.example"), Keys().sources(LAYER, "r.example")):
            client.flushall()
            client.rpush(key, "x")
            async with fleet_on(any_place) as fleet:
                await upload_of(fleet, "b")
        client.flushall()


async def test_hostile_members_are_no_sources(any_place: Place) -> None:
    """What is no repository's name is left out, and the lease is taken."""
    with any_place.client() as client:
        client.sadd(Keys().sources(LAYER, "r.example"), b"../../etc", b"\xff\xfe", b"UPPER")
        client.expire(Keys().sources(LAYER, "r.example"), 60)
    async with fleet_on(any_place) as fleet:
        await upload_of(fleet, "b")


def test_a_value_that_a_stranger_wrote_is_read_as_far_as_it_makes_sense() -> None:
    """What has a wrong type, is too long or is no repository is left out."""
    text = b'{"token":1,"holder":"h\\u0007ost","dest":"../x","size":-1,"since":1e400,"publishes":"never"}'
    value = LeaseValue.from_text(text, "r.example")
    assert value == LeaseValue(token="", holder="host", dest=None, size=0, since=0)
    good = LeaseValue(token="t", holder="h:1", dest=repo("a"), size=3, since=1.5, publishes="manifest")
    assert LeaseValue.from_text(good.to_text().encode(), "r.example") == good
