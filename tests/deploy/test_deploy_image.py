"""deploy/Dockerfile and its health check, as far as they can be checked without a container engine."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from crossmount.testing import running_registry
from support.certificates import self_signed
from support.deployed import DEPLOY, TOP, VARIABLES, image, started

HERE = {"CROSSMOUNT_PROXY_UPSTREAM": "https://registry.example.com", "CROSSMOUNT_INDEX": "redis://index:6379/0"}
CHECK = DEPLOY / "healthcheck.py"


def check(environment: Mapping[str, str]) -> int:
    """Run the health check, with an HTTP proxy that it must not use."""
    env = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    return subprocess.run([sys.executable, CHECK], env={**env, **environment}, check=False).returncode


def test_bases_are_pinned_by_tag() -> None:
    """Both stages use one slim Python image, with its registry and its version."""
    bases = [given.words[0] for given in image().all("FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"docker\.io/library/python:3\.1[1-9]-slim-[a-z]+(@sha256:[0-9a-f]{64})?", bases[0])


def test_the_user_is_a_number_and_not_root() -> None:
    """The user is a number, which Kubernetes' runAsNonRoot needs, and not root."""
    user, _, group = image().last("USER").text.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_what_is_written_to_is_a_volume_of_the_user() -> None:
    """The spool is the only folder that the image writes to, so the root filesystem can be read-only."""
    made = image()
    spool = made.environment["CROSSMOUNT_PROXY_SPOOL"]
    assert made.last("VOLUME").words == [spool]
    user, _, group = made.last("USER").text.partition(":")
    assert f"--owner {user} --group {group} --mode 0700 {spool}" in made.last("RUN").text


def test_only_wheels_are_installed() -> None:
    """Only wheels are installed: the image needs no compiler, and no set-up script runs."""
    runs = [given.text for given in image().all("RUN")]
    installs = [line for run in runs for line in run.split("&&") if "pip install" in line]
    assert installs
    assert all("--only-binary :all:" in line for line in installs)


def test_the_image_has_what_it_copies_and_nothing_else() -> None:
    """The build context is a list of permitted files, and contains the source of each COPY."""
    lines = re.findall(r"^[^#\n].*$", (TOP / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert lines[0] == "*"
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for given in image().all("COPY") if "--from" not in given.text for source in given.words[:-1]}
    assert copied == sent
    assert CHECK.relative_to(TOP).as_posix() in copied


def test_no_secret_is_in_the_image() -> None:
    """The image sets no credentials and no URL of an index, and takes no build arguments."""
    made = image()
    assert not made.all("ARG")
    assert {name for name in made.environment if name.startswith("CROSSMOUNT_")} <= VARIABLES
    assert "CROSSMOUNT_INDEX" not in made.environment


def test_the_image_starts_a_proxy_with_two_variables_and_no_argument(tmp_path: Path) -> None:
    """A proxy that is started like a service of a CI system handles a push."""
    with running_registry() as registry, started(tmp_path, upstream=registry.url, environment=HERE) as url:
        assert httpx.get(f"{url}/_crossmount/readyz").status_code == 200
        assert httpx.get(f"{url}/v2/").status_code == 200
        check_at = {"CROSSMOUNT_PROXY_LISTEN": f"0.0.0.0:{httpx.URL(url).port}"}
        assert check(check_at) == 0
        assert (tmp_path / "spool").is_dir()
    assert check(check_at) == 1


def test_the_health_check_asks_a_proxy_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    """The health check uses the proxy's variables, and does not verify the certificate."""
    tls = {"CROSSMOUNT_PROXY_TLS_CERT": "/tls/tls.crt", "CROSSMOUNT_PROXY_TLS_KEY": "/tls/tls.key"}
    with (
        running_registry() as registry,
        started(tmp_path, upstream=registry.url, environment={**HERE, **tls}) as url,
    ):
        assert url.startswith("https://")
        assert check({"CROSSMOUNT_PROXY_LISTEN": f"0.0.0.0:{httpx.URL(url).port}", **tls}) == 0


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_is_not_taken_in_by_whoever_else_listens(tmp_path: Path, *, tls: bool) -> None:
    """The health check fails on a 404."""
    context, _ = self_signed(tmp_path) if tls else (None, None)
    with running_registry(tls=context) as registry:
        variables = {"CROSSMOUNT_PROXY_LISTEN": f"127.0.0.1:{httpx.URL(registry.url).port}"}
        assert check({**variables, **({"CROSSMOUNT_PROXY_TLS_CERT": "x"} if tls else {})}) == 1


def test_the_health_check_is_what_the_image_runs() -> None:
    """The image runs the health check in the exec form, without a shell or curl."""
    made = image()
    health = made.last("HEALTHCHECK").text
    copied = next(given.words for given in made.all("COPY") if given.words[0] == "deploy/healthcheck.py")
    assert health.endswith(f'CMD ["python", "{copied[-1]}"]')
