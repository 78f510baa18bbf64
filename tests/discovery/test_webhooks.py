"""Messages of registries are parsed into changes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.discovery.webhooks import BlobArrived, Deleted, ManifestArrived, read_webhook
from crossmount.errors import InvalidInputError
from crossmount.oci import Digest, Repository
from crossmount.oci.descriptor import DOCKER_MANIFEST, OCI_INDEX

REGISTRY = Repository("r.example", "any")
APP = Repository("r.example", "team/app")
D = Digest.of(b"x")


def read(document: Any) -> tuple[object, ...]:
    """Parse a message."""
    return read_webhook(json.dumps(document).encode(), REGISTRY)


def distribution(action: Any, **target: Any) -> dict[str, Any]:
    """Return a notification of distribution 2.8 and 3, from another host name."""
    event = {
        "id": "320678d8-ca14-430f-8bb6-4ca139cd83f7",
        "timestamp": "2016-03-09T14:44:26.402973972-08:00",
        "action": action,
        "target": {"repository": "team/app", **target},
        "request": {"host": "internal:5000", "method": "PUT"},
        "actor": {},
        "source": {"addr": "registry-0:5000"},
    }
    return {"events": [event]}


def harbor(kind: str, **resource: Any) -> dict[str, Any]:
    """Return a webhook in Harbor's default format."""
    return {
        "type": kind,
        "occur_at": 1680501893,
        "operator": "admin",
        "event_data": {
            "resources": [{"tag": "1", "resource_url": "harbor.internal/team/app:1", **resource}],
            "repository": {
                "name": "app",
                "namespace": "team",
                "repo_full_name": "team/app",
                "repo_type": "private",
            },
        },
    }


def ecr(action: str, **detail: Any) -> dict[str, Any]:
    """Return an event of ECR as EventBridge sends it."""
    return {
        "version": "0",
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": "123456789012",
        "region": "us-west-2",
        "detail": {
            "result": "SUCCESS",
            "repository-name": "team/app",
            "image-digest": D,
            "action-type": action,
            **detail,
        },
    }


CLOUD = {
    "specversion": "1.0",
    "type": "harbor.artifact.pushed",
    "data": harbor("", digest=D)["event_data"],
}
QUAY = {
    "name": "app",
    "repository": "team/app",
    "namespace": "team",
    "docker_url": "quay.internal/team/app",
    "updated_tags": ["1", "2"],
}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (distribution("push", mediaType=DOCKER_MANIFEST, digest=D, size=5, tag="1"), [ManifestArrived(APP, D)]),
        (distribution("push", mediaType=OCI_INDEX, digest=D), [ManifestArrived(APP, D)]),
        (
            distribution("push", mediaType="application/octet-stream", digest=D, size=5, length=5),
            [BlobArrived(APP, D, 5)],
        ),
        (
            distribution("mount", mediaType="application/octet-stream", digest=D, size=5, fromRepository="b"),
            [BlobArrived(APP, D, 5), BlobArrived(Repository("r.example", "b"), D, 5)],
        ),
        (distribution("delete", digest=D), [Deleted(APP, D)]),
        (distribution("delete", tag="1"), []),
        (distribution("delete"), []),
        (distribution("pull", mediaType=DOCKER_MANIFEST, digest=D), []),
        (
            distribution("push", mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws", digest=D),
            [],
        ),
        (harbor("PUSH_ARTIFACT", digest=D), [ManifestArrived(APP, D)]),
        (harbor("pushImage", digest=""), [ManifestArrived(APP, "1")]),
        (harbor("DELETE_ARTIFACT", digest=D), [Deleted(APP, D)]),
        (harbor("PULL_ARTIFACT", digest=D), []),
        (harbor("SCANNING_COMPLETED", digest=D), []),
        (CLOUD, [ManifestArrived(APP, D)]),
        (QUAY, [ManifestArrived(APP, "1"), ManifestArrived(APP, "2")]),
        ({**QUAY, "updated_tags": {"1": "b750fe79"}}, [ManifestArrived(APP, "1")]),
        (ecr("PUSH"), [ManifestArrived(APP, D)]),
        (ecr("PUSH", **{"image-tag": "latest"}), [ManifestArrived(APP, D)]),
        (ecr("DELETE"), [Deleted(APP, D)]),
        (ecr("PUSH", result="FAILURE"), []),
        ({**ecr("PUSH"), "detail-type": "ECR Image Scan"}, []),
        ({}, []),
        ({"something": "else"}, []),
    ],
)
def test_each_registrys_messages_are_understood(document: dict[str, Any], expected: list[object]) -> None:
    """Pushes, mounts and deletions become changes of our registry, under any name in the message."""
    assert list(read(document)) == expected


@pytest.mark.parametrize(
    "target",
    [
        {"repository": "../x", "digest": D},
        {"repository": "team/app:1", "digest": D},
        {"repository": 7, "digest": D},
        {"digest": "sha256:short"},
        {"digest": None},
        {"digest": ["sha256"]},
    ],
)
def test_invalid_names_and_digests_are_ignored(target: dict[str, Any]) -> None:
    """A name or a digest that breaks the grammar is ignored."""
    assert read(distribution("push", mediaType=DOCKER_MANIFEST, **target)) == ()
    assert read(distribution("delete", **target)) == ()


@pytest.mark.parametrize("odd", [["push"], {"push": 1}, 7, None])
def test_an_invalid_action_is_ignored(odd: Any) -> None:
    """A message with an invalid action has no changes."""
    assert read(distribution(odd, mediaType=DOCKER_MANIFEST, digest=D)) == ()
    assert read(ecr("PUSH", **{"action-type": odd})) == ()
    assert read({**harbor("PUSH_ARTIFACT", digest=D), "type": odd}) == ()


def test_an_invalid_size_is_unknown() -> None:
    """An invalid size is ignored, and the blob counts."""
    for size in (-1, "5", True, 2**63, None, 1.5):
        assert read(distribution("push", digest=D, size=size)) == (BlobArrived(APP, D, None),)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_message_must_be_an_object(body: bytes) -> None:
    """A message that is not a JSON object raises an InvalidInputError."""
    with pytest.raises(InvalidInputError, match="not an event"):
        read_webhook(body, REGISTRY)


def test_a_message_with_too_many_changes_is_refused() -> None:
    """The number of changes in one message is limited."""
    tags = [f"t{number}" for number in range(10_001)]
    with pytest.raises(InvalidInputError, match="more than"):
        read({**QUAY, "updated_tags": tags})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["events", "type", "event_data", "data", "source", "detail", "detail-type", "updated_tags", "repository"]
)


@given(st.dictionaries(KEYS, JSON | st.sampled_from(["PUSH_ARTIFACT", "aws.ecr", "ECR Image Action"])))
def test_values_of_wrong_types_are_ignored(document: dict[str, Any]) -> None:
    """No value of a wrong type makes the parser fail."""
    read(document)
