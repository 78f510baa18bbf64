import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import AsyncRetrying, RetryCallState

from crossmount.errors import InvalidInputError, RegistryRefusedError, RegistryUnreachableError
from crossmount.events import Event, Retrying
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.http.options import RetryPolicy
from crossmount.registry.http.retry import (
    RETRIED_STATUSES,
    Retrier,
    RetryBudget,
    is_transient,
    retry_after,
    wait_as_asked,
)
from crossmount.registry.http.transport import Answer
from crossmount.testing import Fault, Reply, ScriptedRegistry

POLICY = RetryPolicy(attempts=4, outage=0.0, wait_initial=1.0, wait_max=3.0, timeout=100.0)


def answer(status: int, **headers: str) -> Answer:
    """Return an answer with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(httpx.URL("https://r.example"), status, httpx.Headers(named, encoding="utf-8"))


class World:
    """A retrier whose clock is moved by its sleeps, and its events."""

    def __init__(self, policy: RetryPolicy = POLICY) -> None:
        self.now = 50.0
        self.slept: list[float] = []
        self.events: list[Event] = []
        self.retrier = Retrier(
            policy,
            observer=self.events.append,
            clock=lambda: self.now,
            now=lambda: 1_000_000.0,
            rng=random.Random(1),  # noqa: S311 jitter
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def sender(self, *outcomes: Answer | Exception, took: float = 0.0) -> Callable[[], "asyncio.Future[Answer]"]:
        """Return a function that has these outcomes, one after another."""
        left = list(outcomes)

        async def send() -> Answer:
            self.now += took
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return send  # type: ignore[return-value]  # a coroutine function serves as well


@pytest.mark.parametrize("status", sorted(RETRIED_STATUSES))
async def test_a_transient_failure_is_sent_again(status: int) -> None:
    """After each of the six statuses and a failed connection the request is sent again; a wait is an event."""
    world = World()
    send = world.sender(answer(status), httpx.ConnectError("refused"), answer(200))
    assert (await world.retrier.run("GET", "r.example", send)).status == 200
    assert [type(event) for event in world.events] == [Retrying, Retrying]
    first = world.events[0]
    assert isinstance(first, Retrying)
    assert (first.method, first.host, first.attempt) == ("GET", "r.example", 1)
    assert first.cause.startswith(str(status))
    assert world.slept == [event.wait for event in world.events if isinstance(event, Retrying)]


@pytest.mark.parametrize("status", [200, 201, 202, 301, 400, 401, 403, 404, 405, 416, 501, 505])
async def test_any_other_status_is_final(status: int) -> None:
    """Any other status is returned at once."""
    world = World()
    assert (await world.retrier.run("GET", "h", world.sender(answer(status)))).status == status
    assert not world.slept


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (httpx.ConnectError("x"), True),
        (httpx.ConnectTimeout("x"), True),
        (httpx.ReadError("x"), True),
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteError("x"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
        (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), True),
        (httpx.RemoteProtocolError("illegal status line"), False),
        (httpx.LocalProtocolError("x"), False),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.ProxyError("x"), False),
        (RegistryUnreachableError("another layer's"), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_which_errors_are_transient(error: BaseException, passing: bool) -> None:
    """Failed and cut connections are transient; answers that are no HTTP and our own errors are not."""
    assert is_transient(error) is passing


def test_a_tls_error_is_not_transient() -> None:
    """An untrusted certificate is not retried."""
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError()
    assert not is_transient(error)


async def test_attempts_come_to_an_end() -> None:
    """After the last attempt the last answer is returned, or the last error is raised as it was."""
    world = World()
    assert (await world.retrier.run("GET", "h", world.sender(*[answer(503)] * 4))).status == 503
    assert len(world.slept) == 3
    with pytest.raises(httpx.ReadError):
        await world.retrier.run("GET", "h", world.sender(*[httpx.ReadError("x")] * 4))


async def test_a_host_that_never_answered_gets_fewer_attempts() -> None:
    """A host that never answered gets five attempts, or fewer if the policy has fewer."""
    for attempts, made in ((8, 5), (3, 3)):
        world = World(replace(POLICY, attempts=attempts, outage=50.0))
        with pytest.raises(httpx.ConnectError):
            await world.retrier.run("GET", "h", world.sender(*[httpx.ConnectError("refused")] * made))
        assert len(world.slept) == made - 1


@pytest.mark.parametrize("taken", [False, True])
async def test_a_host_that_answered_is_given_the_time_of_a_restart(*, taken: bool) -> None:
    """A request and a transfer to a host that has answered go on at least for the time of an outage."""
    world = World(replace(POLICY, outage=40.0))
    budget = RetryBudget(world.retrier, method="PUT", host="h")
    await world.retrier.run("GET", "h", world.sender(answer(200)))
    began = world.now

    async def spend_all() -> None:
        while True:
            await budget.spend(RegistryUnreachableError("refused"))

    if taken:
        with pytest.raises(RegistryUnreachableError):
            await spend_all()
    else:
        with pytest.raises(httpx.ConnectError):
            await world.retrier.run("GET", "h", world.sender(*[httpx.ConnectError("refused")] * 1000))
    assert 40.0 <= world.now - began < 44.0
    assert (await world.retrier.run("GET", "h", world.sender(*[answer(500)] * 4))).status == 500


async def test_the_timeout_includes_attempts_and_waits() -> None:
    """No attempt begins after the timeout."""
    world = World()
    send = world.sender(answer(500), answer(500), answer(200), took=49.9)
    assert (await world.retrier.run("GET", "h", send)).status == 500
    assert len(world.slept) <= 1


@given(st.integers(1, 10_000), st.integers(), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_wait_is_a_random_share_of_a_doubling_bound(attempt: int, seed: int, jitter: float) -> None:
    """With a jitter of 1 a wait is anything from 0 to its bound, with 0 it is the bound."""
    wait = wait_as_asked(replace(POLICY, jitter=jitter), rng=random.Random(seed), now=lambda: 0.0)  # noqa: S311
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    state.set_result(answer(503))
    bound = min(3.0, 2.0 ** min(attempt - 1, 10))
    assert (1.0 - jitter) * bound <= wait(state) <= bound


@pytest.mark.parametrize("jitter", [-0.1, 1.1, float("nan")])
def test_a_jitter_is_a_share(jitter: float) -> None:
    """A jitter outside 0 to 1 is refused."""
    with pytest.raises(InvalidInputError, match="jitter"):
        RetryPolicy(jitter=jitter)


@pytest.mark.parametrize(
    ("old", "new"), [("first_wait", "wait_initial"), ("longest_wait", "wait_max"), ("deadline", "timeout")]
)
def test_a_policy_accepts_the_old_word_for_a_setting(old: str, new: str) -> None:
    """The words of release 0.1.0 set the new attributes, with a warning that names the new word."""
    settings: dict[str, Any] = {old: 7.5}
    with pytest.warns(DeprecationWarning, match=f"{old} is now named {new}") as warned:
        policy = RetryPolicy(attempts=2, **settings)
    assert warned[0].filename == __file__
    assert policy == RetryPolicy(attempts=2, **{new: 7.5})
    assert replace(policy, attempts=3) == RetryPolicy(attempts=3, **{new: 7.5})


@pytest.mark.parametrize("value", [0.2, 3.0])
def test_a_policy_refuses_an_old_word_beside_the_new_one(value: float) -> None:
    """One setting given twice is refused, also with the value that is the default."""
    with pytest.raises(InvalidInputError, match="first_wait and wait_initial"):
        RetryPolicy(wait_initial=value, first_wait=1.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 0 "}, 0.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "٣"}, None),
        ({"retry_after": "9" * 400}, 999_999_999.0),
        ({"retry_after": "Mon, 12 Jan 1970 13:46:50 GMT"}, 10.0),
        ({"retry_after": "Mon, 12 Jan 1970 13:46:30 GMT"}, 0.0),
        ({"retry_after": "Mon, 23 Nov 2026 10:00:30 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry_after": "Mon, 99 Nov 2026 10:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    """A date in Retry-After is relative to the answer's Date, or to our clock if there is none."""
    assert retry_after(answer(429, **headers), now=1_000_000.0) == seconds


