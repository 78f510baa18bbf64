"""`--mount-rights token`: a client is told once that a wider token would mount.

A token that covers only dest mounts nothing from elsewhere. If its account may read a source, the client gets a
401 `insufficient_scope` that names dest and the source: skopeo and others come back with a token for both. Another
client is told no second time, and uploads. No source is named to an account that may not read it.
"""

from crossmount.proxy.auth.admission import RecentNames
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.uploads.discretion import Discretion
from crossmount.proxy.uploads.mounting import MountAttempt, SourcePolicy
from crossmount.registry.auth.scope import pull, push

HINTED_SECONDS = 600.0
"""How long an account is not told again of a source for a repository."""

_SOURCES_MAX = 3


class ScopeHints:
    """Says which sources a wider token would cover.

    Args:
        discretion: tells which repositories an account may read.
        policy: the allowed sources.
    """

    def __init__(self, discretion: Discretion, policy: SourcePolicy) -> None:
        self._discretion = discretion
        self._policy = policy
        self._given = RecentNames(HINTED_SECONDS)

    async def check(self, exchange: Exchange, caller: Caller, attempt: MountAttempt) -> None:
        """Refuse a request whose token is too narrow for a mount that its account may make.

        Raises:
            RequestRefusedError: 401, with a challenge that names the source.
        """
        account, widen, dest = caller.account, caller.widen, attempt.dest
        if account is None or widen is None or attempt.mounted or not caller.may_push(dest.name):
            return
        known = account.mounter.candidates(attempt.knowledge, dest).get(attempt.digest, ())
        named = [f"{caller.key} {dest.name} {source.name}" for source in known]
        for source, name in list(zip(known, named, strict=True))[:_SOURCES_MAX]:
            if caller.may_mount_from(source.name) or self._given.has(name) or not self._policy.allows(source.name):
                continue
            if not await self._discretion.can_read(
                caller, account, dest, source, attempt.digest, answer_at=attempt.answer_at
            ):
                continue
            challenge = widen(exchange, (push(dest), pull(source)))
            if challenge is None:
                return
            self._given.add(name)
            raise RequestRefusedError(
                401,
                "DENIED",
                "this token does not cover a repository that the blob can be mounted from",
                headers=[(b"www-authenticate", challenge.encode("latin-1"))],
            )
