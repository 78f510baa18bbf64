"""Every failure that the commands can show, provoked: `pytest -rP` on this file prints all messages at 80 columns.

Each message is one to three lines of a terminal, begins with the cause, and says where and what to do.
"""

import json
import re
import shlex
import socket
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crossmount.testing import (
    BasicAuth,
    Grant,
    RegistryOptions,
    ScriptedRegistry,
    TokenAuth,
    html,
    running_registry,
)
from crossmount.testing.faults import Fault, Reply
from support.certificates import self_signed
from support.commands import Here, Shell
from support.images import make_layers, make_layout, to_archive
from support.places import Fronted
from support.servers import Server, run_server
from support.waiting import silent_servers

COLUMNS = 80
CAUSE_MAX = 62
"""Characters of the line, from its beginning, in which the cause stands."""

USERS = {"ci": "right"}
ZERO = f"sha256:{'0' * 64}"


@dataclass(slots=True)
class World:
    """Everything that can go wrong, by name; a command line refers to it as `{name}`."""

    stack: ExitStack
    folder: Path
    places: dict[str, str] = field(default_factory=dict)

    def registry(self, name: str, *faults: Fault, **how: object) -> ScriptedRegistry:
        """Run a registry and name it."""
        found = self.stack.enter_context(running_registry(faults=faults, **how))  # type: ignore[arg-type]
        self.places[name] = found.address
        return found

    def file(self, name: str, content: str) -> None:
        """Write a file and name it."""
        path = self.folder / name
        path.write_text(content)
        self.places[name] = str(path)

    def login(self, name: str, registry: str, password: str) -> None:
        """Write a credential file and name it."""
        entry = {"username": "ci", "password": password}
        self.file(name, json.dumps({"auths": {self.places[registry]: entry}}))


