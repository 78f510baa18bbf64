import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.oci import Digest
from crossmount.testing.routes import (
    FinishUpload,
    ListTags,
    MountBlob,
    PageRequest,
    PostUpload,
    ReadManifest,
    VersionCheck,
    WriteManifest,
    route,
)
from crossmount.testing.values import DistributionError, Request

DIGEST = Digest.of(b"x")
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS")


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("GET", "/v2/", (), VersionCheck()),
        ("HEAD", "/v2", (), VersionCheck()),
        ("HEAD", "/v2/a/b/manifests/v1", (), ReadManifest("a/b", "v1")),
        ("GET", f"/v2/a/manifests/{DIGEST}", (), ReadManifest("a", DIGEST)),
        ("PUT", f"/v2/a/manifests/{DIGEST}", (("tag", "x"), ("tag", "y")), WriteManifest("a", DIGEST, ("x", "y"))),
        ("GET", "/v2/a/tags/list", (("n", "3"), ("last", "v")), ListTags("a", PageRequest(3, "v"))),
        ("POST", "/v2/a/blobs/uploads/", (), PostUpload("a")),
        ("POST", "/v2/a/blobs/uploads", (("from", "b"),), PostUpload("a")),
        ("POST", "/v2/a/blobs/uploads/", (("digest", DIGEST),), PostUpload("a", DIGEST)),
        ("POST", "/v2/a/blobs/uploads/", (("mount", DIGEST), ("from", "b/c")), MountBlob("a", DIGEST, "b/c")),
        ("POST", "/v2/a/blobs/uploads/", (("mount", DIGEST), ("from", "")), MountBlob("a", DIGEST)),
        ("PUT", "/v2/a/blobs/uploads/id-1", (("digest", DIGEST),), FinishUpload("a", "id-1", DIGEST)),
        ("GET", "/v2/blobs/uploads/manifests/v1", (), ReadManifest("blobs/uploads", "v1")),
    ],
)
def test_requests_become_operations(
    method: str, path: str, query: tuple[tuple[str, str], ...], operation: object
) -> None:
    """Each endpoint of the specification is parsed into one operation."""
    assert route(Request(method, path, query)) == operation


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "code"),
    [
        ("GET", "/", (), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/a", (), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/UPPER/tags/list", (), 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/tags/list", (), 400, "NAME_INVALID"),
        ("GET", "/v2/a/tags/list", (("n", "-1"),), 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/a/manifests/.bad", (), 400, "TAG_INVALID"),
        ("GET", "/v2/a/manifests/sha256:short", (), 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/not-a-digest", (), 400, "DIGEST_INVALID"),
        ("PUT", "/v2/a/blobs/uploads/id", (), 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/", (("mount", "x"),), 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/", (("mount", DIGEST), ("from", "UP")), 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/uploads/", (), 405, "UNSUPPORTED"),
        ("POST", "/v2/", (), 405, "UNSUPPORTED"),
    ],
)
def test_what_is_no_operation_is_refused(
    method: str, path: str, query: tuple[tuple[str, str], ...], status: int, code: str
) -> None:
    """An invalid or unsupported request has the right status and error code."""
    with pytest.raises(DistributionError) as caught:
        route(Request(method, path, query))
    assert (caught.value.status, caught.value.code) == (status, code)


@given(
    st.sampled_from(METHODS),
    st.text(st.sampled_from("/v2abmanifestsbluploads:._-%\x00é"), max_size=60).map(lambda text: f"/v2/{text}"),
    st.lists(st.tuples(st.sampled_from(("mount", "from", "digest", "n", "tag")), st.text(max_size=5))),
)
def test_any_request_is_an_operation_or_refused(method: str, path: str, query: list[tuple[str, str]]) -> None:
    """Every text is either parsed or refused."""
    with contextlib.suppress(DistributionError):
        route(Request(method, path, tuple(query)))
