"""deploy/kubernetes: rendered by kubectl as `kubectl apply -k` would, checked, and its proxy started."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

import crossmount
import redis
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import running_registry
from support.deployed import DEPLOY, document, documents, image, names_secret, started
from support.images import make_layers, make_layout
from support.programs import run
from support.registries import DockerRegistry
from support.servers import StartServer

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("deployment", "daemonset", "example")
VERSIONS = ("1.30", "1.34", "1.37")
"""The oldest that the manifests are for (preStop sleep), one between, the newest whose schemas can be had."""

SCHEMALESS = {"ServiceMonitor"}


class Rendered:
    """What one overlay renders to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: list[dict[str, Any]] = list(
            yaml.safe_load_all(run("kubectl", "kustomize", str(FOLDER / name)))
        )

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return its objects of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        """Return its only object of a kind."""
        (found,) = self.all(kind)
        return found

    @property
    def workload(self) -> dict[str, Any]:
        """What runs the proxy."""
        (found,) = self.all("Deployment") + self.all("DaemonSet")
        return found

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's specification."""
        spec: dict[str, Any] = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def proxy(self) -> dict[str, Any]:
        """The proxy's container."""
        (container,) = self.pod["containers"]
        found: dict[str, Any] = container
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What the container is given, by the kubelet's rules; a secret's value is the secret's name."""
        maps = {found["metadata"]["name"]: found["data"] for found in self.all("ConfigMap")}
        given: dict[str, str] = {}
        for source in self.proxy["envFrom"]:
            given |= maps[source["configMapRef"]["name"]]
        for variable in self.proxy["env"]:
            secret = variable.get("valueFrom", {}).get("secretKeyRef", {})
            given[variable["name"]] = variable.get("value", secret.get("name"))
        return given


_rendered: dict[str, Rendered] = {}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    """Give what each overlay renders to, in turn."""
    return rendered(request.param)


def rendered(name: str) -> Rendered:
    """Render an overlay, once."""
    if name not in _rendered:
        _rendered[name] = Rendered(name)
    return _rendered[name]


def seconds(environment: dict[str, str], name: str) -> float:
    """Return what a variable says."""
    return float(environment[name])


