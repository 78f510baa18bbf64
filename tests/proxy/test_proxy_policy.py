"""A policy file: what it says is checked when it is read, and kept at every request."""

import json
import signal
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from crossmount.errors import InvalidInputError
from crossmount.oci import Digest
from crossmount.proxy.files import check_settings
from crossmount.proxy.policy import Policy, Rule, UpstreamEntry, read_policy
from crossmount.proxy.settings import ProxySettings
from crossmount.testing import ScriptedRegistry, running_registry
from support.commands import Here, Shell
from support.proxies import ProxyUnderTest, proxy_before
from support.waiting import PATIENCE, until_now

DATA = b"a layer"
DIGEST = Digest.of(DATA)


def write(tmp_path: Path, text: str) -> Path:
    """Write a policy file."""
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return file


def callers(tmp_path: Path, *names: str) -> dict[str, Any]:
    """Return the settings of a proxy in service mode for these callers, whose passwords are their names."""
    file = tmp_path / "htpasswd"
    hashed = {name: bcrypt.hashpw(name.encode(), bcrypt.gensalt(4)).decode() for name in names}
    file.write_text("".join(f"{name}:{value}\n" for name, value in hashed.items()))
    return {"auth": "service", "htpasswd": file}


async def status(proxy: ProxyUnderTest, caller: str, method: str, path: str, **details: Any) -> int:
    """Send a request as a caller, and return the status of the answer."""
    answer: httpx.Response = await proxy.client.request(method, path, auth=(caller, caller), **details)
    return answer.status_code


