"""deploy/ci: each file is valid for its system, and its commands start a proxy and push through it."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest

from crossmount.testing import running_registry
from support.deployed import DEPLOY, document, documents, image, names_secret, schema_errors, started
from support.images import make_layout, to_archive
from support.programs import needs
from support.registries import PASSWORD, USER, DockerRegistry
from support.servers import Server
from support.waiting import PATIENCE

CI = DEPLOY / "ci"
GITHUB, GITLAB = CI / "github" / "push.yaml", CI / "gitlab" / "gitlab-ci.yml"
JENKINS, TEKTON = CI / "jenkins" / "pod.yaml", CI / "tekton" / "tasks.yaml"
TEXTS = sorted(path for path in CI.rglob("*") if path.is_file())
CLIENTS = {"docker", "buildx", "podman", "kaniko"}
WITHOUT_PROXY = {"build", "crossmount"}
"""Jobs for `crossmount push`, which needs no proxy; the first writes the file for the second."""
PORT = image().last("EXPOSE").text


def proxies() -> Iterator[tuple[str, list[str] | None, dict[str, str]]]:
    """Yield each proxy that a file starts: its place, its arguments, and its variables."""
    for name, job in document(GITHUB)["jobs"].items():
        if name not in WITHOUT_PROXY:
            yield f"github {name}", None, job["services"]["crossmount"]["env"]
    pipeline = document(GITLAB)
    masked = {"CROSSMOUNT_INDEX": "set for the group"}
    for name, job in pipeline.items():
        if isinstance(job, dict) and "script" in job and name not in WITHOUT_PROXY:
            assert job["services"][0]["alias"] == "crossmount"
            yield (
                f"gitlab {name}",
                job["services"][0].get("command"),
                {**masked, **{k: v for k, v in pipeline["variables"].items() if k.startswith("CROSSMOUNT_")}},
            )
    docker = (CI / "jenkins" / "Jenkinsfile.docker").read_text()
    passed = re.findall(r"--env (CROSSMOUNT_\w+)", docker)
    yield "jenkins docker", None, {name: "set for the stage" for name in passed if f"{name} = " in docker}
    containers = [document(JENKINS)["spec"]["containers"][0]]
    containers += [side for task in documents(TEKTON) for side in task["spec"]["sidecars"]]
    for container in containers:
        if container["name"] == "crossmount":
            given = {variable["name"]: variable.get("value", "secret") for variable in container["env"]}
            yield container["image"], container["args"], given


def shells() -> Iterator[tuple[str, str]]:
    """Yield each shell script in the files: its place and its text."""
    for name, job in document(GITHUB)["jobs"].items():
        yield f"github {name}", "\n".join(step["run"] for step in job["steps"] if "run" in step)
    for name, job in document(GITLAB).items():
        if isinstance(job, dict) and "script" in job:
            yield f"gitlab {name}", "\n".join(job["script"])
    for path in sorted((CI / "jenkins").glob("Jenkinsfile*")):
        for text in re.findall(r"'''(.*?)'''", path.read_text(), flags=re.DOTALL):
            yield path.name, text.replace("\\\\", "\\")
    for task in documents(TEKTON):
        for step in task["spec"]["steps"]:
            if "script" in step:
                yield task["metadata"]["name"], step["script"]


SHELLS = list(shells())

JENKINS_SETS = {"NAME": "crossmount-1", "REGISTRY_USR": "ci", "REGISTRY_PSW": "secret"}
"""The variables that Jenkins sets for the shell of Jenkinsfile.docker."""


def test_the_workflow_is_one_of_github() -> None:
    """The workflow is valid by the schema of GitHub's workflows."""
    assert not schema_errors("github-workflows", GITHUB)


def test_the_pipeline_is_one_of_gitlab() -> None:
    """The pipeline is valid by GitLab's own schema."""
    assert not schema_errors("gitlab-ci", GITLAB, "--data-transform", "gitlab-ci")


def test_the_agent_is_a_pod() -> None:
    """The agent is a valid pod by the schema of Kubernetes, with the name that Jenkins sets."""
    pod = document(JENKINS)
    kubernetes_validate.validate({**pod, "metadata": {"name": "made-up"}}, "1.37", strict=True)


def test_the_tasks_are_made_of_containers() -> None:
    """Each step is a Kubernetes container apart from its `script`, and its volumes and workspaces are declared."""
    for task in documents(TEKTON):
        assert (task["apiVersion"], task["kind"]) == ("tekton.dev/v1", "Task")
        spec = task["spec"]
        assert spec.keys() <= {"params", "workspaces", "steps", "sidecars", "volumes"}
        containers = [
            {name: value for name, value in found.items() if name != "script"}
            for found in spec["steps"] + spec["sidecars"]
        ]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "made-up"},
            "spec": {"containers": containers, "volumes": spec["volumes"]},
        }
        kubernetes_validate.validate(pod, "1.37", strict=True)
        mounts = {mount["name"] for found in containers for mount in found.get("volumeMounts", [])}
        assert mounts <= {volume["name"] for volume in spec["volumes"]}
        words = str(containers) + "".join(str(step.get("script")) for step in spec["steps"])
        assert set(re.findall(r"\$\(workspaces\.(\w+)\.path\)", words)) <= {w["name"] for w in spec["workspaces"]}
        assert set(re.findall(r"\$\(params\.(\w+)\)", words)) <= {param["name"] for param in spec["params"]}


