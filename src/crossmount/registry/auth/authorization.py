"""What authorizes one request."""

from dataclasses import dataclass, field

from crossmount.registry.auth.flow import Token
from crossmount.registry.credentials.authfiles import Credential


@dataclass(frozen=True, slots=True)
class Authorization:
    """What authorizes one request.

    Attributes:
        header: the value of Authorization, or None for a request without.
        credential: the credential behind it, None for an anonymous request.
        token: the token in the header, if it is one.
        in_vain: whether the token lacks the source of a mount, so that the request would be refused.
    """

    header: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    token: Token | None = None
    in_vain: bool = False


ANONYMOUS = Authorization()
