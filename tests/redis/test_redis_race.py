"""Several servers are asked the same question: the first answer counts."""

import threading

import pytest

from crossmount.redis.threads import NoneAnsweredError, _Race, first_answer


class Attempts:
    """Attempts that answer with their number, fail, or hang until the test ends; it records those that began."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.ended = threading.Event()

    def answering(self, number: int) -> int:
        """Answer."""
        self.asked.append(number)
        return number

    def failing(self, number: int) -> int:
        """Fail."""
        self.asked.append(number)
        raise OSError(f"refused by {number}")

    def hanging(self, number: int) -> int:
        """Give no answer before the end of the test."""
        self.asked.append(number)
        self.ended.wait()
        return number


def test_a_healthy_first_server_is_asked_alone() -> None:
    """The others get no connection when the first one answers within its head start."""
    attempts = Attempts()
    assert first_answer([lambda: attempts.answering(0), lambda: attempts.answering(1)], head_start=60) == (0, 0)
    assert attempts.asked == [0]


def test_silent_servers_do_not_hide_the_one_that_answers() -> None:
    """However many are silent, all others are asked at once after the head start of the first."""
    attempts = Attempts()
    try:
        silent = [lambda number=number: attempts.hanging(number) for number in range(3)]
        assert first_answer([*silent, lambda: attempts.answering(3)], head_start=0.01) == (3, 3)
    finally:
        attempts.ended.set()


def test_a_failure_ends_the_head_start() -> None:
    """After the first server failed, the others are asked without a wait."""
    attempts = Attempts()
    assert first_answer([lambda: attempts.failing(0), lambda: attempts.answering(1)], head_start=3600) == (1, 1)


def test_nobody_answers() -> None:
    """If all fail, each has its error; the one that failed first is the cause."""
    attempts = Attempts()
    with pytest.raises(NoneAnsweredError) as raised:
        first_answer([lambda: attempts.failing(0), lambda: attempts.failing(1)])
    assert {number: str(error) for number, error in raised.value.errors.items()} == {
        0: "refused by 0",
        1: "refused by 1",
    }
    assert str(raised.value.cause) == "refused by 0"


def test_an_attempt_does_not_begin_after_the_end() -> None:
    """An attempt whose thread gets its turn when the answer has come is not made: it would open a connection."""
    attempts = Attempts()
    late = _Race([lambda: attempts.answering(0)])
    late.is_over = True
    late._run(0)
    assert attempts.asked == []
