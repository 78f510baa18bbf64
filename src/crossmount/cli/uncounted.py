"""Pushes that the index could not count, kept in the user's state folder until the next push of this host.

A long-running process counts them itself when the index answers again. The command ends before that, so it writes
a small file, and the next push with the same index and namespace counts its contents. A runner whose disk does
not outlive the job loses them. The index adds each push once, so no push counts twice.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from crossmount.embedded.files import default_paths
from crossmount.errors import CrossmountError
from crossmount.index.accounts import accounts_of
from crossmount.oci import Digest, Repository
from crossmount.savings import AccountEntry, LayerIncrement, PushIncrement, Tally
from crossmount.savings.accounts import FATES, prefix_of

KEPT_MAX = 64
"""The most pushes in a file; the oldest of more are dropped."""

_BYTES_MAX = 256 * 1024
_NUMBER_MAX = 10**15
_ID = re.compile(r"[A-Za-z0-9_-]{8}")
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def carried_over(
    index: object, url: str, namespace: str, *, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Queue the pushes that earlier commands stored, and store those of the block that could not be counted.

    Args:
        index: the index; None, or one without accounts, leaves everything as it is.
        url: the index's URL without secrets, and the namespace: whose pushes they are.
        namespace: the same.
        env: the environment; by default that of this process.
    """
    accounts, file = accounts_of(index), _file(url, namespace, env)
    if accounts is None or file is None:
        yield
        return
    accounts.account(*_take(file))
    try:
        yield
    finally:
        if left := accounts.take_unwritten():
            _keep(file, left)


def _file(url: str, namespace: str, env: Mapping[str, str] | None) -> Path | None:
    try:
        folder = default_paths(env).folder.parent
    except CrossmountError:  # no home folder
        return None
    name = hashlib.sha256(f"{namespace} {url}".encode()).hexdigest()[:16]
    return folder / "uncounted" / f"{name}.json"


def _take(file: Path) -> Sequence[AccountEntry]:
    """Remove a file and return its pushes. If two commands do so at once, one of them gets the pushes."""
    mine = file.with_suffix(f".{os.getpid()}")
    try:
        file.rename(mine)
        content = mine.read_bytes()[:_BYTES_MAX]
        mine.unlink()
        found = json.loads(content)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        _log.info("pushes that were not counted yet are lost: %s: %s", file, error)
        return ()
    entries = map(_entry, found if isinstance(found, list) else ())
    return [entry for entry in entries if entry is not None][-KEPT_MAX:]


def _keep(file: Path, left: Sequence[AccountEntry]) -> None:
    entries = {entry.id: entry for entry in (*_take(file), *left)}
    text = json.dumps([_to_json(entry) for entry in list(entries.values())[-KEPT_MAX:]])
    new = file.with_suffix(f".{os.getpid()}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(text)
        new.replace(file)
    except OSError as error:
        _log.info("pushes that were not counted are lost: %s: %s", file, error)


def _to_json(entry: AccountEntry) -> dict[str, Any]:
    push = entry.increment
    return {
        "id": entry.id,
        "day": entry.day.isoformat(),
        "registry": push.registry,
        "prefix": push.prefix,
        "numbers": list(push.tally.numbers),
        "layers": [[layer.digest, layer.size, layer.fate] for layer in push.layers],
    }


def _entry(found: Any) -> AccountEntry | None:
    """Return the push that a part of a file describes; None if it describes none."""
    try:
        place = Repository(found["registry"], found["prefix"])
        numbers, layers = found["numbers"], [_layer(*each) for each in found["layers"]]
        if not all(_is_number(number) for number in numbers) or not _ID.fullmatch(found["id"]):
            return None
        increment = PushIncrement(place.registry, prefix_of(place), Tally.of(numbers), tuple(layers))
        return AccountEntry(found["id"], date.fromisoformat(found["day"]), increment)
    except (KeyError, TypeError, ValueError, CrossmountError):
        return None


def _layer(digest: Any, size: Any, fate: Any) -> LayerIncrement:
    if not _is_number(size) or fate not in FATES:
        raise ValueError
    return LayerIncrement(Digest(digest), size, fate)


def _is_number(found: Any) -> bool:
    return type(found) is int and 0 <= found < _NUMBER_MAX
