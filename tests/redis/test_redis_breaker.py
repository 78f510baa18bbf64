"""The breaker: how long no calls are made after a failure."""

from crossmount.redis.call import Breaker


def test_it_is_closed_until_a_call_fails() -> None:
    """Without a failure the breaker is closed, and a probe does not open it."""
    breaker = Breaker(5)
    breaker.probe(0)
    assert not breaker.failed
    assert not breaker.is_open(0)


def test_it_opens_for_some_seconds() -> None:
    """After a failure it stays open until the seconds are over."""
    breaker = Breaker(5)
    breaker.fail(100)
    assert breaker.is_open(104.9)
    assert not breaker.is_open(105)
    assert breaker.failed


def test_other_calls_leave_the_server_alone_during_a_probe() -> None:
    """While one call probes, the breaker is open; a second probe at the same time changes nothing."""
    breaker = Breaker(5)
    breaker.fail(100)
    breaker.probe(105)
    assert breaker.is_open(105)
    breaker.probe(106)
    breaker.fail(106)
    assert not breaker.is_open(116)


def test_each_failed_probe_makes_it_longer() -> None:
    """It stays open twice as long each time, up to the bound; with a factor of 1 as long as before."""
    for factor, seconds in ((2.0, (3, 6, 8, 8, 8)), (1.0, (3, 3, 3))):
        breaker, now = Breaker(3, factor=factor), 100.0
        for expected in seconds:
            breaker.probe(now)
            breaker.fail(now)
            assert breaker.is_open(now + expected - 0.1)
            assert not breaker.is_open(now + expected)
            now += expected


def test_an_answer_closes_it() -> None:
    """After an answer the next failure counts as the first."""
    breaker = Breaker(5)
    for now in (100, 105):
        breaker.probe(now)
        breaker.fail(now)
    breaker.succeed()
    assert not breaker.is_open(106)
    assert not breaker.failed
    breaker.fail(200)
    assert not breaker.is_open(205)
