"""A parser of `WWW-Authenticate` (RFC 9110, 11.6.1), lenient where registries break the grammar. No I/O."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field

from crossmount._dataclass import dataclass
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
    """One challenge of a server.

    Attributes:
        scheme: in lower case.
        parameters: by name in lower case; of a repeated parameter the first is used.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry asks for a user name and a password with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry asks for a token, which `realm` issues (distribution project, "Token Authentication").

    Attributes:
        realm: the URL that issues tokens.
        service: the registry's name at the realm.
        scopes: the scopes of the refused request; not compared, because one realm issues all tokens.
        error: why the sent token was refused (`insufficient_scope`, `invalid_token`); not compared.
    """

    realm: str
    service: str
    scopes: tuple[Scope, ...] = field(default=(), compare=False)
    error: str = field(default="", compare=False)


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges in one header's value, in order; text outside the grammar is skipped."""
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
            # `Negotiate abc==` has one value without a name; no scheme of ours has one
            at = _end(_TOKEN68.match(text, scheme.end()), scheme.end())
        else:
            at = _end(_NEXT.search(text, at + 1), len(text))


def _end(match: "re.Match[str] | None", otherwise: int) -> int:
    return otherwise if match is None else match.end()


def choose(headers: Iterable[str]) -> Bearer | Basic | None:
    """Return the challenge to answer: the first for a token, else one for a password, or None."""
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