def test_the_jenkinsfiles_are_whole() -> None:
    """Every bracket of a Jenkinsfile is closed, in order, outside strings and comments."""
    for path in (CI / "jenkins").glob("Jenkinsfile*"):
        text = re.sub(r"'''.*?'''", "", path.read_text(), flags=re.DOTALL)
        text = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|//.*", "", text)
        while (shorter := re.sub(r"\([^(){}\[\]]*\)|\{[^(){}\[\]]*\}|\[[^(){}\[\]]*\]", "", text)) != text:
            text = shorter
        assert text.strip() == "pipeline", path


@pytest.mark.parametrize(("where", "text"), SHELLS, ids=[where for where, _ in SHELLS])
def test_the_shell_is_shell(where: str, text: str) -> None:
    """Each script is valid for its shell."""
    text = re.sub(r"\$\((workspaces|params)\.[\w.]+\)", "made-up", text)
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, (where, done.stderr)


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=["github", "gitlab"])
def test_every_client_has_its_job(path: Path) -> None:
    """Each file has a job for docker, buildx, podman, kaniko and `crossmount push`, where it has jobs."""
    found = document(path)
    jobs = found.get("jobs", {name for name, job in found.items() if isinstance(job, dict) and "script" in job})
    assert set(jobs) - {"build"} == CLIENTS | {"crossmount"}


@pytest.mark.parametrize("path", TEXTS, ids=[path.name for path in TEXTS])
def test_no_file_holds_a_secret(path: Path) -> None:
    """Passwords and the index's URL are variables of the CI system, in no file and on no command line."""
    text = path.read_text()
    assert not names_secret(text)
    assert not re.search(r"--password[ =]", text)


def test_images_are_pinned() -> None:
    """Every image has a version."""
    for path in TEXTS:
        for name in re.findall(
            r"(?:image|name): ((?:docker\.io|quay\.io|registry\.example\.com)\S+)", path.read_text()
        ):
            assert re.search(r":v?\d", name), name


def test_every_push_goes_to_the_proxy_and_says_that_it_is_not_encrypted() -> None:
    """Each push goes to the proxy's port; podman and kaniko get an http option, docker off loopback."""
    for where, text in SHELLS:
        if "podman push" in text:
            assert "podman push --tls-verify=false" in text, where
            assert "podman login" not in text or "podman login --tls-verify=false" in text, where
        if "--destination" in text:
            assert "--insecure" in text, where
        for host in re.findall(r"(\S+):\d+ --username", text):
            assert host in {"localhost", "crossmount"}, where
        for push in re.findall(r"push app\.tar \"?([^/\s]+)/", text):
            assert push == "registry.example.com", where
    for path in TEXTS:
        for port in re.findall(r"(?:localhost|crossmount):(\d{4,5})\b", path.read_text()):
            assert port == PORT, path
    dind = document(GITLAB)["docker"]["services"][1]
    assert dind["command"] == [f"--insecure-registry=crossmount:{PORT}"]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    list({(str(args), str(sorted(env))): (args, env) for _, args, env in proxies()}.values()),
)
def test_the_proxy_starts_as_the_file_says(
    arguments: list[str] | None, environment: dict[str, str], tmp_path: Path
) -> None:
    """The proxy is ready with the arguments and variables of each file."""
    with (
        running_registry() as registry,
        started(tmp_path, upstream=registry.url, arguments=arguments, environment=environment) as url,
    ):
        assert httpx.get(f"{url}/_crossmount/readyz").status_code == 200


