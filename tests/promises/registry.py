"""The registry of a world, as its options and its script of faults."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from crossmount.testing import (
    Alter,
    BasicAuth,
    CutReceiving,
    Echo,
    Fault,
    Grant,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
)
from crossmount.testing.faults import Action
from promises.image import LAYER_KIND, MANIFEST_KIND, Content, entry
from promises.raw import Login
from promises.worlds import DEST, SECOND, Family, World
from support.holdings import put_document

LOGIN: Login = ("ci", "Pa55/of the:world")
TOKENS = "token-of-the-world-"
UPLOADS = "*/blobs/uploads/*"
SLOW_COMMIT = 0.9
"""Seconds that a commit takes with `SLOW_COMMIT`."""

TRIED: Counter[str] = Counter()
"""How many worlds were tried, and how many requests registries answered in them."""


def login_of(world: World) -> Login | None:
    """Return the caller's login, None on an open registry."""
    return LOGIN if Family.BASIC in world or Family.TOKEN in world else None


def registry_options(world: World, stranger: str) -> RegistryOptions:
    """Return the traits of a world's registry; `stranger` is the URL of another host."""
    hidden = frozenset(name for layer in world.layers for name in layer.unreadable)
    heads: dict[Family, Literal["anywhere", "linking"]] = {
        Family.HEAD_ANYWHERE: "anywhere",
        Family.HEAD_LINKING: "linking",
    }
    lies = ("*",) if Family.FALSE_MOUNTS in world else ("sha512:*",) if Family.FALSE_SHA512 in world else ()
    return RegistryOptions(
        mounts=Family.NO_MOUNTS not in world,
        finds=Family.FINDS in world,
        checks_references=Family.UNCHECKED not in world,
        relative_locations=Family.RELATIVE in world,
        after_manifest=Family.AFTER_MANIFEST in world,
        denied_sources=frozenset() if login_of(world) else hidden,
        false_mounts=lies,
        blob_heads=next((how for family, how in heads.items() if family in world), "own"),
        commit_seconds=SLOW_COMMIT if Family.SLOW_COMMIT in world else 0.0,
        location_base=stranger if Family.STRANGER_LOCATION in world else None,
        auth=_auth(world, hidden, stranger),
    )


def _auth(world: World, hidden: frozenset[str], stranger: str) -> BasicAuth | TokenAuth | None:
    read, write = frozenset({"pull"}), frozenset({"pull", "push"})
    dest = read if Family.NO_PUSH in world else write if Family.NO_DELETE in world else write | {"delete"}
    others = {name for layer in world.layers for name in (*layer.holders, *layer.stale)} - hidden - {DEST}
    grants = {LOGIN[0]: (Grant(DEST, dest), Grant(SECOND, dest), *(Grant(name, read) for name in sorted(others)))}
    users, hides = dict([LOGIN]), Family.HIDDEN in world
    if Family.BASIC in world:
        return BasicAuth(users=users, grants=grants, hides_sources=hides)
    if Family.TOKEN not in world:
        return None
    return TokenAuth(
        users=users,
        grants=grants,
        hides_sources=hides,
        refuses_whole=Family.REFUSES_WHOLE in world,
        reads_first_scope=Family.FIRST_SCOPE in world,
        uses=30 if Family.SHORT_TOKENS in world else None,
        realm=f"{stranger}/token" if Family.STRANGER_REALM in world else None,
        prefix=TOKENS,
    )


def faults_of(world: World, content: Content, stranger: str) -> list[Fault]:
    """Return the script of a world's registry; `stranger` is the URL of another host."""
    faults: list[Fault] = []
    if Family.ECHO in world:
        path, method = ("/token", "*") if world.echo == "token" else ("/v2/*/*", world.echo)
        faults.append(Fault(path=path, method=method, action=Echo(world.echo_status), times=None))
    if Family.STRANGER_REDIRECT in world:
        redirect = Reply(status=307, headers=(("Location", f"{stranger}/blob"),))
        faults.append(Fault(method="HEAD", path="*/blobs/*", action=redirect, times=None))
    if Family.BUSY in world:
        faults += [Fault(method=m, path="/v2/*", action=Reply(status=503)) for m in ("POST", "PUT", "HEAD", "GET")]
    if Family.CUT in world:
        digest, data = content.layers[world.cut % len(content.layers)]
        query = f"*digest={digest.replace(':', '*')}*"
        faults.append(Fault(method="PUT", path=UPLOADS, query=query, action=CutReceiving(len(data) // 2)))
        offset = ("Range", f"0-{max(0, len(data) // 2 - 1)}")
        if Family.REFUSED_PARTS in world:
            faults.append(Fault(method="PATCH", path=UPLOADS, action=_odd(world.part_status), times=None))
        if Family.PART_NOT_TAKEN in world:
            part = Reply(status=202, headers=(offset,), body=b"", media_type="application/json")
            faults.append(Fault(method="PATCH", path=UPLOADS, action=part, times=None))
    if Family.REFUSED_MOUNTS in world:
        refusal = _odd(world.mount_status)
        faults.append(Fault(method="POST", path=UPLOADS, query="*mount=*", action=refusal, times=None))
    no_length = ("Content-Length",)
    heads: dict[Family, Action] = {
        Family.HEAD_WITHOUT_LENGTH: Alter(drop=no_length),
        Family.HEAD_REFUSED: Reply(status=405),
        Family.HEAD_ALWAYS: Alter(status=200, drop=no_length),
    }
    faults += [
        Fault(method="HEAD", path="*/blobs/*", action=action, times=None)
        for family, action in heads.items()
        if family in world
    ]
    return faults


def _odd(status: int) -> Reply:
    """Return an answer without effect; a status that says yes has no body."""
    return Reply(status=status, body=b"" if status < 300 else None, media_type="application/json")


@asynccontextmanager
async def registry_of(
    world: World, content: Content, *, slow: bool = True, stranger: str = ""
) -> AsyncIterator[ScriptedRegistry]:
    """Run a world's registry.

    Args:
        world: the world.
        content: its image.
        slow: off, a commit takes no time.
        stranger: the URL of another host.
    """
    options = registry_options(world, stranger)
    if not slow:
        options = replace(options, commit_seconds=0.0)
    async with ScriptedRegistry(options, faults=faults_of(world, content, stranger)) as registry:
        for layer, (digest, data) in zip(world.layers, content.layers, strict=True):
            for name in layer.holders:
                registry.put_blob(name, data, algorithm=digest.algorithm)
            for name in (*layer.holders, *layer.stale):
                if name != DEST:
                    document = {"schemaVersion": 2, "layers": [entry(LAYER_KIND, digest, data)]}
                    put_document(registry, name, f"of-{digest.encoded[:12]}", document, MANIFEST_KIND)
        yield registry
        TRIED["requests"] += len(registry.requests)


def write_login(world: World, registry: ScriptedRegistry, folder: Path) -> Path:
    """Write the caller's credential file."""
    login = login_of(world)
    auths = {registry.address: dict(zip(("username", "password"), login, strict=True))} if login else {}
    path = folder / "auth.json"
    path.write_text(json.dumps({"auths": auths}))
    return path