def test_everything_that_a_policy_says(tmp_path: Path) -> None:
    """Each key of the file is read; paths are relative to it."""
    text = """
        [[upstream]]
        url = "https://hub.example"
        name = "hub"
        allow_sources = ["base/*"]
        authfile = "auth.json"
        insecure = true
        [[rule]]
        repositories = ["a/*", "b"]
        upstream = "hub"
        pushers = ["ann"]
        readers = []
        allow_sources = ["a/*"]
        uploads = 3
        bytes_per_day = "2KiB"
        [[rule]]
        repositories = ["*"]
        bytes_per_day = 7
    """
    assert read_policy(write(tmp_path, text)) == Policy(
        (
            UpstreamEntry(
                url="https://hub.example",
                name="hub",
                allow_sources=("base/*",),
                authfile=tmp_path / "auth.json",
                insecure=True,
            ),
        ),
        (
            Rule(
                repositories=("a/*", "b"),
                upstream="hub",
                pushers=frozenset({"ann"}),
                readers=frozenset(),
                allow_sources=("a/*",),
                uploads=3,
                bytes_per_day=2048,
            ),
            Rule(repositories=("*",), bytes_per_day=7),
        ),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[upstream]", "not TOML"),
        (f"a = {'1' * 5000}", "not TOML"),
        (f"a = {'[' * 5000}", "not TOML"),
        ("rules = 1", "rules: unknown key: did you mean rule?"),
        ("zzz = 1", "zzz: unknown key: there are rule, upstream"),
        ("rule = 1", "rule: write it as [[rule]]"),
        ("rule = [1]", "rule: write it as [[rule]]"),
        ("[[rule]]", "rule 1: repositories: give a list of repository names"),
        ('[[rule]]\nrepositories = "a"', "rule 1: repositories: give a list of repository names"),
        ('[[rule]]\nrepositories = ["A"]', "rule 1: repositories: give a list of repository names"),
        ('[[rule]]\nrepositories = ["a"]\npushers = "ann"', "rule 1: pushers: give names of callers in a list"),
        ('[[rule]]\nrepositories = ["a"]\npushers = [""]', "rule 1: pushers: give names of callers in a list"),
        ('[[rule]]\nrepositories = ["a"]\nuploads = 0', "rule 1: uploads: give 1 or more"),
        ('[[rule]]\nrepositories = ["a"]\nuploads = true', "rule 1: uploads: give a whole number"),
        ('[[rule]]\nrepositories = ["a"]\nbytes_per_day = "x"', "rule 1: bytes_per_day: give a number of bytes"),
        ('[[rule]]\nrepositories = ["a"]\nbytes_per_day = "0"', "rule 1: bytes_per_day: give a number of bytes"),
        ('[[rule]]\nrepositories = ["a"]\nbytes_per_day = 0', "rule 1: bytes_per_day: give 1 or more"),
        ('[[rule]]\nrepositories = ["a"]\npusher = ["x"]', "rule 1: pusher: unknown key: did you mean pushers?"),
        ("[[upstream]]", "upstream 1: url: give a text that is not empty"),
        ('[[upstream]]\nurl = "https://a"\ninsecure = 1', "upstream 1: insecure: true or false"),
        ('[[upstream]]\nurl="http://a"\nname="x"\n[[upstream]]\nurl="http://b"\nname="x"', "the same name"),
    ],
)
def test_a_policy_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    """The error names the file, the place in it, and what to write."""
    file = write(tmp_path, text)
    with pytest.raises(InvalidInputError) as refused:
        read_policy(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert words in str(refused.value)


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    """A file that is absent, too large or not text is refused by name."""
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        read_policy(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="not TOML"):
        read_policy(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(InvalidInputError, match="at most"):
        read_policy(tmp_path / "large")


@pytest.mark.parametrize(
    ("settings", "text", "words"),
    [
        ({}, "", "give a registry: --upstream"),
        ({"upstreams": ("http://a", "https://a:80")}, "", "two registries have the name a:"),
        ({"upstreams": ("A!=http://a",)}, "", "is no name"),
        (
            {"upstreams": ("http://a",)},
            '[[rule]]\nrepositories=["a"]\nupstream="b"',
            "rule 1: no upstream has the name 'b': there are a",
        ),
        ({"upstreams": ("http://a",)}, '[[rule]]\nrepositories=["a"]\nreaders=["b"]', "need --auth service"),
        ({"upstreams": ("http://a",)}, '[[upstream]]\nurl="http://b/x"', "give https://host"),
    ],
)
def test_settings_that_do_not_fit_their_policy(
    tmp_path: Path, settings: dict[str, Any], text: str, words: str
) -> None:
    """What cannot work together is refused at the start."""
    made = ProxySettings(policy=write(tmp_path, text), **{"upstreams": (), **settings})
    with pytest.raises(InvalidInputError) as refused:
        check_settings(made)
    assert words in str(refused.value)


async def test_callers_write_and_read_what_the_policy_lets_them(tmp_path: Path) -> None:
    """A rule decides who may write and who may read; who may push may read; other repositories are open."""
    text = """
        [[rule]]
        repositories = ["a/*"]
        pushers = ["ann"]
        readers = ["bob"]
        [[rule]]
        repositories = ["closed/*"]
        pushers = []
    """
    async with (
        ScriptedRegistry() as registry,
        proxy_before(
            registry.url, policy=write(tmp_path, text), **callers(tmp_path, "ann", "bob", "cay")
        ) as proxy,
    ):
        digest = registry.put_blob("a/app", DATA)
        uploads, blob = "/v2/a/app/blobs/uploads/", f"/v2/a/app/blobs/{digest}"
        writes = {name: await status(proxy, name, "POST", uploads) for name in ("ann", "bob", "cay")}
        reads = {name: await status(proxy, name, "HEAD", blob) for name in ("ann", "bob", "cay")}
        assert writes == {"ann": 202, "bob": 403, "cay": 403}
        assert reads == {"ann": 200, "bob": 200, "cay": 403}
        assert await status(proxy, "ann", "DELETE", blob) != 403
        assert await status(proxy, "bob", "DELETE", blob) == 403
        assert await status(proxy, "cay", "POST", "/v2/open/blobs/uploads/") == 202
        assert await status(proxy, "ann", "POST", "/v2/closed/x/blobs/uploads/") == 403
        others = {name: await status(proxy, name, "PUT", "/v2/a/app/x/y") for name in ("ann", "cay")}
        assert others == {"ann": 403, "cay": 403}
        lists = {name: await status(proxy, name, "GET", "/v2/_catalog") for name in ("ann", "bob", "cay")}
        assert lists["cay"] == 403
        assert 403 not in {lists["ann"], lists["bob"]}


async def test_no_layer_is_mounted_from_what_a_caller_may_not_read(tmp_path: Path) -> None:
    """A caller gets no layer of a repository that the policy hides: by a HEAD, its own mount, or an upload."""
    text = '[[rule]]\nrepositories = ["secret/*"]\nreaders = ["ann"]\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=write(tmp_path, text), **callers(tmp_path, "ann", "bob")) as proxy,
    ):
        digest = registry.put_blob("secret/x", DATA)
        await proxy.knows(digest, "secret/x")
        assert await status(proxy, "bob", "HEAD", f"/v2/b/blobs/{digest}") == 404
        mount = f"/v2/b/blobs/uploads/?mount={digest}"
        assert await status(proxy, "bob", "POST", f"{mount}&from=secret/x") == 202
        assert await status(proxy, "bob", "POST", mount) == 202
        assert await status(proxy, "bob", "PUT", f"{mount}&from=secret/x") == 405
        assert not registry.matching(method="PUT")
        assert registry.mounts() == 0
        assert await status(proxy, "ann", "HEAD", f"/v2/a/blobs/{digest}") == 200
        assert registry.mounts() == 1


async def test_whoever_only_reads_a_repository_mounts_nothing_into_it(tmp_path: Path) -> None:
    """A HEAD by a caller that may not write to a repository leaves the repository as it is."""
    text = '[[rule]]\nrepositories = ["a/*"]\npushers = ["ann"]\nreaders = ["bob"]\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=write(tmp_path, text), **callers(tmp_path, "ann", "bob")) as proxy,
    ):
        digest = registry.put_blob("base", DATA)
        await proxy.knows(digest, "base")
        blob = f"/v2/a/app/blobs/{digest}"
        assert (await status(proxy, "bob", "HEAD", blob), registry.mounts()) == (404, 0)
        assert (await status(proxy, "ann", "HEAD", blob), registry.mounts()) == (200, 1)


