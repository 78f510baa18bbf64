"""`--mount-rights token`: a client is asked once for a token that covers the source of a mount.

A token that covers only dest mounts nothing from elsewhere. If its account may read a source, the client gets a
401 `insufficient_scope` that names dest and the source: skopeo and others return with a token for both. A client
that does not is asked no second time, and uploads. No source is named to an account that may not read it.
"""

from crossmount._expiring import ExpiringSet
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.auth.permissions import Permissions
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.source_privacy import SourcePrivacy
from crossmount.registry.auth.scope import pull, push

ASKED_SECONDS = 600.0
"""How long an account is not asked again for the same source and destination."""

_SOURCES_MAX = 3
_ASKED_MAX = 4096


class WiderTokens:
    """Asks clients for tokens that cover more sources.

    Args:
        privacy: finds out which repositories an account may read.
        permissions: which sources are allowed.
    """

    def __init__(self, privacy: SourcePrivacy, permissions: Permissions) -> None:
        self._privacy = privacy
        self._permissions = permissions
        self._asked: ExpiringSet[str] = ExpiringSet(ASKED_SECONDS, limit=_ASKED_MAX)

    async def ask_once(self, exchange: Exchange, caller: Caller, attempt: MountAttempt) -> None:
        """Refuse a request, once, if its token lacks a source that its account may read.

        Raises:
            RequestRefusedError: 401, with a challenge that names the source.
        """
        account, widen, dest = caller.account, caller.widen, attempt.dest
        if account is None or widen is None or attempt.mounted or not caller.may_push(dest.name):
            return
        known = account.mounter.candidates(attempt.knowledge, dest).get(attempt.digest, ())
        for source in known[:_SOURCES_MAX]:
            name = f"{caller.key} {dest.name} {source.name}"
            if caller.may_mount_from(source.name) or name in self._asked:
                continue
            if not self._permissions.allows_source(source.name, dest=dest.name, caller=caller.name):
                continue
            if not await self._privacy.can_read(
                caller, account, dest, source, attempt.digest, answer_at=attempt.answer_at
            ):
                continue
            challenge = widen(exchange, (push(dest), pull(source)))
            if challenge is None:
                return
            self._asked.add(name)
            raise RequestRefusedError(
                401,
                "DENIED",
                "this token does not cover a repository that the blob can be mounted from",
                headers=[(b"www-authenticate", challenge.encode("latin-1"))],
            )
