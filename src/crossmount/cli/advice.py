"""Advice about a failure, in terms of the command's options; and its message: cause, place, advice.

The library's messages name arguments of Python, and events contain a failure as text alone. So the advice depends
on the words of the message, and is the same in an error, a warning and the report of `doctor`.
"""

import re

from crossmount._dataclass import dataclass

REQUEST_MAX = 40
"""Most characters before the cause, so that the cause is within the first sixty of the line."""

_REQUEST = re.compile(r"(?P<request>(?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+): (?P<cause>.+)", re.DOTALL)
_DIGEST = re.compile(r"\b(sha(?:256|512):[0-9a-f]{12})[0-9a-f]{52,116}\b")
_URL = re.compile(r"https?://(?P<host>[^/\s]+)/v2/(?:(?P<name>\S+?)/(?:blobs|manifests|tags)/\S*)?")
_STATUS = re.compile(r"(?:^|: )(?P<status>[45]\d\d)\b")


@dataclass(frozen=True, slots=True)
class Hint:
    """Advice for failures whose message has certain words.

    Attributes:
        words: a regular expression for the message.
        advice: what to do; empty if the message says it already.
        replaces: whether the words are the library's own advice, which this one replaces.
    """

    words: str
    advice: str
    replaces: bool = False

    @property
    def counts(self) -> bool:
        """Whether no later rule is tried for a message that matches it."""
        return bool(self.advice) or not self.replaces

    def search(self, message: str) -> re.Match[str] | None:
        """Find the words in a message. They are compiled when they are needed: most runs have no failure."""
        return re.search(self.words, message, re.DOTALL)


_LOGIN = "docker login {host}, or --authfile FILE"

_REGISTRY_HINTS = (
    Hint(r"; if that is right, allow plain http", "--plain-http, if that is right", replaces=True),
    Hint(r": leave plain http out", "leave out --plain-http (CROSSMOUNT_PLAIN_HTTP)", replaces=True),
    Hint(r"; name its authority's file, or connect insecurely", "--ca-file FILE, or --insecure", replaces=True),
    Hint(r"; use the name that it is for, or connect insecurely", "use that name, or --insecure", replaces=True),
    Hint(r"; give its file and its key's, or put them into certs\.d", "", replaces=True),
    Hint(r"client certificate", "--cert-file FILE --key-file FILE, or put them into certs.d"),
    Hint(r"trust the realm (?P<realm>\S+) by name", "--trusted-realm {realm}"),
    Hint(r"the proxy (?!wants)", "is the proxy running? NO_PROXY exempts hosts from it"),
    Hint(r"--chunk-size|is \S+ a registry\?", ""),
    Hint(r"no credentials", _LOGIN),
    Hint(r"credentials from .*: 401\b|: 401\b.*credentials from", f"are they right? {_LOGIN}"),
    Hint(r"name those to scan", ""),
    Hint(r": 403\b", f"may this account do that? {_LOGIN}"),
    Hint(r": 401\b", _LOGIN),
    Hint(r"/blobs/uploads/.*: 404\b", "is the name right? some registries want a repository to be created first"),
    Hint(r"/manifests/\S+: 404\b", "are the name and the tag right?"),
    Hint(r"(?:POST|PUT|PATCH) .*: 405\b", "is it read-only, or a mirror that takes no pushes?"),
    Hint(r"/tags/list: 404\b", "is the name right?"),
    Hint(r": 429\b", "try later, or with fewer --requests and --uploads"),
    Hint(r": 507\b", "the registry's disk is full"),
    Hint(r": 413\b", "send parts: --chunk-size"),
    Hint(r": 400\b", "the registry refuses this: its log may say why"),
    Hint(r": 5\d\d\b", "the registry failed: try again later, and see its log"),
)
"""The first rule that matches decides. A rule that only replaces words does not end the search."""

