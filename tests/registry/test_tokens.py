import asyncio

import pytest

from crossmount.registry.auth.flow import Token
from crossmount.registry.auth.scope import Scope, Wanted
from crossmount.registry.auth.tokens import TokenCache

A, B, C = (Scope("repository", name, ("pull",)) for name in "abc")


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Realm:
    """A realm that gives a token when the test lets it."""

    def __init__(self, *, lifetime: float | None = 100.0, refused: tuple[Scope, ...] = ()) -> None:
        self.asked: list[Wanted] = []
        self.open = asyncio.Event()
        self.open.set()
        self.lifetime = lifetime
        self.refused = refused
        self.error: Exception | None = None

    async def give(self, wanted: Wanted) -> Token:
        """Give a token, or fail."""
        self.asked.append(wanted)
        await self.open.wait()
        if self.error:
            raise self.error
        asked = tuple(scope for scope in wanted.all if scope not in self.refused)
        return Token(f"t{len(self.asked)}", asked, self.refused, self.lifetime)


async def get(cache: TokenCache, realm: Realm, wanted: Wanted, owner: str = "me") -> str:
    """Return the value of a token."""
    return (await cache.get(owner, wanted, realm.give)).value


async def test_a_token_is_used_for_all_it_covers_until_it_nearly_expires() -> None:
    """One token is used for its scopes and any part of them until shortly before its expiry."""
    clock, realm = Clock(), Realm()
    cache = TokenCache(clock=clock)
    assert await get(cache, realm, Wanted((A, B))) == "t1"
    assert await get(cache, realm, Wanted((A,))) == "t1"
    clock.now += 84
    assert await get(cache, realm, Wanted((B,))) == "t1"
    clock.now += 2
    assert await get(cache, realm, Wanted((B,))) == "t2"
    assert await get(cache, realm, Wanted((C,))) == "t3"


async def test_a_short_life_has_a_short_margin_and_an_endless_one_none() -> None:
    """The margin is a fifth of a short life; a token without a lifetime does not expire."""
    clock, realm = Clock(), Realm(lifetime=10.0)
    cache = TokenCache(clock=clock)
    await get(cache, realm, Wanted((A,)))
    clock.now += 7.9
    assert cache.find("me", Wanted((A,)))
    clock.now += 0.2
    assert not cache.find("me", Wanted((A,)))
    realm.lifetime = None
    await get(cache, realm, Wanted((A,)))
    clock.now += 1e9
    assert cache.find("me", Wanted((A,)))