def test_jenkins_logs_in_once_the_proxy_answers(tmp_path: Path) -> None:
    """The Jenkins job waits until the proxy listens, since docker login does not try again."""
    (script,) = (text for where, text in SHELLS if where == "Jenkinsfile.docker" and "--detach" in text)
    calls = tmp_path / "calls"
    answers = f'#!/bin/sh\necho "$1" >> {calls}\n[ "$1" != exec ] || [ "$(grep -c exec {calls})" = 3 ]\n'
    for name, program in {"docker": answers, "sleep": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-eu"], input=script, text=True, check=True, env={"PATH": path, **JENKINS_SETS})
    assert calls.read_text().split() == ["run", "exec", "exec", "exec", "login"]


def test_jenkins_names_suit_docker() -> None:
    """Names in the Jenkins job are valid for docker for any name of a branch (`%2F`)."""
    text = (CI / "jenkins" / "Jenkinsfile.docker").read_text()
    assert re.findall(r".*BUILD_TAG.*", text) == re.findall(r".* NAME = .*replaceAll.*", text)


def test_whoever_shares_a_pod_with_the_proxy_waits_for_it() -> None:
    """Pods of Jenkins and Tekton wait for a readiness probe of the proxy."""
    containers = [document(JENKINS)["spec"]["containers"][0]]
    containers += [side for task in documents(TEKTON) for side in task["spec"]["sidecars"]]
    probe = image().last("HEALTHCHECK").text.partition("CMD")[2]
    for container in containers:
        if container["name"] == "crossmount":
            assert container["readinessProbe"]["exec"]["command"] == json.loads(probe)


def test_a_file_starts_a_proxy_in_each_system() -> None:
    """Each system has a file that starts a proxy."""
    assert len(list(proxies())) == 4 + 4 + 1 + 1 + 4


def test_podman_s_lines_push_through_the_proxy(htpasswd_registry: DockerRegistry, tmp_path: Path) -> None:
    """The login, build and push of GitHub's job work with a real podman; only the port differs."""
    needs("podman")
    job: dict[str, Any] = document(GITHUB)["jobs"]["podman"]
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    environment = job["services"]["crossmount"]["env"]
    with (
        tempfile.TemporaryDirectory(prefix="cm-") as short,  # podman's runroot may have 50 characters
        started(tmp_path, upstream=htpasswd_registry.url, environment=environment) as url,
    ):
        storage = Path(short, "storage.conf")
        storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{short}/root"\nrunroot = "{short}/run"\n')
        port = str(httpx.URL(url).port)
        done = subprocess.run(
            ["sh", "-eu"],
            input=script.replace(PORT, port),
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": short,
                "XDG_RUNTIME_DIR": short,
                "TMPDIR": short,
                "CONTAINERS_STORAGE_CONF": str(storage),
                "REGISTRY_AUTH_FILE": f"{short}/auth.json",
                "BUILDAH_ISOLATION": "chroot",
                "NAME": USER,
                "PASSWORD": PASSWORD,
                "IMAGE": f"localhost:{port}/team/app:1",
            },
        )
        page = httpx.get(f"{url}/_crossmount/metrics").text
    assert done.returncode == 0, done.stderr
    assert 'crossmount_proxy_blobs_total{outcome="uploaded"} 2.0' in page
    assert htpasswd_registry.uploads() == 2


@pytest.mark.parametrize(("where", "text"), [found for found in SHELLS if "> /kaniko/.docker" in found[1]])
def test_kaniko_s_lines_write_its_credentials(where: str, text: str, tmp_path: Path) -> None:
    """Kaniko's credentials are written to docker's configuration file under the proxy's address."""
    lines = [line for line in text.splitlines() if "/kaniko/executor" not in line]
    file = tmp_path / "config.json"
    secret = "p" * 100 + "@:/"
    names = {name: secret if "P" in name[9:] else "ci" for name in re.findall(r"\$(REGISTRY_\w+)", text)}
    script = "\n".join(lines).replace("/kaniko/.docker/config.json", str(file))
    subprocess.run(["sh", "-eu"], input=script, text=True, check=True, env={"PATH": os.environ["PATH"], **names})
    ((host, credentials),) = json.loads(file.read_text())["auths"].items()
    assert host in {f"localhost:{PORT}", f"crossmount:{PORT}"}, where
    assert base64.b64decode(credentials["auth"]).decode() == f"ci:{secret}"


PUSHES = [(where, text) for where, text in SHELLS if "push app.tar" in text]


@pytest.mark.parametrize(("where", "text"), PUSHES, ids=[where for where, _ in PUSHES])
def test_the_lines_without_a_proxy_push_a_file(
    where: str, text: str, htpasswd_registry: DockerRegistry, valkey: Server, tmp_path: Path
) -> None:
    """The jobs for `crossmount push` push a file with the registry's credentials; docker is a stand-in."""
    made = make_layout(tmp_path / "image")
    to_archive(made.path, tmp_path / "app.tar")
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / ".docker").mkdir()
    config = {"auths": {htpasswd_registry.address: {"auth": auth}}}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(config))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").write_text(
        '#!/bin/sh\n[ "$1" = run ] || exit 0\nwhile [ "$1" != push ]; do shift; done\nexec crossmount "$@"\n'
    )
    (programs / "docker").chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu"],
        input=text.replace("registry.example.com", htpasswd_registry.address),
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
        env={
            **JENKINS_SETS,
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(tmp_path),
            "CROSSMOUNT_INDEX": valkey.url,
            "CROSSMOUNT_PLAIN_HTTP": "1",
            "REGISTRY_USER": USER,
            "REGISTRY_PASSWORD": PASSWORD,
            **dict.fromkeys(("GITHUB_SHA", "CI_COMMIT_SHORT_SHA", "BUILD_NUMBER"), "abc123"),
        },
    )
    assert done.returncode == 0, (where, done.stderr)
    assert "index: ok" in done.stdout
    assert htpasswd_registry.uploads() == len(made.blobs)
