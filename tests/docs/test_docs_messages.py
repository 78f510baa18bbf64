"""The page about trouble knows the messages that commands print."""

import json
import re
from pathlib import Path

import pytest

import redis
from crossmount.testing import BasicAuth, Fault, RegistryOptions, Reply, running_registry
from support.commands import Here
from support.images import make_layers, make_layout
from support.servers import StartServer

PAGE = Path(__file__).parents[2] / "src" / "crossmount" / "docs" / "troubleshooting.md"
KNOWN = {
    phrase
    for line in PAGE.read_text().splitlines()
    if line.startswith("|")
    for phrase in re.findall(r"`([^`]+)`", line.split("|")[1])
}
DEAD = "127.0.0.1:1"  # nobody listens there


def said(output: str, phrase: str) -> None:
    """Check that a command said a phrase which the page explains."""
    assert phrase in KNOWN, f"{phrase} is not in {PAGE.name}"
    assert phrase in output


@pytest.mark.parametrize(
    ("index", "phrase"),
    [
        ("redis://{dead}", "connection refused"),
        ("redis://{server}", "Authentication required"),
        ("redis://:wrong@{server}", "invalid username-password pair"),
        ("redis://bare:word@{server}", "has no permissions"),
        ("rediss://:word@{server}", "does not answer"),
    ],
)
def test_messages_about_the_index_are_explained(
    here: Here, start_server: StartServer, tmp_path: Path, index: str, phrase: str
) -> None:
    """What a push says about a wrong index is on the page, and the push goes on."""
    server = start_server("--requirepass", "word")
    url = f"redis://:word@127.0.0.1:{server.port}"
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", "bare", "on", ">word", "~*", "+ping")
    made = make_layout(tmp_path / "image")
    with running_registry() as registry:
        address = index.format(dead=DEAD, server=f"127.0.0.1:{server.port}")
        done = here("push", str(made.path), f"{registry.address}/a:1", "--plain-http", "--index", address)
    assert done.status == 0
    said(done.err, phrase)
    assert "index: failed" in done.out


def test_messages_about_the_registry_are_explained(here: Here, tmp_path: Path) -> None:
    """What a push says about a wrong registry, a wrong source or a missing login is on the page."""
    image = str(make_layout(tmp_path / "image").path)
    (tmp_path / "text.tar").write_text("text")

    def push(source: str, dest: str, *more: str) -> str:
        done = here("push", source, dest, "--index", "off", *more)
        assert done.status != 0
        return done.err

    said(push(image, f"{DEAD}/a:1"), "is the registry running")
    said(push(image, "nowhere.invalid/a:1"), "no such host")
    said(push(str(tmp_path / "absent"), f"{DEAD}/a:1"), "no such file or directory")
    said(push(str(tmp_path / "text.tar"), f"{DEAD}/a:1"), "not a tar")
    said(here("push", image, f"{DEAD}/a:1", "--index", "redis.example.com").err, "not an index URL")
    with running_registry() as registry:
        said(push(image, f"{registry.address}/a:1"), "it does not speak TLS")
        assert here("push", image, f"{registry.address}/a:1", "--plain-http", "--index", "off").status == 0
        scanned = here("scan", f"{registry.address}/x*", "--plain-http", "--index", "memory://")
        said(scanned.err, "no repository of")
        listening = ("proxy", "--upstream", registry.url, "--listen", registry.address, "--index", "off")
        said(here(*listening).err, "cannot listen there")
    with running_registry(RegistryOptions(auth=BasicAuth(users={"ann": "word"}))) as registry:
        complaint = push(image, f"{registry.address}/a:1", "--plain-http")
        said(complaint, "wants a login")
        said(complaint, "no credentials")
    for status in (413, 403):
        with running_registry(
            faults=[Fault(action=Reply(status=status), method="POST|PUT|PATCH", times=None)]
        ) as registry:
            said(push(image, f"{registry.address}/a:1", "--plain-http"), str(status))


def test_the_message_about_must_mount_is_explained(here: Here, tmp_path: Path, start_server: StartServer) -> None:
    """What a push says of a must-mount layer is on the page, and its status is 3."""
    url = start_server().url
    made = make_layout(tmp_path / "image", make_layers(1))
    with running_registry() as registry:
        layer = str(made.layers[0].digest)
        assert here("add", layer, f"{registry.address}/base", "--must-mount", "--index", url).status == 0
        done = here("push", str(made.path), f"{registry.address}/a:1", "--plain-http", "--index", url, "--json")
    assert done.status == 3
    said(done.err, "must be mounted")
    assert json.loads(done.out)["error"]["exit_status"] == 3
