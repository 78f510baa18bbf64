"""Credential files and helpers for tests."""

import base64
import json
import stat
from pathlib import Path

from crossmount.registry import StoredCredentials

REGISTRY = "r.example.org"


def written(path: Path, user: str, **more: object) -> Path:
    """Write a file with one entry; return its path."""
    auth = base64.b64encode(f"{user}:pw".encode()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}, **more}))
    return path


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """Write an executable helper; return the environment that finds it."""
    folder.mkdir(exist_ok=True)
    file = folder / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


async def user_of(source: StoredCredentials, name: str = "a/b") -> str | None:
    """Return the user name of the found credential."""
    found = await source.find(REGISTRY, name)
    return None if found is None else found.username


def config(folder: Path, **content: object) -> None:
    """Write docker's file in a home folder."""
    (folder / ".docker").mkdir(exist_ok=True)
    (folder / ".docker/config.json").write_text(json.dumps(content))
