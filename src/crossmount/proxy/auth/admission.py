"""Whether the registry has let a caller in within the last minute.

The proxy acts for a caller only while the registry has accepted this very Authorization within the last minute: a
changed password must not continue to work because the proxy still has older tokens. A refusal ends that at once,
and drops everything stored for the caller.
"""

from collections.abc import Callable
from dataclasses import field

import httpx

from crossmount._dataclass import dataclass
from crossmount._expiring import ExpiringSet
from crossmount.registry.auth.challenge import Basic, Bearer, choose

ADMITTED_SECONDS = 60.0
"""How long an acceptance by the registry counts."""

ADMITTED_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Admission:
    """The registry's verdict on one Authorization.

    Attributes:
        admissions: the keys of all callers that the registry has let in lately. Refused callers take no room.
        key: a keyed hash of the Authorization.
        on_admitted: called each time that the registry accepts it.
        on_refused: called when the registry refuses the credentials.
    """

    admissions: ExpiringSet[str]
    key: str = field(repr=False)
    on_admitted: Callable[[], None]
    on_refused: Callable[[], None]

    @property
    def is_recent(self) -> bool:
        """Whether the registry let the caller in within the last minute."""
        return self.key in self.admissions

    def observe(self, response: httpx.Response, *, scheme: str) -> None:
        """Learn from an answer to a request with this Authorization.

        Args:
            response: the registry's answer.
            scheme: the Authorization's scheme, in lower case.
        """
        if is_yes(response.status_code):
            self.admissions.add(self.key)
            self.on_admitted()
        elif response.status_code in {401, 403}:
            self.admissions.remove(self.key)
            if refuses_credentials(response, scheme=scheme):
                self.on_refused()


def is_yes(status: int) -> bool:
    """Return whether a registry gives this status only to a caller that it let in."""
    return 200 <= status < 400 or status in {404, 416}


def refuses_credentials(response: httpx.Response, *, scheme: str) -> bool:
    """Return whether a 401 or 403 concerns the credentials themselves.

    A token that lacks a scope is still good, and a registry that takes tokens alone says nothing of a password.
    """
    challenge = choose(response.headers.get_list("www-authenticate"))
    if isinstance(challenge, Bearer):
        return scheme == "bearer" and challenge.error != "insufficient_scope"
    return response.status_code == 403 or isinstance(challenge, Basic)
