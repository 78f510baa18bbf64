"""A call's turn and its deadline."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.redis.call import Call, Turns, current_call


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_the_deadline_begins_with_the_turn() -> None:
    """A call has all its time once its turn comes; before and after there is no deadline."""
    call = Call()
    assert call.left == float("inf")
    with Turns(1).turn(call):
        assert 0 < call.left <= 1.5
        assert current_call() is call
    assert current_call() is None


def test_a_cancelled_call_goes_no_further() -> None:
    """After a cancellation no time is left, also where the turn begins later."""
    call = Call()
    call.cancel()
    with Turns(1).turn(call), pytest.raises(TimeoutError):
        call.check()


class Waiting:
    """A single turn that is taken, and calls that wait for it."""

    def __init__(self) -> None:
        self.turns = Turns(1)
        self.go = threading.Event()
        self.taken = threading.Event()
        self.calls = [Call() for _ in range(3)]

    def take(self, error: Exception | None) -> None:
        """Take the turn until `go`, and end with an error."""
        with self.turns.turn(Call()):
            self.taken.set()
            self.go.wait(10)
            if error is not None:
                raise error

    def wait(self, call: Call) -> str:
        """Wait for a turn; return how that ended."""
        try:
            with self.turns.turn(call):
                return "answered"
        except IndexUnavailableError as error:
            return str(error)

    def outcomes(self, error: Exception | None) -> list[str]:
        """End the first call with an error or without, and return how the waiting ones ended."""
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(self.take, error)
            assert self.taken.wait(10)
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
    """After an answer or a refusal, waiting calls get their turn."""
    assert Waiting().outcomes(error) == ["answered"] * 3


def test_an_answer_ends_the_silence() -> None:
    """A call that was made before an unanswered one gets its turn if a later call was answered."""
    turns, call = Turns(2), Call()
    with pytest.raises(IndexUnavailableError), turns.turn(Call()):
        raise IndexUnavailableError("silent")
    with turns.turn(Call()):
        pass
    with turns.turn(call):
        pass


def test_a_cancelled_call_is_no_silence() -> None:
    """A cancelled call without an answer does not make waiting calls fail."""
    turns, waiting, cancelled = Turns(1), Call(), Call()
    cancelled.cancel()
    with pytest.raises(IndexUnavailableError), turns.turn(cancelled):
        raise IndexUnavailableError("too late")
    with turns.turn(waiting):
        pass
