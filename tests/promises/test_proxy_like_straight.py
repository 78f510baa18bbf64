"""Whatever works straight works through the proxy, with the same result and no more uploads."""

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given, settings

from crossmount.testing import ScriptedRegistry
from promises.known import LIMIT, NIGHT, NIGHTLY
from promises.scripts import BLOBS, REPOSITORIES, SCRIPTS, Client, Salted, Script, Seen, Step
from support.proxies import ProxyUnderTest, proxy_before
from support.registries import DockerRegistry, run_docker_registry

SALTS = itertools.count()


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that is allowed, and why.

    Attributes:
        reason: why nobody is worse off.
        fits: returns whether an answer through the proxy differs from one straight in this way.
    """

    reason: str
    fits: Callable[[Step, Seen, Seen], bool]


ALLOWED = (
    Difference(
        "a HEAD, or a client's own mount that failed, is answered by a mount from where the index knows the blob",
        lambda step, straight, through: (
            (step.kind in {"head", "mount"} and through.is_good)
            and straight.status == (404 if step.kind == "head" else 202)
        ),
    ),
    Difference(
        "what was mounted so is there: it can be read, deleted, uploaded once more, and named by manifests",
        lambda step, straight, through: (
            step.kind in {"get", "delete", "put", "read", "drop", "tags"}
            and 400 <= straight.status < 500
            and (through.is_good or through.status == 416)
        ),
    ),
    Difference(
        "a malformed name is refused with another 4xx; a read of it finds nothing, as at distribution",
        lambda step, straight, through: (
            step.kind == "odd"
            and 400 <= straight.status < 500
            and (through.status == 404 or (through.status == 400 and not step.given.startswith(("GET", "HEAD"))))
        ),
    ),
    Difference(
        "a chunk that does not follow gets the specification's 416 with the range; distribution says less, or "
        "takes it and refuses the whole in the end",
        lambda step, straight, through: (
            (step.way in {"repeated", "skipped"} and straight.status in {202, 400, 404, 416})
            and through.status == 416
        ),
    ),
    Difference(
        "a blob whose POST the registry takes for the start of a session may be mounted instead",
        lambda step, straight, through: step.way == "whole" and (straight.status, through.status) == (202, 201),
    ),
)
"""All differences between straight and through that are allowed."""


@dataclass(frozen=True, slots=True)
class Twins:
    """Two registries that are alike, and a proxy before the second.

    Attributes:
        straight: a client of the first.
        behind: a client of the second, past the proxy.
        proxy: the proxy.
        uploads: returns how often blobs with these digests were uploaded to the first and to the second.
    """

    straight: httpx.AsyncClient
    behind: httpx.AsyncClient
    proxy: ProxyUnderTest
    uploads: Callable[[list[str]], tuple[int, int]]

    async def compare(self, script: Script) -> None:
        """Play a script on both, and compare answer by answer, and then what the registries hold."""
        salted = Salted(f"s{next(SALTS)}")
        straight, through, behind = (
            Client(http, salted) for http in (self.straight, self.proxy.client, self.behind)
        )
        for name, blob in sorted(script.held):
            for each in (straight, behind):
                (*_, last) = await each.play(Step("upload", name, blob, way="put"))
                assert last.status == 201
            if script.known:
                await self.proxy.knows(salted.digest(blob), salted.repository(name))
        digests = [str(salted.digest(blob)) for blob in BLOBS]
        before = self.uploads(digests)
        deleted: set[tuple[str, int]] = set()
        for step in script.steps:
            plain, ours = await straight.play(step), await through.play(step)
            _assert_alike(step, plain, ours)
            self._check_deletions(step, plain, ours, deleted)
            await self.proxy.learnt(salted.digest(step.blob))
        after = self.uploads(digests)
        assert after[1] - before[1] <= after[0] - before[0], "more uploads through the proxy"
        for name, blob in itertools.product(REPOSITORIES, BLOBS):
            there, here = await straight.holds(name, blob), await behind.holds(name, blob)
            assert here or not there, f"{name} lacks blob {blob} behind the proxy"
            assert not (here and (name, blob) in deleted), f"{name} has blob {blob} back"

    @staticmethod
    def _check_deletions(step: Step, plain: list[Seen], ours: list[Seen], deleted: set[tuple[str, int]]) -> None:
        """Follow what clients deleted and nobody began to bring back; a HEAD of it finds nothing."""
        if step.kind == "delete" and ours[0].is_good:
            deleted.add((step.name, step.blob))
        elif step.kind == "mount" or (step.kind == "upload" and step.way not in {"cancelled", "wrong"}):
            deleted.discard((step.name, step.blob))
        elif step.kind == "head" and (step.name, step.blob) in deleted:
            assert ours[0].status == plain[0].status == 404


def _assert_alike(step: Step, plain: list[Seen], ours: list[Seen]) -> None:
    for straight, through in zip(plain, ours, strict=False):
        if straight == through:
            continue
        if any(allowed.fits(step, straight, through) for allowed in ALLOWED):
            if straight.is_good != through.is_good and step.kind == "upload":
                return  # the rest of the upload goes another way
            continue
        assert straight == through, step
    assert len(plain) == len(ours), step


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """An event loop on which the twins and their proxies live as long as the module's tests."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module", params=["spooled", "relayed"])
def scripted(runner: asyncio.Runner, request: pytest.FixtureRequest) -> Iterator[Twins]:
    """Two scripted registries."""
    stack = AsyncExitStack()

    async def start() -> Twins:
        one, two = [await stack.enter_async_context(ScriptedRegistry()) for _ in range(2)]

        def uploads(digests: list[str]) -> tuple[int, int]:
            first, second = (sum(registry.uploads(each) for each in digests) for registry in (one, two))
            return first, second

        return await _twins(stack, one.url, two.url, uploads, spooled=request.param == "spooled")

    yield runner.run(start())
    runner.run(stack.aclose())


