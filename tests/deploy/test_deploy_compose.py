"""deploy/compose.yaml, as far as it can be checked without a container engine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossmount.proxy.settings import ServerLimits
from support.deployed import DEPLOY, document, image, names_secret, started
from support.images import make_layers, make_layout
from support.programs import run
from support.registries import DockerRegistry
from support.servers import StartServer

FILE = DEPLOY / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Return the file's services."""
    found: dict[str, Any] = document(FILE)["services"]
    return found


def test_the_file_is_a_compose_file() -> None:
    """The file is valid by the specification's own schema."""
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_volume_and_dependency_is_there(services: dict[str, Any]) -> None:
    """Each named volume and service is declared, and each service that must be healthy has a health check."""
    volumes = document(FILE)["volumes"]
    for service in services.values():
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= volumes.keys()
        for name, wanted in service.get("depends_on", {}).items():
            healthy = (
                "healthcheck" in services[name] or "build" in services[name]
            )  # the proxy's image has a health check
            assert wanted["condition"] == "service_started" or healthy
    build = services["proxy"]["build"]
    assert (FILE.parent / build["context"] / build["dockerfile"]).is_file()


def test_images_are_pinned(services: dict[str, Any]) -> None:
    """Every image has a version."""
    for service in services.values():
        tag = service["image"].rpartition(":")[2]
        assert any(letter.isdigit() for letter in tag), service["image"]


def test_the_proxy_may_do_little(services: dict[str, Any]) -> None:
    """The proxy is published on loopback alone, writes to its spool alone, and has no capabilities."""
    proxy = services["proxy"]
    assert all(port.startswith("127.0.0.1:") for port in proxy["ports"])
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert [volume.partition(":")[2] for volume in proxy["volumes"]] == image().last("VOLUME").words
    assert proxy["ports"][0].endswith(":" + image().last("EXPOSE").text)


def test_the_dashboard_may_do_little(services: dict[str, Any]) -> None:
    """The dashboard is published on loopback alone, writes nowhere, and reads the index that the proxy writes."""
    dashboard, proxy = services["dashboard"], services["proxy"]
    assert all(port.startswith("127.0.0.1:") for port in dashboard["ports"])
    assert dashboard["read_only"]
    assert dashboard["cap_drop"] == ["ALL"]
    assert "volumes" not in dashboard
    assert dashboard["environment"]["CROSSMOUNT_INDEX"] == proxy["environment"]["CROSSMOUNT_INDEX"]
    assert dashboard["image"] == proxy["image"]


def test_a_stop_leaves_uploads_their_time(services: dict[str, Any]) -> None:
    """The stop time-out is longer than the proxy's --grace can take."""
    period = float(services["proxy"]["stop_grace_period"].removesuffix("s"))
    assert period >= 2 * ServerLimits().grace + 5  # once for uploads, once for connections


def test_there_is_no_secret_in_it(services: dict[str, Any]) -> None:
    """No URL has a password."""
    for service in services.values():
        assert not any(names_secret(str(value)) for value in service.get("environment", {}).values())


def test_the_services_find_each_other(services: dict[str, Any]) -> None:
    """The proxy's URLs name services of the file, and the job pushes to the proxy's port."""
    environment = services["proxy"]["environment"]
    assert httpx.URL(environment["CROSSMOUNT_PROXY_UPSTREAM"]).host in services
    assert httpx.URL(environment["CROSSMOUNT_INDEX"]).host in services
    assert services["push"]["command"][0].startswith(f"docker://proxy:{image().last('EXPOSE').text}/")


def test_two_runs_of_the_job_upload_the_layers_once(
    services: dict[str, Any], start_server: StartServer, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """With the file's arguments and variables, the job's second run mounts the layers that the first uploaded."""
    server, *options = services["index"]["command"]
    assert server == "valkey-server"
    index = start_server(*options)
    made = make_layout(tmp_path / "image", make_layers(2))
    proxy = services["proxy"]
    words: list[str] = [*services["push"]["entrypoint"], *services["push"]["command"]]
    with started(
        tmp_path,
        upstream=docker_registry.url,
        index=index.url,
        arguments=proxy.get("command"),
        environment=proxy["environment"],
    ) as url:
        for dest in ("team/api:1", "team/web:1"):
            home = tmp_path / dest.replace("/", "-")
            home.mkdir()
            line = [
                *("--insecure-policy", *words[1:-2]),
                *(f"oci:{made.path}:{made.tag}", f"docker://{httpx.URL(url).netloc.decode()}/{dest}"),
            ]
            run(words[0], *line, HOME=str(home), XDG_RUNTIME_DIR=str(home), BLOB_INFO_CACHE_DIR=str(home))
        page = httpx.get(f"{url}/_crossmount/metrics").text
    assert "crossmount_proxy_index_unserved_total 0.0" in page
    for layer in made.layers:
        assert (docker_registry.uploads(layer.digest), docker_registry.mounts(layer.digest)) == (1, 1)
