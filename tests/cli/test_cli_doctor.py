import json
from pathlib import Path

import pytest

from crossmount.cli.commands.doctor import Finding, as_lines, check_mounts
from crossmount.index import RegistryTraits
from crossmount.testing import BasicAuth, Grant, RegistryOptions, TokenAuth, html, running_registry
from crossmount.testing.faults import Fault
from support.cluster import Cluster
from support.commands import Here
from support.images import make_layers, make_layout
from support.places import Fronted
from support.servers import Server

USERS = {"ci": "hidden"}


def authfile(tmp_path: Path, address: str, **entry: str) -> str:
    """Write a credential file and return its path."""
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {address: entry or {"username": "ci", "password": "hidden"}}}))
    return str(file)


def test_without_a_destination_the_index_is_looked_at(here: Here, valkey: Server) -> None:
    """Without DEST only the index is checked, and the status is 0 if it works."""
    done = here("doctor", "--index", valkey.url)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"index        ok      redis://127.0.0.1:{valkey.port}/0, valkey 9")
    assert done.out.endswith("Name a DEST, as for push, to check its registry too.\n")


def test_the_embedded_index_is_started_to_be_looked_at(here: Here) -> None:
    """The check starts the embedded index."""
    assert here("doctor").out.startswith("index        ok      the embedded one, ")
    assert here("index", "status", "--json").document["running"] is True


def test_a_part_of_a_cluster_is_no_healthy_index(here: Here, cluster: Cluster) -> None:
    """A URL of one server of a Cluster is a failure that names the right URL."""
    for node in cluster.masters():
        done = here("doctor", "--index", node.url)
        assert (done.status, done.err) == (1, "")
        assert done.out.splitlines()[0].endswith(": give a redis+cluster:// URL")
    assert here("doctor", "--index", cluster.url).status == 0


@pytest.mark.parametrize("command", [("doctor",), ("index", "status")], ids=["doctor", "status"])
def test_a_namespace_that_is_not_ours_is_no_healthy_index(
    here: Here, restricted: Fronted, command: tuple[str, ...]
) -> None:
    """A server that forbids our keys is a failure, though it answers."""
    assert here(*command, "--index", restricted.url).status == 0
    done = here(*command, "--index", restricted.url, "--namespace", "other")
    assert done.status == 1
    assert "may this user use this --namespace?" in done.out + done.err


def test_an_open_registry_is_healthy(here: Here, valkey: Server, tmp_path: Path) -> None:
    """With an open registry every check is reported, and nothing is written to the registry."""
    index = ("--index", valkey.unix_url)
    with running_registry() as registry:
        done = here("doctor", f"{registry.address}/team/app", "--plain-http", *index, "--json")
        assert {record.method for record in registry.requests} <= {"GET", "HEAD"}
        assert done.status == 0
        document = done.document
        assert document["ok"] is True
        assert document["registry"]["login"] == "none"
        assert document["registry"]["round_trip_ms"] > 0
        assert document["credentials"]["words"].startswith("none are stored")
        assert document["access"]["read"] is True
        assert document["mounts"]["verdict"] == "unknown"
        image = str(make_layout(tmp_path / "image", make_layers(1)).path)
        for name in ("team/one", "team/two"):
            assert here("push", image, f"{registry.address}/{name}", "--plain-http", *index).status == 0
        words = here("doctor", f"{registry.address}/team/app", "--plain-http", *index).out
    assert f"mounts       ok      {registry.address} has mounted layers\n" in words


@pytest.mark.parametrize("auth", [BasicAuth(users=USERS), TokenAuth(users=USERS)])
def test_credentials_are_named_and_never_shown(here: Here, tmp_path: Path, auth: BasicAuth | TokenAuth) -> None:
    """Both outputs have the credentials' user and file, and not the secret."""
    with running_registry(RegistryOptions(auth=auth)) as registry:
        dest, file = f"{registry.address}/team/app", authfile(tmp_path, registry.address)
        arguments = ("doctor", dest, "--plain-http", "--index", "off", "--authfile", file)
        done, document = here(*arguments), here(*arguments, "--json").document
    assert done.status == 0
    assert "hidden" not in done.out + json.dumps(document)
    assert document["credentials"] == {
        "verdict": "ok",
        "words": f"ci, from {file}: auths: {registry.address}, accepted",
        "user": "ci",
        "kind": "password",
        "from": f"{file}: auths: {registry.address}",
        "looked_in": [],
    }
    is_token = isinstance(auth, TokenAuth)
    assert document["registry"]["login"] == ("bearer" if is_token else "basic")
    assert document["access"]["verdict"] == "ok"
    assert ("was granted" if is_token else "the first push shows whether writing does") in document["access"][
        "words"
    ]


