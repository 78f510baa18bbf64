"""deploy/kubernetes: the optional components, and what runs regularly, rendered, checked, and started."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

from crossmount.testing import running_registry
from support.acl import USERS
from support.commands import Here
from support.deployed import DEPLOY, document, image, names_secret, started
from support.images import make_layout
from support.programs import run
from support.servers import Server

FOLDER = DEPLOY / "kubernetes"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
SECRET = "made-up-secret-of-24-chars"  # long enough for a token


def rendered(tmp_path: Path, *components: str) -> dict[str, Any]:
    """Render the Deployment with these components, and return the objects by kind."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "crossmount",
        "resources": ["../deployment"],
        "components": [f"../components/{name}" for name in components],
    }
    (copy / "own").mkdir()
    (copy / "own" / "kustomization.yaml").write_text(yaml.safe_dump(own))
    objects = yaml.safe_load_all(run("kubectl", "kustomize", str(copy / "own")))
    return {found["kind"]: found for found in objects}


def container(workload: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pod of a workload, and its container."""
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def jobs() -> list[dict[str, Any]]:
    """Render the CronJobs."""
    return list(yaml.safe_load_all(run("kubectl", "kustomize", str(FOLDER / "jobs"))))


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_fits_the_deployment(name: str, version: str, tmp_path: Path) -> None:
    """The Deployment with any component is valid by Kubernetes' schemas, without a password in it."""
    objects = rendered(tmp_path, name)
    for kind, found in objects.items():
        if kind != "ServiceMonitor":
            kubernetes_validate.validate(found, version, strict=True)
    assert "Secret" not in objects
    assert not names_secret(yaml.safe_dump_all(objects.values()))


def test_all_components_go_together(tmp_path: Path) -> None:
    """With all components every file that a variable names is in a mounted Secret, each volume once."""
    objects = rendered(tmp_path, "monitoring", *(name for name in COMPONENTS if name != "monitoring"))
    pod, proxy = container(objects["Deployment"])
    kubernetes_validate.validate(objects["Deployment"], "1.37", strict=True)
    mounts = [mount["mountPath"] for mount in proxy["volumeMounts"]]
    assert len(mounts) == len(set(mounts))
    assert {mount["name"] for mount in proxy["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    files = [entry["value"] for entry in proxy["env"] if str(entry.get("value")).startswith("/etc/")]
    assert {str(Path(file).parent) for file in files} <= set(mounts)
    (end,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    assert end["authorization"]["credentials"] == {"name": "crossmount-callers", "key": "prometheus"}


def test_the_autoscaler_alone_says_how_many(tmp_path: Path) -> None:
    """With the autoscaler the Deployment names no replicas, and the autoscaler aims at it and leaves slowly."""
    objects = rendered(tmp_path, "autoscaling")
    spec = objects["HorizontalPodAutoscaler"]["spec"]
    assert "replicas" not in objects["Deployment"]["spec"]
    assert spec["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert spec["minReplicas"] >= 2
    grace = objects["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert spec["behavior"]["scaleDown"]["policies"][0]["periodSeconds"] > grace


def test_a_proxy_with_both_secrets_takes_tokens_and_events(tmp_path: Path) -> None:
    """With the components' variables callers need a token, the probes need none, and events need their secret."""
    _, proxy = container(rendered(tmp_path, "service-auth", "events")["Deployment"])
    environment = {entry["name"]: str(entry.get("value", "secret")) for entry in proxy["env"]}
    files = {
        "CROSSMOUNT_PROXY_TOKENS": f"ci:{SECRET}\nprometheus:{SECRET}2\n",
        "CROSSMOUNT_PROXY_EVENTS_SECRET_FILE": f"{SECRET}3\n",
        "CROSSMOUNT_AUTHFILE": '{"auths": {}}',
    }
    for name, content in files.items():
        path = tmp_path / Path(environment[name]).name
        path.write_text(content)
        environment[name] = str(path)
    environment["CROSSMOUNT_PROXY_UPSTREAM"] = "https://registry.example.com"
    with (
        running_registry() as registry,
        started(tmp_path, upstream=registry.url, arguments=proxy["args"], environment=environment) as url,
    ):
        bearer = {"Authorization": f"Bearer {SECRET}"}
        assert httpx.get(f"{url}/v2/").status_code == 401
        assert httpx.get(f"{url}/v2/", headers=bearer).status_code == 200
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert httpx.get(f"{url}{proxy[probe]['httpGet']['path']}").status_code == 200
        assert httpx.get(f"{url}/_crossmount/metrics").status_code == 401
        scraper = {"Authorization": f"Bearer {SECRET}2"}
        assert httpx.get(f"{url}/_crossmount/metrics", headers=scraper).status_code == 200
        assert httpx.post(f"{url}/_crossmount/events", json={"events": []}).status_code == 401
        known = {
            "Authorization": f"Bearer {SECRET}3",
            "Content-Type": "application/vnd.docker.distribution.events.v1+json",
        }
        assert httpx.post(f"{url}/_crossmount/events", json={"events": []}, headers=known).status_code == 202


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_jobs_are_of_kubernetes(version: str) -> None:
    """The CronJobs are valid, run one at a time, with an end, and meet the restricted standard."""
    found = jobs()
    assert {job["metadata"]["name"] for job in found} == {"crossmount-scan", "crossmount-prune"}
    for job in found:
        kubernetes_validate.validate(job, version, strict=True)
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600
        pod, runs = container(job["spec"]["jobTemplate"])
        assert pod["securityContext"]["runAsUser"] == int(image().last("USER").text.partition(":")[0])
        assert runs["securityContext"]["readOnlyRootFilesystem"] is True
        assert runs["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        index = next(entry for entry in runs["env"] if entry["name"] == "CROSSMOUNT_INDEX")
        assert index["valueFrom"]["secretKeyRef"]["name"].startswith("crossmount-index")


def test_the_jobs_commands_work(
    here: Here, valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of the CronJobs scan and prune a registry."""
    monkeypatch.setenv("CROSSMOUNT_INDEX", valkey.unix_url)
    made = make_layout(tmp_path / "image")
    with running_registry() as registry:
        assert here("push", str(made.path), f"{registry.address}/team/app:1", "--plain-http").status == 0
        for job in jobs():
            _, runs = container(job["spec"]["jobTemplate"])
            words = [word.replace("registry.example.com", registry.address) for word in runs["args"]]
            done = here(*words, "--plain-http")
            assert done.status == 0, done.err


def test_the_chart_s_users_are_those_of_the_acl_file() -> None:
    """The chart gives pushers and operators the rights of deploy/redis/users.acl, and lets the jobs connect."""
    values = document(FOLDER / "valkey" / "values.yaml")
    for line in USERS.read_text().splitlines():
        _, name, _, *rights = line.split()
        if name.startswith("crossmount"):
            assert set(values["auth"]["aclUsers"][name]["permissions"].split()) == set(rights), name
    (rule,) = values["networkPolicy"]["extraIngress"]
    labels = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert {"app.kubernetes.io/name": "crossmount-job"} in labels
