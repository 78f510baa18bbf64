import json
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.oci.descriptor import DOCKER_MANIFEST
from support.images import make_layout, tar_layer, to_archive
from support.programs import needs, run
from support.registries import PASSWORD, USER, DockerRegistry, StartRegistry, TokenRegistry

BLOB = b"a blob"
DIGEST = Digest.of(BLOB)


def upload(url: str, name: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Upload BLOB with POST and PUT."""
    with httpx.Client(base_url=url, headers=headers) as client:
        location = client.post(f"/v2/{name}/blobs/uploads/").headers["location"]
        target = httpx.URL(location).copy_add_param("digest", DIGEST)
        return client.put(target, content=BLOB)


def test_an_open_registry_counts_what_it_gets(docker_registry: DockerRegistry) -> None:
    """The real registry's access log shows uploads, mounts and bytes."""
    assert upload(docker_registry.url, "team/app").status_code == 201
    mount = f"{docker_registry.url}/v2/team/other/blobs/uploads/?mount={DIGEST}&from=team/app"
    assert httpx.post(mount).status_code == 201
    assert docker_registry.uploads(DIGEST) == docker_registry.uploads() == 1
    assert docker_registry.mounts(DIGEST) == docker_registry.mounts() == 1
    assert docker_registry.mounts(Digest.of(b"another")) == 0
    assert docker_registry.upload_bytes() == len(BLOB)
    assert docker_registry.blob_path(DIGEST).read_bytes() == BLOB


def test_a_registry_can_send_relative_locations(start_docker_registry: StartRegistry) -> None:
    """A test chooses the options of the real registry."""
    registry = start_docker_registry(relative=True)
    assert httpx.post(f"{registry.url}/v2/a/b/blobs/uploads/").headers["location"].startswith("/v2/")


def test_a_registry_with_a_password_file_wants_it(htpasswd_registry: DockerRegistry) -> None:
    """Without the password every request is refused; with it every request succeeds."""
    url = f"{htpasswd_registry.url}/v2/"
    assert httpx.get(url).headers["www-authenticate"].startswith("Basic ")
    assert httpx.get(url, auth=(USER, "wrong")).status_code == 401
    assert httpx.get(url, auth=(USER, PASSWORD)).status_code == 200


def test_a_registry_with_tokens_takes_those_of_its_server(token_registry: TokenRegistry) -> None:
    """A token for the repository is accepted; any other token gets a challenge."""
    registry, tokens = token_registry.registry, token_registry.tokens
    challenge = httpx.get(f"{registry.url}/v2/").headers["www-authenticate"]
    assert challenge.startswith(f'Bearer realm="{tokens.url}",service="{tokens.service}"')
    answer = httpx.get(
        tokens.url,
        params={"scope": "repository:team/app:pull,push", "service": tokens.service},
        auth=(USER, PASSWORD),
    ).json()
    headers = {"Authorization": f"Bearer {answer['token']}"}
    assert answer["expires_in"] == 300
    assert upload(registry.url, "team/app", headers).status_code == 201
    assert httpx.post(f"{registry.url}/v2/team/b/blobs/uploads/", headers=headers).status_code == 401


def test_a_token_server_grants_less_or_refuses(token_registry: TokenRegistry) -> None:
    """Denied and read-only scopes are silently left out of a token, or refuse the token."""
    tokens = token_registry.tokens
    tokens.denied.add((USER, "team/secret"))
    tokens.read_only.add((USER, "team/base"))
    scopes = ["repository:team/secret:pull", "repository:team/base:pull,push", "repository:team/app:pull,push"]
    params = {"scope": scopes}
    assert httpx.get(tokens.url, params=params, auth=(USER, PASSWORD)).status_code == 200
    assert tokens.requests[-1].granted == (
        "repository:team/secret:",
        "repository:team/base:pull",
        "repository:team/app:pull,push",
    )
    tokens.refuses_whole = True
    assert httpx.get(tokens.url, params=params, auth=(USER, PASSWORD)).status_code == 403
    assert httpx.get(tokens.url, params=params, auth=(USER, "wrong")).status_code == 401
    assert [request.status for request in tokens.requests] == [200, 403, 401]


def test_a_token_server_speaks_oauth(token_registry: TokenRegistry) -> None:
    """POST returns a token for an identity token or a password in the form; POST can be turned off."""
    tokens = token_registry.tokens
    tokens.identity_tokens["identity"] = USER
    tokens.expires_in = None
    form = {"grant_type": "refresh_token", "refresh_token": "identity", "scope": "repository:a/b:pull"}
    answer = httpx.post(tokens.url, data=form)
    assert answer.json()["refresh_token"] == "identity"
    assert "expires_in" not in answer.json()
    form = {"grant_type": "password", "username": USER, "password": PASSWORD, "scope": "repository:a/b:push"}
    assert httpx.post(tokens.url, data=form).status_code == 200
    assert httpx.post(tokens.url, data={**form, "password": "wrong"}).status_code == 401
    tokens.oauth = False
    assert httpx.post(tokens.url, data=form).status_code == 405
    assert httpx.get(tokens.url, params={"scope": "repository:a/b:pull,push"}).status_code == 200
    assert tokens.requests[-1].granted == ("repository:a/b:pull",)


def test_made_layouts_are_what_skopeo_takes(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """A generated image is copied by skopeo, also of several platforms, and its digests stay the same."""
    layout = tmp_path / "layout"
    one = make_layout(layout, tag="one")
    many = make_layout(layout, tag="many", platforms=("linux/amd64", "linux/arm64"))
    archive = to_archive(layout, tmp_path / "layout.tar")
    for source, image in ((f"oci:{layout}:one", one), (f"oci-archive:{archive}:many", many)):
        target = f"docker://{docker_registry.address}/team/app:{image.tag}"
        run("skopeo", "copy", "--all", "--dest-tls-verify=false", source, target)
        answer = httpx.get(
            f"{docker_registry.url}/v2/team/app/manifests/{image.tag}",
            headers={"Accept": image.root.media_type},
        )
        assert Digest.of(answer.content) == image.root.digest
    assert all(docker_registry.uploads(blob.digest) == 1 for blob in one.blobs)


def test_made_layouts_come_in_dockers_types(tmp_path: Path) -> None:
    """The docker family has Docker's media types everywhere, with and without compression."""
    layers = [tar_layer({"a": b"1"}), tar_layer({"b": b"2"}, compressed=False)]
    made = make_layout(tmp_path, layers, family="docker", tag=None, annotations={"k": "v"}, artifact_type="x/y")
    document = json.loads(made.blob_path(made.root.digest).read_bytes())
    assert document["mediaType"] == made.root.media_type == DOCKER_MANIFEST
    assert [layer.media_type.rpartition(".")[2] for layer in made.layers] == ["gzip", "tar"]
    assert (document["annotations"], document["artifactType"]) == ({"k": "v"}, "x/y")


def test_a_missing_program_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program skips the test and names the package to install; in CI it fails the test."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="apt-get install skopeo"):
        needs("skopeo")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install skopeo"):
        needs("skopeo")