@pytest.mark.parametrize(
    ("entry", "who"),
    [
        ({"identitytoken": "hidden"}, "an identity token, from"),
        ({"identitytoken": "hidden", "username": "ci"}, "ci, with an identity token, from"),
        ({"registrytoken": "hidden"}, "a token for the registry, from"),
        ({"username": "", "password": "hidden"}, "a password without a user name, from"),
    ],
)
def test_each_kind_of_credential_has_its_words(
    here: Here, tmp_path: Path, entry: dict[str, str], who: str
) -> None:
    """The output distinguishes passwords from tokens, and says if a registry does not need them."""
    with running_registry() as registry:
        file = authfile(tmp_path, registry.address, **entry)
        arguments = ("doctor", f"{registry.address}/a", "--plain-http", "--index", "off", "--authfile", file)
        words = here(*arguments).out
    assert f"credentials  ok      {who}" in words
    assert "not needed here" in words
    assert "hidden" not in words


def test_wrong_credentials_are_not_healthy(here: Here, tmp_path: Path) -> None:
    """If the registry denies access, the status is 1 and the output says how to log in."""
    auth = BasicAuth(users={"ci": "changed"}, anonymous=(Grant(actions=frozenset()),))
    with running_registry(RegistryOptions(auth=auth)) as registry:
        file = authfile(tmp_path, registry.address)
        done = here("doctor", f"{registry.address}/a", "--plain-http", "--index", "off", "--authfile", file)
    assert done.status == 1
    assert "access       FAILED  " in done.out
    assert "credentials  FAILED  ci, from " in done.out
    assert ": refused\n" in done.out
    assert "--authfile" in done.out


def test_credentials_that_cannot_be_read_are_not_healthy(here: Here, tmp_path: Path) -> None:
    """A broken credential file is a failure, even if the registry needs no login."""
    file = tmp_path / "auth.json"
    file.write_text("{hidden")
    with running_registry() as registry:
        arguments = ("doctor", f"{registry.address}/a", "--plain-http", "--index", "off")
        done = here(*arguments, "--authfile", str(file), "--json")
    assert done.status == 1
    assert done.document["ok"] is False
    assert done.document["credentials"]["verdict"] == "failed"
    assert "hidden" not in done.out


def test_trouble_is_reported_check_by_check(here: Here) -> None:
    """An unreachable index and an unreachable registry are two failures, and the status is 1."""
    done = here("doctor", "127.0.0.1:1/a", "--plain-http", "--index", "redis://127.0.0.1:1")
    assert (done.status, done.err) == (1, "")
    about = [line.split()[:2] for line in done.out.splitlines()]
    assert about == [["index", "FAILED"], ["registry", "FAILED"], ["credentials", "-"]]


def test_a_registry_without_tls_is_reported_with_the_option(here: Here) -> None:
    """For a registry without TLS the output names --plain-http, as a push does."""
    with running_registry() as registry:
        done = here("doctor", f"{registry.address}/a", "--index", "memory://")
    assert done.status == 1
    assert "registry     FAILED" in done.out
    assert "--plain-http" in done.out


def test_what_is_no_registry_is_reported(here: Here) -> None:
    """A web server that is not a registry is a failure."""
    with running_registry(faults=[Fault(action=html(404), times=None)]) as registry:
        done = here("doctor", f"{registry.address}/a", "--plain-http", "--index", "off")
    assert done.status == 1
    assert "registry     FAILED" in done.out


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        (
            RegistryTraits(mounts=True, finds=True),
            "r has mounted layers, and finds sources by itself",
        ),
        (
            RegistryTraits(mounts=True, after_manifest=True),
            "r has mounted layers, only those that a manifest names",
        ),
        (
            RegistryTraits(mounts=False),
            "r had a layer and did not mount it, so layers are uploaded there for some hours",
        ),
        (RegistryTraits(), "not known yet for r: the first push with a known source shows it"),
    ],
)
def test_what_the_registry_was_seen_to_do_is_reported(traits: RegistryTraits, words: str) -> None:
    """The output describes each known trait of a registry."""
    assert check_mounts("r", traits).words == words


def test_findings_are_folded_on_a_terminal() -> None:
    """On eighty columns, long findings are wrapped and indented."""
    lines = as_lines([Finding("index", "ok", "word " * 40)], None, width=80)
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(" " * 21 + "word")
