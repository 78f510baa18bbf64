"""`WWW-Authenticate`, read as RFC 9110 (11.6.1) writes it, and leniently where registries do not. No I/O."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from crossmount.registry.auth.scope import Scope, parse_scopes

_HEADER_MAX = 8 * 1024
_GAP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_PARAMETER = re.compile(
    r"(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>[^\s,\"]*))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NEXT = re.compile(r",|$")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to be authorised that a server offers.

    Attributes:
        scheme: in lower case.
        parameters: names in lower case; the first of a repeated name counts.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants a name and a password with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token, to be had at `realm` (distribution project, "Token Authentication").

    Attributes:
        scopes: what it was asked for in vain; not part of who gives the token.
        error: why a token that was sent did not do: `insufficient_scope`, `invalid_token`.
    """

    realm: str
    service: str
    scopes: tuple[Scope, ...] = field(default=(), compare=False)
    error: str = field(default="", compare=False)


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of one header's value, in order; what cannot be understood is passed over."""
    challenges: list[tuple[str, dict[str, str]]] = []
    for kind, name, value in _pieces(header[:_HEADER_MAX]):
        if kind == "scheme":
            challenges.append((name.lower(), {}))
        elif challenges:
            challenges[-1][1].setdefault(name.lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in challenges]


def _pieces(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield `("scheme", name, "")` and `("parameter", name, value)`."""
    at = 0
    while (at := _end(_GAP.match(text, at), at)) < len(text):
        if (parameter := _PARAMETER.match(text, at)) is not None:
            quoted = parameter["quoted"]
            value = parameter["bare"] if quoted is None else _ESCAPE.sub(r"\1", quoted)
            yield "parameter", parameter["name"], value
            at = parameter.end()
        elif (scheme := _TOKEN.match(text, at)) is not None:
            yield "scheme", scheme[0], ""
            # `Negotiate abc==` carries one value without a name, which none of our schemes has
            at = _end(_TOKEN68.match(text, scheme.end()), scheme.end())
        else:
            at = _end(_NEXT.search(text, at + 1), len(text))


def _end(match: "re.Match[str] | None", otherwise: int) -> int:
    return otherwise if match is None else match.end()


def choose(headers: Iterable[str]) -> Bearer | Basic | None:
    """Return the way to be authorised that we take: a token if one is offered, else name and password."""
    challenges = [challenge for header in headers for challenge in parse_challenges(header)]
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            given = challenge.parameters
            return Bearer(
                realm=given["realm"],
                service=given.get("service", ""),
                scopes=parse_scopes(given.get("scope", "")),
                error=given.get("error", ""),
            )
    return Basic() if any(challenge.scheme == "basic" for challenge in challenges) else None