async def test_sources_of_a_namespace(tmp_path: Path) -> None:
    """Layers are mounted into a namespace from the sources that its rule allows."""
    text = '[[rule]]\nrepositories = ["a/*"]\nallow_sources = ["base/*"]\n'
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, policy=write(tmp_path, text)) as proxy,
    ):
        other, base = registry.put_blob("other", b"1"), registry.put_blob("base/x", b"2")
        await proxy.knows(other, "other")
        await proxy.knows(base, "base/x")
        found = [(await proxy.client.head(f"/v2/a/x/blobs/{digest}")).status_code for digest in (other, base)]
        assert found == [404, 200]
        assert (await proxy.client.head(f"/v2/b/blobs/{other}")).status_code == 200


def test_check_says_what_was_found(here: Here, tmp_path: Path) -> None:
    """`proxy --check` lists upstreams, callers and rules without listening, or names what is wrong."""
    settings = callers(tmp_path, "ann")
    rule = '[[rule]]\nrepositories = ["a/*"]\npushers = ["ann", "zoe"]\n'
    file = write(tmp_path, rule + '[[upstream]]\nurl = "https://hub.example"\nname = "hub"\n')
    line = (
        "proxy",
        "--check",
        "--auth",
        "service",
        "--htpasswd",
        str(settings["htpasswd"]),
        "--policy",
        str(file),
    )
    assert here(*line).out.splitlines() == [
        "upstream hub: https://hub.example/",
        "callers: ann",
        "warning: a rule names zoe, which is no caller",
        "rule 1: a/*",
        "ok",
    ]
    file.write_text("rule = 3")
    failed = here(*line)
    assert failed.status == 2
    assert f"{file}: rule: write it as [[rule]]" in failed.err


