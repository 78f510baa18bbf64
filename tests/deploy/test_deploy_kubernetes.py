"""deploy/kubernetes: rendered like `kubectl apply -k`, checked, and its proxy started."""

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
"""The oldest supported version (preStop sleep), one between, and the newest with published schemas."""

SCHEMALESS = {"ServiceMonitor"}


class Rendered:
    """The rendered objects of one overlay."""

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
        """The workload that runs the proxy."""
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
        """The container's environment, by the kubelet's rules; a secret's value is the secret's name."""
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
    """Return the rendered objects of each overlay, in turn."""
    return rendered(request.param)


def rendered(name: str) -> Rendered:
    """Render an overlay, once."""
    if name not in _rendered:
        _rendered[name] = Rendered(name)
    return _rendered[name]


def seconds(environment: dict[str, str], name: str) -> float:
    """Return the value of a variable."""
    return float(environment[name])


def size(text: str) -> int:
    """Return a Kubernetes quantity, or a size in crossmount's notation, in bytes."""
    match = re.fullmatch(r"(\d+)(Mi|Gi)B?", text)
    assert match, text
    return int(match[1]) << {"Mi": 20, "Gi": 30}[match[2]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_of_kubernetes(overlay: Rendered, version: str) -> None:
    """Every object is valid by Kubernetes' own schemas, which permit no unknown fields."""
    for found in overlay.objects:
        if found["kind"] not in SCHEMALESS:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_example_brings_all_that_is_asked_of_a_deployment(overlay: Rendered) -> None:
    """Each file of an overlay is rendered by its kustomization."""
    kinds = {found["kind"] for found in overlay.objects}
    assert kinds >= {"Namespace", "ServiceAccount", "ConfigMap"}
    if overlay.name != "daemonset":
        assert kinds >= {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    assert ("ServiceMonitor" in kinds) == (overlay.name == "example")
    listed = {path.name for path in (FOLDER / overlay.name).glob("*.yaml")} - {"kustomization.yaml"}
    assert listed == set(document(FOLDER / overlay.name / "kustomization.yaml")["resources"]) & listed


def test_selectors_meet_their_labels(overlay: Rendered) -> None:
    """Each selector matches the labels of the proxy's pods."""
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
    """Every object is in the namespace that the overlay creates."""
    name = overlay.one("Namespace")["metadata"]["name"]
    assert {found["metadata"].get("namespace", name) for found in overlay.objects} == {name}


def test_ports_meet(overlay: Rendered) -> None:
    """The pod, the Service, the policy and the monitor name the port that the proxy listens on."""
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
    """No object is a Secret, no value has a password, and the index's URL comes from a Secret."""
    assert not overlay.all("Secret")
    assert not names_secret(yaml.safe_dump_all(overlay.objects))
    index = next(variable for variable in overlay.proxy["env"] if variable["name"] == "CROSSMOUNT_INDEX")
    assert index["valueFrom"]["secretKeyRef"] == {"name": "crossmount-index", "key": "url"}


def test_the_pod_keeps_to_the_restricted_standard(overlay: Rendered) -> None:
    """The pod meets the restricted standard, apart from the node's network in the DaemonSet."""
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
    """Service links are off; a Service named like the proxy would set CROSSMOUNT_PROXY_PORT in every pod."""
    assert overlay.pod["enableServiceLinks"] is False


def test_what_is_written_to_is_mounted(overlay: Rendered) -> None:
    """The spool is a volume with more space than the proxy's limit."""
    spool = overlay.environment["CROSSMOUNT_PROXY_SPOOL"]
    (mount,) = [found for found in overlay.proxy["volumeMounts"] if found["mountPath"] == spool]
    (volume,) = [found for found in overlay.pod["volumes"] if found["name"] == mount["name"]]
    limit = size(overlay.environment["CROSSMOUNT_PROXY_SPOOL_LIMIT"])
    assert size(volume["emptyDir"]["sizeLimit"]) > limit
    assert {found["name"] for found in overlay.pod["volumes"]} == {
        found["name"] for found in overlay.proxy["volumeMounts"]
    }


def test_resources_are_bounded(overlay: Rendered) -> None:
    """Memory has a limit; the processor has none, since a limit would only slow the proxy down."""
    resources = overlay.proxy["resources"]
    assert {"cpu", "memory", "ephemeral-storage"} == resources["requests"].keys()
    assert {"memory"} == resources["limits"].keys()


def test_a_stop_leaves_uploads_their_time(overlay: Rendered) -> None:
    """The kubelet waits longer than the pause and the proxy's grace can take."""
    pause = overlay.proxy.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = seconds(overlay.environment, "CROSSMOUNT_PROXY_GRACE")
    assert grace >= ServerLimits().grace
    assert overlay.pod["terminationGracePeriodSeconds"] >= pause + 2 * grace + 5
    if overlay.workload["kind"] == "Deployment":
        assert pause >= 5


def test_uploads_stay_with_one_replica() -> None:
    """With several replicas the Service sends a client to the same pod for as long as a push may take."""
    overlay = rendered("deployment")
    assert overlay.workload["spec"]["replicas"] > 1
    service = overlay.one("Service")["spec"]
    assert service["sessionAffinity"] == "ClientIP"
    assert service["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] >= 3600


def test_a_node_s_proxy_is_for_that_node_alone() -> None:
    """The node's proxy listens on loopback, is probed there, and still resolves services by name."""
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
    """The DaemonSet and the Deployment differ only in where the proxy listens."""

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
    """With the manifest's arguments and variables, the probed and scraped pages answer by the named scheme."""
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
    """With the rights of the chart's user one push uploads and another mounts, and no command is refused."""
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
    """The chart's user may run every command of our scripts, also those that no test of a push runs."""
    rights = document(FOLDER / "valkey" / "values.yaml")["auth"]["aclUsers"]["crossmount"]["permissions"].split()
    scripts = list(Path(crossmount.__file__).parent.rglob("*.lua"))
    called = {f"+{name.lower()}" for path in scripts for name in re.findall(r"call\('(\w+)'", path.read_text())}
    assert called
    assert called <= set(rights)


def test_valkey_lets_in_whom_the_proxy_s_policy_lets_out() -> None:
    """The policies of the proxy's and of Valkey's pods permit connections to the port of Valkey's Service."""
    values = document(FOLDER / "valkey" / "values.yaml")
    overlay = rendered("deployment")
    labels = overlay.workload["spec"]["template"]["metadata"]["labels"].items()
    (rule,) = values["networkPolicy"]["extraIngress"]
    assert values["networkPolicy"]["allowExternal"] is False
    assert [peer["podSelector"]["matchLabels"].items() <= labels for peer in rule["from"]] == [True, False]
    out = overlay.one("NetworkPolicy")["spec"]["egress"]
    assert {
        "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "valkey"}}}],
        "ports": [{"port": 6379}],
    } in out
    assert rule["ports"] == [{"port": 6379}]


def test_valkey_s_values_hold_no_password_and_bound_its_memory() -> None:
    """Passwords come from a Secret, and Valkey's memory bound is below its container's."""
    values = document(FOLDER / "valkey" / "values.yaml")
    assert values["auth"]["usersExistingSecret"]
    assert all(user.keys() == {"permissions"} for user in values["auth"]["aclUsers"].values())
    bound = re.search(r"^maxmemory (\d+)mb$", values["extraConfig"], flags=re.MULTILINE)
    assert bound is not None
    assert int(bound[1]) << 20 < size(values["resources"]["limits"]["memory"])
    assert not any(names_secret(str(found)) for found in documents(FOLDER / "valkey" / "values.yaml"))