async def test_retry_after_is_honoured() -> None:
    """The wait is the Retry-After and a little jitter."""
    world = World()
    await world.retrier.run("GET", "h", world.sender(answer(429, retry_after="20"), answer(200)))
    assert 20.0 <= sum(world.slept) <= 21.0


async def test_a_retry_after_past_the_timeout_is_not_waited_for() -> None:
    """A refusal whose Retry-After outlasts the timeout is returned at once, and a later request is not sent."""
    world = World()
    assert (await world.retrier.run("GET", "h", world.sender(answer(429, retry_after="3600")))).status == 429
    assert not world.slept
    with pytest.raises(RegistryRefusedError, match="h: it asked for a pause of 3600 s") as caught:
        await world.retrier.run("GET", "h", world.sender())
    assert caught.value.status == 429
    assert (await world.retrier.run("GET", "elsewhere", world.sender(answer(200)))).status == 200


async def test_a_pause_is_shared_by_all_requests_to_its_host() -> None:
    """A host's Retry-After delays the first attempt of other requests too."""
    world = World()
    world.retrier.note_pause("h", answer(503, retry_after="10"))
    world.retrier.note_pause("h", answer(200, retry_after="99"))
    await world.retrier.run("GET", "h", world.sender(answer(200)))
    assert sum(world.slept) >= 10.0
    assert world.now >= 60.0


async def test_a_budget_is_reset_by_progress_and_ends_without() -> None:
    """Failures in a row at one offset use up the budget, and progress resets it."""
    world = World()
    budget = RetryBudget(world.retrier, method="PUT", host="h")
    trouble = RegistryUnreachableError("cut")
    for offset in range(1, 10):
        await budget.spend(trouble)
        budget.note_progress(offset)
    for _ in range(3):
        budget.note_progress(9)
        await budget.spend(trouble)
    with pytest.raises(RegistryUnreachableError, match="cut"):
        await budget.spend(trouble)
    assert {event.cause for event in world.events if isinstance(event, Retrying)} == {"cut"}


async def test_a_budget_ends_at_the_timeout() -> None:
    """A budget's time begins with the first failure, not with the transfer."""
    world = World()
    budget = RetryBudget(world.retrier, method="PUT", host="h")
    world.now += 10_000
    await budget.spend(RegistryUnreachableError("cut"))
    world.now += 100
    with pytest.raises(RegistryUnreachableError):
        await budget.spend(RegistryUnreachableError("cut"), answer(503))


async def test_a_retry_after_of_a_year_is_forgotten_after_a_while(
    scripted_registry: ScriptedRegistry,
) -> None:
    """An absurd Retry-After is respected for a limited time only."""
    now = 0.0
    scripted_registry.play(Fault(action=Reply(status=503, retry_after=365 * 24 * 3600)))
    where = Repository.parse(f"{scripted_registry.address}/team/a")
    async with RegistryClient(where, options=ClientOptions(plain_http=True), clock=lambda: now) as client:
        with pytest.raises(RegistryRefusedError):
            await client.head_blob(where, Digest.of(b"layer"))
        now += 3601.0
        assert await client.head_blob(where, Digest.of(b"layer")) is None
