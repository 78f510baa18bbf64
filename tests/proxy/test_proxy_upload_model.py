"""Random sequences of requests on an upload session, compared with a model of the specification."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmount.index import MemoryMountIndex
from crossmount.oci import Digest
from crossmount.proxy.assembly import assembled
from crossmount.proxy.policy import Policy
from crossmount.proxy.settings import ProxySettings, ServerLimits
from crossmount.proxy.shared import Shared
from crossmount.testing import ScriptedRegistry

Kind = Literal["patch", "ranged", "misplaced", "get", "put", "wrong", "delete", "other"]


@dataclass(frozen=True, slots=True)
class Step:
    """One request."""

    kind: Kind
    data: bytes = b""


@dataclass(slots=True)
class Model:
    """The state of an upload."""

    content: bytearray = field(default_factory=bytearray)
    open: bool = True

    def expect(self, step: Step) -> int:  # noqa: PLR0911 a table of statuses
        """Return the status that a step must get, and do it."""
        if not self.open or step.kind == "other":
            return 404
        match step.kind:
            case "get":
                return 204
            case "misplaced":
                return 416
            case "delete":
                self.open = False
                return 204
            case "wrong":
                self.open = False
                return 400
        self.content += step.data
        if step.kind == "put":
            self.open = False
            return 201
        return 202


STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.sampled_from(["patch", "ranged", "put"]), st.binary(min_size=1, max_size=300)),
        st.builds(Step, st.sampled_from(["patch", "ranged"]), st.binary(min_size=1, max_size=300)),
        st.builds(Step, st.sampled_from(["get", "misplaced", "wrong", "delete", "other"])),
    ),
    min_size=1,
    max_size=12,
)


async def play(  # noqa: PLR0911 a table of requests
    client: httpx.AsyncClient, location: str, step: Step, model: Model
) -> httpx.Response:
    """Send a step's request."""
    size = len(model.content)
    match step.kind:
        case "get":
            return await client.get(location)
        case "delete":
            return await client.delete(location)
        case "patch":
            return await client.patch(location, content=step.data)
        case "ranged":
            span = f"{size}-{size + len(step.data) - 1}"
            return await client.patch(location, content=step.data, headers={"Content-Range": span})
        case "misplaced":
            span = f"{size + 7}-{size + 7}"
            return await client.patch(location, content=b"x", headers={"Content-Range": span})
        case "put":
            digest = Digest.of(bytes(model.content) + step.data)
            return await client.put(f"{location}?digest={digest}", content=step.data)
        case "wrong":
            return await client.put(f"{location}?digest={Digest.of(b'something else')}")
        case "other":
            return await client.get(location + "x")


async def compare(steps: list[Step], limit: int) -> None:
    """Play the steps against a proxy in this process, and the model."""
    with tempfile.TemporaryDirectory() as folder:
        async with ScriptedRegistry() as registry:
            made = ProxySettings(
                upstreams=(registry.url,), spool=Path(folder), limits=ServerLimits(spool_bytes=limit)
            )
            [upstream] = made.upstream_list(Policy())
            async with (
                Shared.opened(made, MemoryMountIndex()) as shared,
                assembled(upstream, shared, is_first=True, is_only=True) as one,
            ):
                app = one.app
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
                    location = (await client.post("/v2/a/blobs/uploads/")).headers["location"]
                    model = Model()
                    for step in steps:
                        answer = await play(client, location, step, model)
                        assert answer.status_code == model.expect(step), (step, answer.text)
                        if answer.status_code in {202, 204} and step.kind != "delete":
                            assert answer.headers["range"] == f"0-{max(0, len(model.content) - 1)}"
                            assert answer.headers["location"] == location
                        if answer.status_code == 201:
                            blob = await client.get(answer.headers["location"])
                            assert blob.content == model.content
                        if step.kind == "wrong" and len(model.content) > limit:
                            return  # the registry's own session may still exist
                    assert app.core.spool is not None
                    assert app.core.spool.taken <= limit
                    assert model.open or (app.core.spool.taken, len(app.core.sessions)) == (0, 0)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_a_spooled_upload_answers_as_the_specification_says(steps: list[Step]) -> None:
    """Offsets, statuses, Locations and the blob follow the model, and nothing is left at the end."""
    asyncio.run(compare(steps, 1 << 20))


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 900))
def test_an_upload_that_outgrows_the_spool_answers_the_same(steps: list[Step], limit: int) -> None:
    """A full spool changes nothing for the client, at any point of a sequence of requests."""
    asyncio.run(compare(steps, limit))