@pytest.mark.parametrize("key", ["authfile", "ca_file"])
def test_check_reads_the_files_of_each_upstream(here: Here, tmp_path: Path, key: str) -> None:
    """`proxy --check` names a file of credentials or of authorities that cannot be used, before a start does."""
    upstream = f'[[upstream]]\nurl = "https://hub.example"\n{key} = "wrong"\n'
    line = ("proxy", "--check", "--auth", "service", "--policy", str(write(tmp_path, upstream)))
    for content in (None, "no such thing"):
        if content is not None:
            (tmp_path / "wrong").write_text(content)
        failed = here(*line)
        assert failed.status != 0
        assert str(tmp_path / "wrong") in failed.err


def test_check_tries_the_folder_of_the_spool(here: Here, tmp_path: Path) -> None:
    """`proxy --check` names a folder in which uploads cannot be spooled, and makes none."""
    (tmp_path / "file").touch()
    line = ("proxy", "--check", "--upstream", "https://hub.example", "--spool")
    for wrong in (tmp_path / "file", tmp_path / "file" / "spool", Path("/proc/none")):
        failed = here(*line, str(wrong))
        assert failed.status == 2
        assert f"{wrong}: uploads cannot be spooled here: " in failed.err
    assert here(*line, str(tmp_path / "new" / "spool")).status == 0
    assert not (tmp_path / "new").exists()


def test_every_line_of_the_log_is_json(shell: Shell, tmp_path: Path) -> None:
    """The banner, requests, refusals and warnings are lines of JSON with time and level, also after SIGHUP."""
    settings = callers(tmp_path, "ann")
    with running_registry() as registry:
        options = ("--auth", "service", "--htpasswd", str(settings["htpasswd"]), "--index", "redis://127.0.0.1:1")
        line = ("proxy", "--upstream", registry.url, "--listen", "127.0.0.1:0", *options)
        with shell.start(*line, CI="true") as process:
            assert process.stdout is not None
            banner = json.loads(process.stdout.readline())
            with httpx.Client(base_url=banner["url"]) as client:
                good = client.head(f"/v2/a/blobs/{DIGEST}", auth=("ann", "ann"), headers={"X-Request-ID": "job-7"})
                bad = client.head(f"/v2/a/blobs/{DIGEST}", auth=("ann", "wrong"), headers={"X-Request-ID": "a b"})
                callers(tmp_path, "bob")
                process.send_signal(signal.SIGHUP)
                until_now(lambda: client.get("/v2/", auth=("bob", "bob")).status_code == 200)
                settings["htpasswd"].write_text("wrong")
                process.send_signal(signal.SIGHUP)
                until_now(lambda: client.get("/_crossmount/healthz").status_code == 200)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    lines = [json.loads(text) for text in [*out.splitlines(), *err.splitlines()]]
    assert all({"time", "level"} <= line.keys() for line in [banner, *lines])
    assert banner["auth"] == "service"
    assert banner["index"] == "redis://127.0.0.1:1/0"
    assert list(banner["upstreams"].values()) == [f"{registry.url}/"]
    assert (good.headers["x-request-id"], len(bad.headers["x-request-id"])) == ("job-7", 16)
    requests = {line["request_id"]: line for line in lines if "request_id" in line}
    assert requests["job-7"]["caller"] == "ann"
    refused = requests[bad.headers["x-request-id"]]
    assert (refused["caller"], refused["status"], refused["note"]) == ("refused", 401, "refused")
    levels = {
        line["message"].partition(" ")[0]: line["level"] for line in lines if "reloaded" in line.get("message", "")
    }
    assert levels == {"reloaded": "info", "the": "error"}