async def test_many_callers_share_one_fetch() -> None:
    """Callers whose scopes are covered by a fetch in flight wait for it."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    realm.open.clear()
    asking = [
        asyncio.create_task(get(cache, realm, wanted)) for wanted in [Wanted((A, B))] * 5 + [Wanted((A,))] * 5
    ]
    await asyncio.sleep(0)
    realm.open.set()
    assert set(await asyncio.gather(*asking)) == {"t1"}
    assert len(realm.asked) == 1


async def test_a_cancelled_caller_does_not_cancel_the_fetch() -> None:
    """If the first caller is cancelled, the others get the token of its fetch."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    realm.open.clear()
    first, second = (asyncio.create_task(get(cache, realm, Wanted((A,)))) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    realm.open.set()
    assert await second == "t1"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_failed_fetch_fails_its_callers_and_is_not_cached() -> None:
    """A failed fetch fails all waiting callers, and the next caller fetches again."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    realm.open.clear()
    realm.error = ValueError("no")
    asking = [asyncio.create_task(get(cache, realm, Wanted((A,)))) for _ in range(3)]
    await asyncio.sleep(0)
    realm.open.set()
    assert [type(result) for result in await asyncio.gather(*asking, return_exceptions=True)] == [ValueError] * 3
    realm.error = None
    assert await get(cache, realm, Wanted((A,))) == "t2"


async def test_what_was_refused_is_not_asked_for_again_as_an_option() -> None:
    """A token without its sources is used where they are optional, and not where they are needed."""
    realm, cache = Realm(refused=(B,)), TokenCache(clock=Clock())
    assert await get(cache, realm, Wanted((A,), (B,))) == "t1"
    assert await get(cache, realm, Wanted((A,), (B,))) == "t1"
    assert await get(cache, realm, Wanted((A, B))) == "t2"


async def test_a_fetch_that_returned_too_little_is_followed_by_another() -> None:
    """A caller that needs a scope which was optional, and refused, in another's fetch fetches again."""
    realm, cache = Realm(refused=(B,)), TokenCache(clock=Clock())
    realm.open.clear()
    one = asyncio.create_task(get(cache, realm, Wanted((A,), (B,))))
    await asyncio.sleep(0)
    two = asyncio.create_task(get(cache, realm, Wanted((B,))))
    await asyncio.sleep(0)
    realm.open.set()
    assert await one == "t1"
    assert await two == "t2"


async def test_tokens_are_cached_by_owner_and_dropped_by_value() -> None:
    """A token is used for its own owner only, and a refused one is dropped."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    assert await get(cache, realm, Wanted((A,)), "me") == "t1"
    assert await get(cache, realm, Wanted((A,)), "you") == "t2"
    cache.drop("me", "t1")
    cache.drop("nobody", "t9")
    assert await get(cache, realm, Wanted((A,)), "me") == "t3"
    assert await get(cache, realm, Wanted((A,)), "you") == "t2"


async def test_closing_cancels_the_fetches() -> None:
    """No fetch outlives the cache."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    realm.open.clear()
    asking = asyncio.create_task(get(cache, realm, Wanted((A,))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_tokens_that_wear_out_are_used_as_often_as_they_last() -> None:
    """After two tokens that were refused early a token is used for as many requests as those were accepted for."""
    clock, realm = Clock(), Realm()
    cache = TokenCache(clock=clock)
    for number in (1, 2):
        for _ in range(3):
            assert await get(cache, realm, Wanted((A,))) == f"t{number}"
            cache.note_accepted("me", f"t{number}")
        cache.note_worn_out("me", f"t{number}")
        cache.drop("me", f"t{number}")
    assert [await get(cache, realm, Wanted((A,))) for _ in range(4)] == ["t3", "t3", "t3", "t4"]
    clock.now += 61
    assert {await get(cache, realm, Wanted((A,))) for _ in range(9)} == {"t4"}


async def wear_out(cache: TokenCache, realm: Realm) -> None:
    """Let the cache learn that a token is good for one request, from answers that come after the refusals."""
    for _ in range(2):
        value = await get(cache, realm, Wanted((A,)))
        cache.note_worn_out("me", value)
        cache.drop("me", value)
        cache.note_accepted("me", value)


async def test_an_answer_that_comes_after_a_refusal_counts_too() -> None:
    """A refusal may be quicker than the answer to the one request that a token was good for."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    await wear_out(cache, realm)
    assert [await get(cache, realm, Wanted((A,))) for _ in range(3)] == ["t3", "t4", "t5"]


async def test_a_token_for_one_request_is_given_to_one() -> None:
    """Of requests that wait for tokens that are good for one request, each gets one of its own."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    await wear_out(cache, realm)
    realm.open.clear()
    waiting = [asyncio.create_task(get(cache, realm, Wanted((A,)))) for _ in range(5)]
    await asyncio.sleep(0)
    realm.open.set()
    assert len(set(await asyncio.gather(*waiting))) == 5


async def test_a_fetch_that_is_over_is_not_waited_for() -> None:
    """A request that starts at any turn around the end of another's fetch gets a token of its own."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    await wear_out(cache, realm)
    for steps in range(8):
        realm.open.clear()
        first = asyncio.create_task(get(cache, realm, Wanted((A,))))
        await asyncio.sleep(0)
        realm.open.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        assert await get(cache, realm, Wanted((A,))) != await first


async def test_a_token_that_lacks_a_scope_is_not_used_for_it() -> None:
    """A token that was found not to allow a scope is used for its other scopes only."""
    realm, cache = Realm(), TokenCache(clock=Clock())
    assert await get(cache, realm, Wanted((A, B))) == "t1"
    cache.narrow("me", "t1", B)
    assert await get(cache, realm, Wanted((A,))) == "t1"
    assert await get(cache, realm, Wanted((B,))) == "t2"