def _refusing(status: int, method: str, path: str = "*") -> Fault:
    return Fault(action=Reply(status=status), method=method, path=path, times=None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[World]:
    """Run registries and servers that fail in all ways."""
    folder = tmp_path_factory.mktemp("world")
    with ExitStack() as stack:
        made = World(stack, folder)
        image = make_layout(folder / "image", make_layers(3, size=2000))
        closed, silent = socket.socket(), stack.enter_context(silent_servers(1))[0]
        stack.enter_context(closed).bind(("127.0.0.1", 0))
        made.places |= {
            "image": str(image.path),
            "folder": str(folder),
            "closed": f"127.0.0.1:{closed.getsockname()[1]}",
            "silent": silent,
            "zero": ZERO,
        }
        made.registry("open").put_blob("team/app", b"a blob")
        made.registry("basic", options=RegistryOptions(auth=BasicAuth(users=USERS)))
        grants = {"ci": (Grant("ok/*"),)}
        made.registry("token", options=RegistryOptions(auth=TokenAuth(users=USERS, grants=grants)))
        context, authority = self_signed(folder)
        secure = made.registry("tls", tls=context)
        made.places |= {"authority": str(authority), "tls_name": f"localhost:{secure.address.split(':')[1]}"}
        made.registry("web", Fault(action=html(), times=None))
        made.registry("web404", Fault(action=html(404), times=None))
        made.registry("busy", _refusing(429, "POST"))
        made.registry("full", _refusing(507, "POST"))
        made.registry("picky", _refusing(400, "PUT", "*/manifests/*"))
        made.registry("strict", _refusing(404, "POST"))
        made.registry("forbidden", _refusing(403, "POST"))
        made.registry("read_only", _refusing(405, "POST"))
        made.registry("small", _refusing(413, "PATCH|PUT"))
        for name, registry, password in (
            ("wrong", "basic", "wrong one"),
            ("wrong_token", "token", "wrong one"),
            ("right_token", "token", "right"),
        ):
            made.login(name, registry, password)
        made.file("broken", "{")
        made.file("helper", json.dumps({"credHelpers": {made.places["basic"]: "absent"}}))
        made.file("empty", "")
        made.file("list", "a b c\nd\n")
        made.places["tar"] = str(to_archive(image.path, folder / "image.tar"))
        for name, options in (
            ("password", ("--requirepass", "secret")),
            ("replica", ("--replicaof", "127.0.0.1", "1")),
            ("memory", ("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")),
        ):
            server: Server = stack.enter_context(run_server(valkey_binary, *options))
            made.places[name] = f"127.0.0.1:{server.port}"
        yield made


@dataclass(frozen=True, slots=True)
class Case:
    """A command that fails.

    Attributes:
        line: the command line.
        status: its exit status.
        cause: a pattern in the first sixty characters.
        advice: a pattern for what to do.
    """

    line: str
    status: int
    cause: str
    advice: str


PUSH = "push {image} "
OFF = " --index off"
PLAIN = " --plain-http --index off"
REDIS = " --index redis://"

CASES = [
    # logins
    Case(PUSH + "{basic}/a:1" + PLAIN, 4, "wants a login", "looked in .*config.json.*docker login.*--authfile"),
    Case(PUSH + "{token}/a:1" + PLAIN, 4, "wants a login", "docker login 127.*--authfile"),
    Case(PUSH + "{basic}/a:1 --authfile {wrong}" + PLAIN, 4, "401: not with these", "wrong.*docker login"),
    Case(PUSH + "{token}/a:1 --authfile {wrong_token}" + PLAIN, 4, "gave no token", "docker login"),
    Case(PUSH + "{token}/no/a:1 --authfile {right_token}" + PLAIN, 4, "401: not with these", "docker login"),
    Case(PUSH + "{basic}/a:1 --authfile {broken}" + PLAIN, 1, "not JSON", "log in anew"),
    Case(PUSH + "{basic}/a:1 --authfile {folder}/none" + PLAIN, 2, "--authfile", "does not exist"),
    Case(PUSH + "{basic}/a:1 --authfile {helper}" + PLAIN, 1, "docker-credential-absent", "install it"),
    Case("copy {basic}/a:1 {open}/a:1" + PLAIN, 4, "not copied: 401", "docker login 127"),
    Case("scan {basic} --plain-http --index memory://", 4, "does not list its repositories", "docker login"),
    Case("scan {token}/no/a --plain-http --index memory://", 4, "no/a: failed: 401", "docker login"),
    Case("locate {basic}/a:1 --plain-http --index memory://", 4, "401", "docker login"),
    Case(PUSH + "{forbidden}/a:1" + PLAIN, 4, "403", "docker login"),
    # registries
    Case("doctor {closed}/a" + PLAIN, 1, "", "connection refused.*is the registry running"),
    Case("copy {closed}/a {open}/a" + PLAIN, 1, "not copied: connection refused", "is the registry running"),
    Case("scan {closed} --plain-http --index memory://", 1, "connection refused", "is the registry running"),
    Case(PUSH + "nosuch.invalid/a:1" + OFF, 1, "no such host", "is the address right"),
    Case("doctor {silent}/a" + OFF, 1, "", "no answer to the TLS handshake"),
    Case(PUSH + "{open}/a:1" + OFF, 1, "it does not speak TLS", "--plain-http"),
    Case(PUSH + "{tls}/a:1" + PLAIN, 1, "it speaks TLS", "leave out --plain-http.*CROSSMOUNT_PLAIN_HTTP"),
    Case(PUSH + "{tls}/a:1" + OFF, 1, "its certificate is not trusted", "--ca-file FILE, or --insecure"),
    Case(PUSH + "{tls_name}/a:1 --ca-file {authority}" + OFF, 1, "certificate is for another name", "--insecure"),
    Case(PUSH + "{tls}/a:1 --ca-file {broken}" + OFF, 2, "", "not a readable PEM file"),
    Case(PUSH + "{tls}/a:1 --cert-file {broken}" + OFF, 2, "--cert-file needs --key-file", "PEM file"),
    Case(PUSH + "{web}/a:1" + PLAIN, 1, "answered 200 with a web page", "a registry?"),
    Case(PUSH + "{web404}/a:1" + PLAIN, 1, "answered 404 with a web page", "a registry?"),
    Case("doctor {busy}/a" + PLAIN, 0, "", ""),
    Case(PUSH + "{full}/a:1" + PLAIN, 1, "507", "disk is full"),
    Case(PUSH + "{picky}/a:1" + PLAIN, 1, "400", "its log may say why"),
    Case(PUSH + "{strict}/a:1" + PLAIN, 1, "404", "is the name right.*created first"),
    Case(PUSH + "{read_only}/a:1" + PLAIN, 1, "405", "is it read-only, or a mirror"),
    Case(PUSH + "{small}/a:1" + PLAIN, 1, "413", "--chunk-size"),
    Case("copy {open}/no:1 {open}/b:1" + PLAIN, 1, "not copied: 404", "are the name and the tag right"),
    Case("copy {open}/no {open}/b --all-tags" + PLAIN, 1, "not copied: 404", "is the name right"),
    Case("locate {open}/no:1 --plain-http --index memory://", 1, "404", "are the name and the tag right"),
    Case("scan {open}/no --plain-http --index memory://", 1, "failed: 404", "is the name right"),
    # sources
    Case(
        "push alpine:3 {open}/a:1" + PLAIN,
        1,
        "alpine:3: no such file",
        "docker save alpine:3.*skopeo copy docker://a",
    ),
    Case("push docker://alpine:3 {open}/a:1" + PLAIN, 1, "docker://alpine:3: no such", "skopeo copy"),
    Case("push oci:none {open}/a:1" + PLAIN, 1, "none: no such file", "give an image layout"),
    Case("push none.tar {open}/a:1" + PLAIN, 1, "none.tar: no such file", "give an image layout"),
    Case("push {empty} {open}/a:1" + PLAIN, 1, "", "an empty file: did docker save"),
    Case("push {broken} {open}/a:1" + PLAIN, 1, "", "not a tar .*docker save"),
    Case("push {folder} {open}/a:1" + PLAIN, 1, "", "there is one in 'image'"),
    Case("push oci:{image}:nope {open}/a:1" + PLAIN, 1, "", "'nope' names no image.*it has: latest"),
    Case("push oci: {open}/a:1" + PLAIN, 1, "'oci:'", "give oci:PATH"),
    Case(PUSH + "{open}/a:1 --platform linux/s390x" + PLAIN, 2, "", "it has no platform linux/s390x.*linux/amd64"),
    Case(PUSH + "{open}/a@{zero}" + PLAIN, 2, "", "give that one, or none"),
    Case(PUSH + "{open}/A:1" + PLAIN, 2, "invalid value for 'DEST'", "lower-case"),
    Case(PUSH + "https://{open}/a:1" + PLAIN, 2, "invalid value for 'DEST'", "leave https:// out"),
    Case(PUSH + "{open}" + PLAIN, 2, "invalid value for 'DEST'", "/NAME"),
    Case("copy a", 2, "give SOURCE and DEST", "copy --help"),
    Case("copy {open}/no:1 {open}/b:1 --cache {image}" + PLAIN, 2, "", "give an empty or absent folder"),
    Case("copy --from {list}" + PLAIN, 2, "", "list:2: .*give a destination"),
    # indexes
    Case("index status" + REDIS + "{closed}", 1, "index at redis://", "connection refused: is it running"),
    Case("index status" + REDIS + "{silent}", 1, "index at redis://", "no reply in time: is it a Redis server"),
    Case("index status" + REDIS + "{tls}", 1, "index at redis://", "rediss://"),
    Case("index status --index rediss://{password}", 1, "index at rediss://", "if it has no TLS, give a redis://"),
    Case("index status" + REDIS + "{password}", 1, "index at redis://", "user and the password in --index"),
    Case("index status" + REDIS + ":no@{password}", 1, "index at redis://", "user and the password in --index"),
    Case("index status" + REDIS + "{memory}/99", 1, "index at redis://", "is the database in --index right"),
    Case("index status" + REDIS + "nosuch.invalid", 1, "index at redis://", "not known: is it running"),
    Case("index status --index redis+cluster://{memory}", 1, "index at redis", "give a redis:// URL"),
    Case("index status --index redis+sentinel://{memory}/main", 1, "index at redis", "give a redis:// URL"),
    Case("index status --index unix:///none.sock", 1, "index at unix://", "is it running"),
    Case("index status" + REDIS + "{memory}", 1, "takes no writes", "raise its maxmemory"),
    Case("index status" + REDIS + "{replica}", 1, "takes no writes", "give the primary in --index"),
    Case("index status --index 127.0.0.1:6379", 2, "it has no scheme", "put redis:// before"),
    Case("index status --index redis.example.com", 2, "it has no scheme", "put redis:// before"),
    Case("index status --index valkey://a", 2, "not an index URL", "did you mean redis://"),
    Case("index status --index https://a", 2, "not an index URL", "did you mean rediss://"),
    Case("index status --index rdis://a", 2, "not an index URL", "did you mean redis://"),
    Case("index status --index embedded", 2, "not an index URL", "did you mean embedded:"),
    Case("index status --index redis://a:99999", 2, "a port", "65535"),
    Case("index status --index redis://a?x=1", 2, "an option", "client_name"),
    Case("index status --index rediss://a?ca_file=/none", 2, "ca_file cannot be read", "No such file"),
    Case("sources {zero} r.io/a --index off", 2, "needs an index, and it is off", "--index another"),
    Case("index stop" + REDIS + "a", 2, "only the embedded index", "stop --help"),
    Case("doctor --index memory:// --namespace a*", 1, "", "give at most 64"),
    Case("index prune --index {acl}", 1, "index at redis://", "crossmount-operator"),
    Case("index info --index {acl}", 1, "index at redis://", "crossmount-operator"),
    Case(
        "index status --index {acl} --namespace other",
        1,
        "index at redis://",
        "use this --namespace",
    ),
    Case("index export /none/x --index memory://", 1, "/none/x: No such file", ""),
    Case("index export /dev/full --index memory://", 1, "/dev/full: No space left", "free some space there"),
    Case("index import {broken} --index memory://", 2, "", "not an exported index"),
    Case("index same-registry a=b --index memory://", 2, "an index in memory shares nothing", "--index"),
    # words of the command line
    Case("sources sha256:1 r.io/a", 2, "invalid value for 'LAYER'", "64 lower-case hex"),
    Case("index registry a_b!", 2, "invalid value for 'REGISTRY'", "not a host name"),
    Case("scan team/app --index memory://", 2, "'team/app': name the registry first", "registry.example/team/app"),
    Case("scan a.io b.io --index memory://", 2, "one registry at a time", "commands of their own"),
    Case("scan {open}/zz* --plain-http --index memory://", 1, "no repository of", "matches zz.*listed"),
    Case("scan a.io --from {empty} --index memory://", 2, "", "lists nothing to scan"),
    Case("events --index memory://", 2, "missing option '--registry'", "CROSSMOUNT_EVENTS_REGISTRY"),
    Case("events --registry r.io --listen {open} --index memory://", 1, "cannot listen there", "in use"),
    Case("proxy --upstream ftp://x --index memory://", 2, "--upstream", "https:// or http://"),
    Case("proxy --upstream https://r.io --listen x --index memory://", 2, "--listen", "host:port"),
    Case("login r.io", 2, "no command 'login'", "docker login r.io"),
    Case("psuh", 2, "no command 'psuh'", "did you mean push"),
    Case("push --plainhttp a b", 2, "no such option", "--plain-http"),
    Case("-vv", 2, "missing command", "crossmount --help"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_every_failure_says_what_went_wrong_where_and_what_to_do(
    world: World, here: Here, shell: Shell, case: Case, acl_process: Fronted
) -> None:
    """A message has at most three lines at 80 columns, begins with the cause, and says what to do."""
    is_tls = case.line.startswith("push") and ("{tls" in case.line or "--plain-http" not in case.line)
    run = shell if is_tls else here  # asyncio leaves a socket open where a handshake is cancelled
    done = run(*shlex.split(case.line.format_map({**world.places, "acl": acl_process.url})))
    said = [line for line in done.err.splitlines() if line.startswith("crossmount: ")]
    if case.line.startswith("doctor"):
        said = [line for line in done.out.splitlines() if "FAILED" in line] or said
    sys.stdout.write(f"$ crossmount {case.line}   [{done.status}]\n")
    for line in said:
        sys.stdout.write(f"{textwrap.fill(line, COLUMNS, break_on_hyphens=False)}\n")
    assert done.status == case.status, done.err
    if not case.status:
        return
    message = said[-1].replace(str(world.folder), "/w")  # a test's folder has a long name
    assert re.search(case.cause, message[: len("crossmount: ") + CAUSE_MAX]), message
    assert re.search(case.advice, message), message
    lines = 4 if "not copied" in message else 3  # a copy names both images
    assert len(message) <= lines * COLUMNS, message