@pytest.fixture(scope="module")
def distribution(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Two registries of the distribution project."""
    stack, folder = AsyncExitStack(), tmp_path_factory.mktemp("twins")

    async def start() -> Twins:
        one, two = (
            stack.enter_context(run_docker_registry(folder / name, auth="", relative=False, deletes=True))
            for name in ("straight", "behind")
        )

        def uploads(digests: list[str]) -> tuple[int, int]:
            return _uploads(one, digests), _uploads(two, digests)

        return await _twins(stack, one.url, two.url, uploads, spooled=True)

    yield runner.run(start())
    runner.run(stack.aclose())


def _uploads(registry: DockerRegistry, digests: list[str]) -> int:
    accesses = registry.accesses()
    return sum(
        each.status == 201 and each.method in {"PUT", "POST"} and each.query.get("digest") in digests
        for each in accesses
    )


async def _twins(
    stack: AsyncExitStack,
    one: str,
    two: str,
    uploads: Callable[[list[str]], tuple[int, int]],
    *,
    spooled: bool,
) -> Twins:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-twins-")))
    straight, behind = [await stack.enter_async_context(httpx.AsyncClient(base_url=url)) for url in (one, two)]
    proxy = await stack.enter_async_context(proxy_before(two, spool=folder if spooled else None))
    return Twins(straight, behind, proxy, uploads)


def _scripts(count: int) -> settings:
    """Return settings for so many scripts, at night for many more."""
    return settings(max_examples=count * (NIGHT if NIGHTLY else 1), deadline=None, derandomize=not NIGHTLY)


_DELETED = Script(
    frozenset({("base", 1), ("team/one", 1)}), (Step("delete", blob=1), Step("head", blob=1)), known=True
)
_SAME = Script(frozenset(), (Step("upload", way="last"), Step("upload", way="last")), known=False)
_OWN = Script(
    frozenset({("base", 2)}),
    (Step("mount", blob=2, source="base"), Step("delete", blob=2), Step("mount", blob=2), Step("head", blob=2)),
    known=True,
)


@pytest.mark.timeout(0 if NIGHTLY else LIMIT)
@_scripts(30)
@given(script=SCRIPTS)
@example(script=_DELETED)
@example(script=_SAME)
@example(script=_OWN)
def test_what_works_straight_works_through_the_proxy(
    script: Script, scripted: Twins, runner: asyncio.Runner
) -> None:
    """Any script of requests ends through the proxy as straight, differences that are better aside."""
    runner.run(scripted.compare(script))


@pytest.mark.timeout(0 if NIGHTLY else LIMIT)
@_scripts(6)
@given(script=SCRIPTS)
@example(script=_DELETED)
@example(script=_SAME)
@example(script=_OWN)
def test_the_same_before_distribution(script: Script, distribution: Twins, runner: asyncio.Runner) -> None:
    """The same holds before a registry of the distribution project."""
    runner.run(distribution.compare(script))