def size(text: str) -> int:
    """Return a Kubernetes quantity, or a size as crossmount writes it, in bytes."""
    match = re.fullmatch(r"(\d+)(Mi|Gi)B?", text)
    assert match, text
    return int(match[1]) << {"Mi": 20, "Gi": 30}[match[2]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_of_kubernetes(overlay: Rendered, version: str) -> None:
    """By Kubernetes' own schemas, where nothing may be there that they do not know."""
    for found in overlay.objects:
        if found["kind"] not in SCHEMALESS:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_example_brings_all_that_is_asked_of_a_deployment(overlay: Rendered) -> None:
    """Nothing is forgotten in a kustomization: each file of an overlay is rendered."""
    kinds = {found["kind"] for found in overlay.objects}
    assert kinds >= {"Namespace", "ServiceAccount", "ConfigMap"}
    if overlay.name != "daemonset":
        assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert ("ServiceMonitor" in kinds) == (overlay.name == "example")
    listed = {path.name for path in (FOLDER / overlay.name).glob("*.yaml")} - {"kustomization.yaml"}
    assert listed == set(document(FOLDER / overlay.name / "kustomization.yaml")["resources"]) & listed


def test_selectors_meet_their_labels(overlay: Rendered) -> None:
    """Whoever selects the proxy's pods by labels finds them, and nothing else is selected by."""
    labels = overlay.workload["spec"]["template"]["metadata"]["labels"].items()
    assert overlay.workload["spec"]["selector"]["matchLabels"].items() <= labels
    for budget in overlay.all("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels
    for policy in overlay.all("NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    for service in overlay.all("Service"):
        assert service["spec"]["selector"].items() <= labels
        for monitor in overlay.all("ServiceMonitor"):
            assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            assert monitor["spec"]["jobLabel"] in service["metadata"]["labels"]


def test_all_live_in_one_namespace(overlay: Rendered) -> None:
    """The one that the overlay brings."""
    name = overlay.one("Namespace")["metadata"]["name"]
    assert {found["metadata"].get("namespace", name) for found in overlay.objects} == {name}


def test_ports_meet(overlay: Rendered) -> None:
    """Where the proxy listens is what the pod, the service, the policy and the monitor name."""
    (port,) = overlay.proxy["ports"]
    assert overlay.environment["CROSSMOUNT_PROXY_LISTEN"].endswith(f":{port['containerPort']}")
    assert str(port["containerPort"]) == image().last("EXPOSE").text
    for service in overlay.all("Service"):
        (offered,) = service["spec"]["ports"]
        assert offered["targetPort"] == port["name"]
        for monitor in overlay.all("ServiceMonitor"):
            assert [end["port"] for end in monitor["spec"]["endpoints"]] == [offered["name"]]
    for policy in overlay.all("NetworkPolicy"):
        (rule,) = policy["spec"]["ingress"]
        assert rule["ports"] == [{"port": port["name"]}]


def test_secrets_are_only_referred_to(overlay: Rendered) -> None:
    """No object is a Secret, and no value has a password in it; the index's URL comes from one."""
    assert not overlay.all("Secret")
    assert not names_secret(yaml.safe_dump_all(overlay.objects))
    index = next(variable for variable in overlay.proxy["env"] if variable["name"] == "CROSSMOUNT_INDEX")
    assert index["valueFrom"]["secretKeyRef"] == {"name": "crossmount-index", "key": "url"}


def test_the_pod_keeps_to_the_restricted_standard(overlay: Rendered) -> None:
    """But for the node's network, where that is what it is for."""
    pod, container = overlay.pod, overlay.proxy["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    user, _, group = image().last("USER").text.partition(":")
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"] == int(group)
    assert all(not volume.keys() - {"name", "emptyDir", "secret"} for volume in pod["volumes"])
    assert pod["automountServiceAccountToken"] is False
    enforced = overlay.one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == ("privileged" if pod.get("hostNetwork") else "restricted")


def test_service_links_do_not_set_the_proxy_s_variables(overlay: Rendered) -> None:
    """A Service of the proxy's name would otherwise put CROSSMOUNT_PROXY_PORT and more into every pod."""
    assert overlay.pod["enableServiceLinks"] is False


def test_what_is_written_to_is_mounted(overlay: Rendered) -> None:
    """The spool is a volume with more room than the proxy takes of it."""
    spool = overlay.environment["CROSSMOUNT_PROXY_SPOOL"]
    (mount,) = [found for found in overlay.proxy["volumeMounts"] if found["mountPath"] == spool]
    (volume,) = [found for found in overlay.pod["volumes"] if found["name"] == mount["name"]]
    limit = size(overlay.environment["CROSSMOUNT_PROXY_SPOOL_LIMIT"])
    assert size(volume["emptyDir"]["sizeLimit"]) > limit
    assert {found["name"] for found in overlay.pod["volumes"]} == {
        found["name"] for found in overlay.proxy["volumeMounts"]
    }


def test_resources_are_bounded(overlay: Rendered) -> None:
    """Memory has a limit; the processor has none, which would only slow it down."""
    resources = overlay.proxy["resources"]
    assert {"cpu", "memory", "ephemeral-storage"} == resources["requests"].keys()
    assert {"memory"} == resources["limits"].keys()


def test_a_stop_leaves_uploads_their_time(overlay: Rendered) -> None:
    """The kubelet waits longer than the pause and the proxy's own grace may take."""
    pause = overlay.proxy.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = seconds(overlay.environment, "CROSSMOUNT_PROXY_GRACE")
    assert grace >= ServerLimits().grace
    assert overlay.pod["terminationGracePeriodSeconds"] >= pause + 2 * grace + 5
    if overlay.workload["kind"] == "Deployment":
        assert pause >= 5


def test_uploads_stay_with_one_replica() -> None:
    """Where there is more than one, the Service sends a client where it was before, for as long as it may push."""
    overlay = rendered("deployment")
    assert overlay.workload["spec"]["replicas"] > 1
    service = overlay.one("Service")["spec"]
    assert service["sessionAffinity"] == "ClientIP"
    assert service["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] >= 3600


def test_a_node_s_proxy_is_for_that_node_alone() -> None:
    """It listens on the node's loopback, is probed there, and still finds services by name."""
    overlay = rendered("daemonset")
    assert overlay.pod["hostNetwork"] is True
    assert overlay.pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    (port,) = overlay.proxy["ports"]
    host = overlay.environment["CROSSMOUNT_PROXY_LISTEN"].rpartition(":")[0]
    assert host == port["hostIP"] == "127.0.0.1"
    assert port["hostPort"] == port["containerPort"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert overlay.proxy[probe]["httpGet"]["host"] == host


def test_both_ways_run_the_same_proxy() -> None:
    """What is not about where it listens is the same in the DaemonSet and in the Deployment."""

    def bare(overlay: Rendered) -> dict[str, Any]:
        pod = deepcopy(overlay.pod)
        for name in ("hostNetwork", "dnsPolicy", "topologySpreadConstraints"):
            pod.pop(name, None)
        (container,) = pod["containers"]
        del container["ports"]
        container.pop("lifecycle", None)
        container["env"] = [found for found in container["env"] if found["name"] != "CROSSMOUNT_PROXY_LISTEN"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container[probe]["httpGet"].pop("host", None)
        return pod

    assert bare(rendered("daemonset")) == bare(rendered("deployment"))


def test_the_proxy_starts_as_the_manifest_says_and_answers_its_probes(overlay: Rendered, tmp_path: Path) -> None:
    """The same arguments and variables; the pages that are probed and scraped are there, by the scheme named."""
    pages = [overlay.proxy[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    schemes = {page.get("scheme", "HTTP").lower() for page in pages}
    paths = [page["path"] for page in pages]
    for monitor in overlay.all("ServiceMonitor"):
        (end,) = monitor["spec"]["endpoints"]
        schemes.add(end["scheme"])
        paths.append(end["path"])
        assert end["tlsConfig"]["serverName"].startswith(overlay.one("Service")["metadata"]["name"] + ".")
    mounted = {mount["mountPath"] for mount in overlay.proxy["volumeMounts"]}
    assert {str(Path(value).parent) for name, value in overlay.environment.items() if "_TLS_" in name} <= mounted
    with (
        running_registry() as registry,
        started(
            tmp_path, upstream=registry.url, arguments=overlay.proxy["args"], environment=overlay.environment
        ) as url,
    ):
        assert {url.partition(":")[0]} == schemes
        for path in paths:
            assert httpx.get(f"{url}{path}", verify=False).status_code == 200, path  # noqa: S501 its own certificate


def test_the_chart_s_user_may_do_all_that_the_proxy_needs(
    start_server: StartServer, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """With the rights of the values' user what one uploaded another mounts, and the server refuses no command."""
    values = document(FOLDER / "valkey" / "values.yaml")
    file = tmp_path / "users.acl"
    users = values["auth"]["aclUsers"].items()
    file.write_text("".join(f"user {name} on >made-up {user['permissions']}\n" for name, user in users))
    pairs = [line.split(maxsplit=1) for line in values["extraConfig"].splitlines()]
    options = [word for name, value in pairs for word in (f"--{name}", value.strip('"'))]
    server = start_server("--aclfile", str(file), *options)
    overlay = rendered("deployment")
    made = make_layout(tmp_path / "image", make_layers(2))
    with started(
        tmp_path,
        upstream=docker_registry.url,
        index=f"redis://crossmount:made-up@127.0.0.1:{server.port}/0",
        arguments=overlay.proxy["args"],
        environment=overlay.environment,
    ) as url:
        for name in ("a", "b"):
            home = tmp_path / name
            home.mkdir()
            dest = f"docker://{httpx.URL(url).netloc.decode()}/team/{name}:1"
            line = ("copy", "--dest-tls-verify=false", f"oci:{made.path}:{made.tag}", dest)
            own = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "BLOB_INFO_CACHE_DIR": str(home)}
            run("skopeo", "--insecure-policy", *line, **own)
        page = httpx.get(f"{url}/_crossmount/metrics").text
        with redis.Redis(port=server.port, username="default", password="made-up") as admin:
            assert admin.acl_log() == []
    assert "crossmount_proxy_index_unserved_total 0.0" in page
    assert [docker_registry.mounts(layer.digest) for layer in made.layers] == [1, 1]


def test_the_chart_s_user_may_do_all_that_our_scripts_do() -> None:
    """Also what no test of a push comes by: a command new in a script is missed here."""
    rights = document(FOLDER / "valkey" / "values.yaml")["auth"]["aclUsers"]["crossmount"]["permissions"].split()
    scripts = list(Path(crossmount.__file__).parent.rglob("*.lua"))
    called = {f"+{name.lower()}" for path in scripts for name in re.findall(r"call\('(\w+)'", path.read_text())}
    assert called
    assert called <= set(rights)


def test_valkey_lets_in_whom_the_proxy_s_policy_lets_out() -> None:
    """The proxy's pods may reach Valkey's, by its policy and by theirs, at the port of its Service."""
    values = document(FOLDER / "valkey" / "values.yaml")
    overlay = rendered("deployment")
    labels = overlay.workload["spec"]["template"]["metadata"]["labels"].items()
    (rule,) = values["networkPolicy"]["extraIngress"]
    assert values["networkPolicy"]["allowExternal"] is False
    assert [peer["podSelector"]["matchLabels"].items() <= labels for peer in rule["from"]] == [True]
    out = overlay.one("NetworkPolicy")["spec"]["egress"]
    assert {
        "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "valkey"}}}],
        "ports": [{"port": 6379}],
    } in out
    assert rule["ports"] == [{"port": 6379}]


def test_valkey_s_values_hold_no_password_and_bound_its_memory() -> None:
    """Passwords come from a Secret, and what Valkey may take is less than what its container may."""
    values = document(FOLDER / "valkey" / "values.yaml")
    assert values["auth"]["usersExistingSecret"]
    assert all(user.keys() == {"permissions"} for user in values["auth"]["aclUsers"].values())
    bound = re.search(r"^maxmemory (\d+)mb$", values["extraConfig"], flags=re.MULTILINE)
    assert bound is not None
    assert int(bound[1]) << 20 < size(values["resources"]["limits"]["memory"])
    assert not any(names_secret(str(found)) for found in documents(FOLDER / "valkey" / "values.yaml"))
