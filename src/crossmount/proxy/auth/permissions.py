"""What a caller may do in a repository of one upstream, by the policy in force, and the quotas. No I/O."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import OverQuotaError, RequestRefusedError
from crossmount.proxy.http.routes import CatalogRoute, OtherRoute, Route, UploadsRoute
from crossmount.proxy.policy import OPEN, Policy, Rule, matches
from crossmount.proxy.reload import Live

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_DAY = 24 * 3600


class Permissions:
    """The permissions of callers on one upstream.

    Args:
        policy: the policy in force; a new one applies from the next request on.
        upstream: the name of the upstream.
        allow_sources: patterns of the repositories that may be mounted from, for every caller; empty for all.
        epoch: returns the time in epoch seconds, for quotas of a day.
    """

    def __init__(
        self,
        policy: Live[Policy] | None = None,
        *,
        upstream: str = "",
        allow_sources: tuple[str, ...] = (),
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._upstream = upstream
        self._allow_sources = allow_sources
        self._epoch = epoch
        self._day = 0
        self._bytes: Counter[tuple[str, ...]] = Counter()

    def check(self, caller: str, route: Route, method: str) -> None:
        """Check that a caller may send a request.

        Args:
            caller: the caller's name in the proxy's own files; empty if it has none.
            route: the route of the request.
            method: its method.

        Raises:
            RequestRefusedError: it may not (403).
        """
        if self._policy is None:
            return
        name = getattr(route, "name", None)
        if name is None:
            if isinstance(route, CatalogRoute | OtherRoute):
                self._check_unnamed(caller, method)
            return
        rule = self._rule(name)
        if not rule.may_read(caller) or (method not in _READS and not rule.may_push(caller)):
            word = "read" if method in _READS else "write to"
            raise _denied(f"this proxy's policy does not let you {word} {name}")

    def _check_unnamed(self, caller: str, method: str) -> None:
        """Check a request that may concern any repository: a rule for some of them applies to all."""
        assert self._policy is not None, "there is a policy"  # noqa: S101 checked by the only caller
        rules = [rule for rule in self._policy.value.rules if rule.upstream in {"", self._upstream}]
        if not all(rule.may_read(caller) for rule in rules):
            raise _denied("this proxy's policy hides some repositories from you, so it lists none")
        if method not in _READS and not all(rule.may_push(caller) for rule in rules):
            raise _denied("this proxy's policy lets you write to some repositories alone")

    def check_uploads(self, route: UploadsRoute, open_uploads: Iterable[str]) -> None:
        """Check that another upload may start; one in progress may finish, and its manifest may follow.

        Args:
            route: the request that begins it.
            open_uploads: the repositories of the uploads in progress.

        Raises:
            OverQuotaError: too many are in progress, or the bytes of the day are used up.
        """
        self.charge(route.name, 0, 1)
        rule = self._rule(route.name)
        if rule.uploads is not None and sum(self._rule(name) is rule for name in open_uploads) >= rule.uploads:
            where = ", ".join(rule.repositories)
            raise OverQuotaError(
                f"too many uploads at once into {where}: this proxy's policy permits {rule.uploads}"
            )

    def charge(self, name: str, size: int, ahead: int) -> None:
        """Count bytes that a client has sent for a repository, against the quota of the day.

        Args:
            name: the repository.
            size: bytes that have arrived.
            ahead: bytes that the client has announced beyond them.

        Raises:
            OverQuotaError: they are more than the quota.
        """
        rule = self._rule(name)
        if rule.bytes_per_day is None:
            return
        self._start_of_day()
        self._bytes[rule.repositories] += size
        if self._bytes[rule.repositories] + ahead > rule.bytes_per_day:
            where = ", ".join(rule.repositories)
            raise OverQuotaError(
                f"too many bytes for today into {where}: this proxy's policy permits {rule.bytes_per_day}"
            )

    def may_push(self, caller: Caller, name: str) -> bool:
        """Return whether a caller may write to a repository, by its token and by the policy: a HEAD mounts too."""
        rule = self._rule(name)
        return caller.may_push(name) and rule.may_read(caller.name) and rule.may_push(caller.name)

    def allows_source(self, source: str, *, dest: str, caller: str) -> bool:
        """Return whether `dest` may be mounted into from `source`, by a caller."""
        patterns = self._rule(dest).allow_sources
        return (
            (not self._allow_sources or matches(self._allow_sources, source))
            and (not patterns or matches(patterns, source))
            and self._rule(source).may_read(caller)
        )

    def allows_any_source(self, *, dest: str, caller: str) -> bool:
        """Return whether every source is allowed, so that the registry may find one by itself."""
        return (
            not self._allow_sources
            and not self._rule(dest).allow_sources
            and not (self._policy is not None and self._policy.value.hides_from(self._upstream, caller))
        )

    def _rule(self, name: str) -> Rule:
        return OPEN if self._policy is None else self._policy.value.rule_for(self._upstream, name)

    def _start_of_day(self) -> None:
        day = int(self._epoch() // _DAY)
        if day != self._day:
            self._day = day
            self._bytes.clear()


def _denied(message: str) -> RequestRefusedError:
    return RequestRefusedError(403, "DENIED", message)