_INDEX_HINTS = (
    Hint(r"give a redis|in the URL|upgrade crossmount|scripts are not|holds the key|needs a user who", ""),
    Hint(r"holds something else", "another program uses this key: give another --namespace or database"),
    Hint(r"access (?:a key|one of the keys)", "may this user use this --namespace?"),
    Hint(r"run the '", "this user may not do that: give another in --index (deploy/redis/users.acl)"),
    Hint(r"maxmemory", "the server is full: raise its maxmemory, or let it evict (maxmemory-policy)"),
    Hint(r"read only replica", "give the primary in --index, or a redis+sentinel:// URL"),
    Hint(r"loading", "try again in a moment"),
    Hint(r"Protocol error|with something else", "that is no Redis server: is the port in --index right?"),
    Hint(
        r"refused: (?:Authentication|invalid username|WRONGPASS|NOAUTH|AUTH)",
        "are the user and the password in --index right?",
    ),
    Hint(r"DB index", "is the database in --index right?"),
    Hint(r"WRONG_VERSION_NUMBER|record layer", "it does not speak TLS: give a redis:// URL"),
    Hint(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed", "add ?ca_file=FILE to --index"),
    Hint(
        r"rediss\S* does not answer: no connection in time", "is it running? if it has no TLS, give a redis:// URL"
    ),
    Hint(r"rediss\S* does not answer", "is it running, does it use TLS, and is --index right?"),
    Hint(r"closed by server|reset by peer", "is it running? if it needs TLS, give a rediss:// URL"),
    Hint(
        r"redis\S* does not answer: no reply in time", "is it a Redis server, and without TLS? else give rediss://"
    ),
    Hint(r"does not answer", "is it running, and is --index right?"),
    Hint(r"refused", "check the user, password and database in --index"),
)


def explain(
    words: str, *, registry: str | None = None, default: str = "", where: str = "", rules: bool = True
) -> str:
    """Return the message of a failure: the cause, the place, and what to do.

    Args:
        words: the library's message, or the cause in one of its events.
        registry: the registry that it is about; without one it is that of the URL in the words.
        default: the advice if no rule matches the words.
        where: the place to name instead of the request.
        rules: whether the words decide on the advice; otherwise it is the default.
    """
    table = () if not rules else _INDEX_HINTS if words.startswith("index at ") else _REGISTRY_HINTS
    found = next(((rule, match) for rule in table if rule.counts and (match := rule.search(words))), None)
    advice = default
    if found is not None:
        rule, match = found
        host = registry or (url["host"] if (url := _URL.search(words)) else "REGISTRY")
        advice = rule.advice.format(host=host, **match.groupdict())
    for rule in table:
        words = re.sub(rule.words, "", words, flags=re.DOTALL) if rule.replaces else words
    return _with(_ordered(words, where), advice)


def _ordered(words: str, where: str) -> str:
    """Return the cause, and in brackets the place: `where`, or a long request, or the repository of a login."""
    match = _REQUEST.fullmatch(words)
    if match is None:
        return shorten(f"{words} ({where})" if where else words)
    cause, request = match["cause"], match["request"]
    if not where:
        url = _URL.search(request)
        if url is not None and _STATUS.match(cause) and "credentials" in cause:
            where = "/".join(filter(None, (url["host"], url["name"])))
            if cause.startswith(_WANTS_LOGIN):
                return f"401: {where} wants a login{cause.removeprefix(_WANTS_LOGIN)}"
        elif len(request) <= REQUEST_MAX:
            return words
        else:
            where = request
    return f"{shorten(cause)} ({shorten(where)})"


_WANTS_LOGIN = "401: it wants a login"


def shorten(words: str) -> str:
    """Return a message with the digests of URLs cut to twelve digits; -vv has them whole."""
    return _DIGEST.sub(r"\1…", words) if "://" in words else words


def _with(words: str, advice: str | None) -> str:
    return f"{words}: {advice}" if advice else words
