"""How much trouble one transfer bears: so many attempts, so many seconds, counted anew whenever it got on."""

from crossmount.errors import RegistryError
from crossmount.registry.http.retry import Retrier, cause_of
from crossmount.registry.http.transport import Answer


class RetryBudget:
    """The patience for one transfer.

    Args:
        retrier: the policy, the clock and the waits.
        method: the request's method, for those who watch.
        host: whom it is about.
    """

    def __init__(self, retrier: Retrier, *, method: str, host: str) -> None:
        self._retrier = retrier
        self._method = method
        self._host = host
        self._furthest = 0
        self._strikes = 0
        self._since = 0.0

    def note_progress(self, offset: int) -> None:
        """Take note of how far the transfer is, in bytes; further than ever before, all trouble is forgotten."""
        if offset > self._furthest:
            self._furthest = offset
            self._strikes = 0

    async def bear(self, error: RegistryError, answer: Answer | None = None) -> None:
        """Wait before the next attempt.

        Args:
            error: the trouble, as it is raised when there was too much of it.
            answer: the answer that it was, if there was one; its Retry-After counts.

        Raises:
            RegistryError: `error`.
        """
        now = self._retrier.clock()
        self._since = self._since if self._strikes else now
        self._strikes += 1
        outcome = error if answer is None else answer
        wait = self._retrier.wait(outcome, self._strikes)
        late = now - self._since + wait > self._retrier.policy.timeout
        if late or self._retrier.is_spent(self._host, outcome, self._strikes, since=self._since):
            raise error
        cause = cause_of(outcome)
        self._retrier.tell(self._method, self._host, cause, self._strikes, wait)
        await self._retrier.sleep(wait)
