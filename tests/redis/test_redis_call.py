"""A call's deadline, and the limit of calls."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.redis.call import Call, CallLimiter, current_call
from support.waiting import PATIENCE


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_the_deadline_begins_when_the_call_is_admitted() -> None:
    """A call has all its time when it is admitted; before and after there is no deadline."""
    call = Call()
    assert call.left == float("inf")
    with CallLimiter(1).admitted(call):
        assert 0 < call.left <= 1.5
        assert current_call() is call
    assert current_call() is None


def test_a_cancelled_call_goes_no_further() -> None:
    """After a cancellation no time is left, also if the call is admitted later."""
    call = Call()
    call.cancel()
    with CallLimiter(1).admitted(call), pytest.raises(TimeoutError):
        call.check()


class Waiting:
    """A limit of one call, which is in flight, and calls that wait."""

    def __init__(self) -> None:
        self.limiter = CallLimiter(1)
        self.go = threading.Event()
        self.taken = threading.Event()
        self.calls = [Call() for _ in range(3)]

    def take(self, error: Exception | None) -> None:
        """Be in flight until `go`, and end with an error."""
        with self.limiter.admitted(Call()):
            self.taken.set()
            self.go.wait(PATIENCE)
            if error is not None:
                raise error

    def wait(self, call: Call) -> str:
        """Wait for a turn; return how that ended."""
        try:
            with self.limiter.admitted(call):
                return "answered"
        except IndexUnavailableError as error:
            return str(error)

    def outcomes(self, error: Exception | None) -> list[str]:
        """End the first call with an error or without, and return how the waiting ones ended."""
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(self.take, error)
            assert self.taken.wait(PATIENCE)
            others = [threads.submit(self.wait, call) for call in self.calls]
            until(lambda: all(other.running() for other in others))
            self.go.set()
            assert first.exception() is error
            return [other.result() for other in others]


def test_calls_that_waited_behind_a_silence_end_with_it() -> None:
    """When a call gets no answer, the calls that were made before that fail with it."""
    waiting = Waiting()
    assert waiting.outcomes(IndexUnavailableError("silent")) == ["silent"] * 3
    assert waiting.wait(Call()) == "answered"


@pytest.mark.parametrize("error", [None, IndexRefusedError("no")])
def test_calls_that_waited_behind_an_answer_are_served(error: Exception | None) -> None:
    """After an answer or a refusal, waiting calls are admitted."""
    assert Waiting().outcomes(error) == ["answered"] * 3


def test_an_answer_ends_the_silence() -> None:
    """A call that was made before an unanswered one is admitted if a later call was answered."""
    limiter, call = CallLimiter(2), Call()
    with pytest.raises(IndexUnavailableError), limiter.admitted(Call()):
        raise IndexUnavailableError("silent")
    with limiter.admitted(Call()):
        pass
    with limiter.admitted(call):
        pass


def test_a_cancelled_call_is_no_silence() -> None:
    """A cancelled call without an answer does not make waiting calls fail."""
    limiter, waiting, cancelled = CallLimiter(1), Call(), Call()
    cancelled.cancel()
    with pytest.raises(IndexUnavailableError), limiter.admitted(cancelled):
        raise IndexUnavailableError("too late")
    with limiter.admitted(waiting):
        pass
