"""The users of deploy/redis/users.acl with passwords, as files for servers."""

import hashlib
import re
from pathlib import Path

USERS = Path(__file__).parent.parent.parent / "deploy" / "redis" / "users.acl"

PASSWORD = "a pass/word"
LOGIN = "crossmount:a%20pass%2Fword@"
OPERATOR = "crossmount-operator:a%20pass%2Fword@"
REPLICATION = ("--masteruser", "replica", "--masterauth", PASSWORD)
SENTINEL = ("sentinel", PASSWORD)


def users(text: str | None = None) -> str:
    """Return the file's users, each with PASSWORD; the default user may do everything, so that tests can look."""
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    lines = (USERS.read_text() if text is None else text).splitlines()
    kept = [line for line in lines if not line.startswith("user default ")]
    return "\n".join(["user default on nopass ~* &* +@all", *(f"{line} #{hashed}" for line in kept), ""])


def write_users(folder: Path, text: str | None = None) -> tuple[str, str]:
    """Write the file, and return the server options that load it."""
    path = folder / "users.acl"
    path.write_text(users(text))
    return "--aclfile", str(path)


def readme_block(words: str) -> str:
    """Return the shell block in the README of deploy/redis that contains `words`."""
    blocks = re.findall(r"```sh\n(.*?)```", (USERS.parent / "README.md").read_text(), re.DOTALL)
    (found,) = (block for block in blocks if words in block)
    return str(found)
