"""The page's server, without its I/O: the answer to a path and a query.

Every view has one address directly below the page's own, with its parameters in the query. So all links are
relative, and the page works below any prefix of a reverse proxy.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from crossmount._tasks import collect
from crossmount.dashboard import views
from crossmount.dashboard.charts import column_chart
from crossmount.dashboard.exporter import MEDIA_TYPE, FleetState, exposition
from crossmount.dashboard.pages import SiteAnswer, StaticFiles, environment, page, text
from crossmount.dashboard.reader import IndexReader
from crossmount.errors import InvalidDigestError, InvalidReferenceError
from crossmount.oci import Digest
from crossmount.oci.reference import normalise_registry
from crossmount.savings.accounts import OTHER
from crossmount.savings.report import Savings

_QUERY_MAX = 2048
_PARAMETERS_MAX = 8
_PREFIX_MAX = 255


class Site:
    """Answers requests for the page.

    Args:
        reader: reads the index.
        version: of crossmount, for the footer.
        latencies: returns the seconds until a registry's first answer, for those that somebody measures.
    """

    def __init__(
        self,
        reader: IndexReader,
        *,
        version: str,
        latencies: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._reader = reader
        self._version = version
        self._latencies = latencies
        self._static = StaticFiles()
        self._templates = environment(self._static.url)
        self._made: dict[Hashable, asyncio.Task[SiteAnswer]] = {}
        self._second = 0
        self._views: Mapping[str, Callable[[Mapping[str, str]], Coroutine[Any, Any, SiteAnswer]]] = {
            "": self._overview,
            "live": self._live,
            "registry": self._registry,
            "repository": self._repository,
            "layer": self._layer,
        }

    async def answer(self, path: str, query: bytes, *, names: bool = True) -> SiteAnswer:
        """Return the answer to a GET.

        Args:
            path: the path below the page's own, without a slash at its beginning.
            query: the query.
            names: whether the reader may see the names of registries, repositories and layers, or sums alone.
        """
        given = _parameters(query)
        if (file := self._static.answer(path)) is not None:
            return file
        if not names:
            return await self._without_names(path, given)
        if path == "metrics":
            return text(exposition(await self._state()), MEDIA_TYPE)
        view = self._views.get(path)
        if view is None:
            return await self._not_there()
        if path == "layer":  # read from the index in one short call, so that it is never old
            return await view(given)
        return await self._once_a_second((path, *sorted(given.items())), partial(view, given))

    async def _without_names(self, path: str, given: Mapping[str, str]) -> SiteAnswer:
        """Answer without names."""
        if path in {"registry", "repository", "layer", "metrics"}:
            return await self._refusal(403, "This page shows sums alone: its operator has not enabled names.")
        if path not in {"", "live"}:
            return await self._not_there()
        view = partial(self._live, {}, names=False) if path else partial(self._overview, given, names=False)
        return await self._once_a_second((path, _days(given)), view)

    async def _once_a_second(
        self, key: Hashable, view: Callable[[], Coroutine[Any, Any, SiteAnswer]]
    ) -> SiteAnswer:
        """Make a view at most once a second: whoever reaches the page may request it without end.

        All readers see the same, so they share an answer.
        """
        second = int(self._reader.now.timestamp())
        if second != self._second:
            self._second, self._made = second, {}
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = asyncio.create_task(view())
            made.add_done_callback(collect)
        return await asyncio.shield(made)

    async def _overview(self, given: Mapping[str, str], *, names: bool = True) -> SiteAnswer:
        reader = self._reader
        savings = (await reader.savings()).value
        contents, uploads = await asyncio.gather(reader.contents(), reader.uploads())
        context: dict[str, Any] = {"contents": contents, "uploads": uploads, "path": ""}
        if savings is not None:
            states = (await reader.registries()).value or {}
            days = _days(given)
            part = views.last_days(savings, days)
            again = part.most_uploaded_again
            context |= await self._accounts(savings, days) | {
                "registries": views.registry_rows(part, contents.value, states, self._latencies()),
                "repositories": views.repository_rows(part),
                "mounted": part.most_mounted[: views.LAYERS_MAX],
                "again": again[: views.LAYERS_MAX],
                "causes": views.causes(again),
            }
        return await self._page("overview.html", names=names, savings=savings, **context)

    async def _live(self, given: Mapping[str, str], *, names: bool = True) -> SiteAnswer:
        """SiteAnswer with the parts of a view that change every second."""
        uploads = await self._reader.uploads()
        registry, prefix, layer = (given.get(name, "") for name in ("registry", "prefix", "digest"))
        return await self._page(
            "live.html", names=names, uploads=uploads, registry=registry, prefix=prefix, layer=layer
        )

    async def _registry(self, given: Mapping[str, str]) -> SiteAnswer:
        try:
            name = normalise_registry(given.get("name", ""))
        except InvalidReferenceError:
            return await self._refusal(404, "That is not the name of a registry.")
        reader = self._reader
        savings = (await reader.savings()).value
        contents, uploads, states = await asyncio.gather(reader.contents(), reader.uploads(), reader.registries())
        context: dict[str, Any] = {
            "name": name,
            "contents": contents,
            "info": None if contents.value is None else contents.value.registries.get(name),
            "state": (states.value or {}).get(name),
            "latency": self._latencies().get(name),
            "uploads": uploads,
            "registry": name,
            "path": "registry",
        }
        if savings is not None:
            own, days = savings.only(registry=name), _days(given)
            context |= await self._accounts(own, days)
            context["repositories"] = views.repository_rows(views.last_days(own, days))
        return await self._page("registry.html", savings=savings, **context)

    async def _repository(self, given: Mapping[str, str]) -> SiteAnswer:
        prefix = given.get("prefix", "")
        try:
            registry = normalise_registry(given.get("registry", ""))
        except InvalidReferenceError:
            registry = ""
        if not registry or not prefix or len(prefix) > _PREFIX_MAX:
            return await self._refusal(404, "That is not the name of repositories.")
        savings, uploads = (await self._reader.savings()).value, await self._reader.uploads()
        context: dict[str, Any] = {
            "registry": registry,
            "prefix": prefix,
            "uploads": uploads,
            "path": "repository",
        }
        if savings is not None:
            context |= await self._accounts(savings.only(registry=registry, prefix=prefix), _days(given))
        return await self._page("repository.html", savings=savings, **context)

    async def _layer(self, given: Mapping[str, str]) -> SiteAnswer:
        try:
            digest = Digest(given.get("digest", "").strip())
        except InvalidDigestError:
            return await self._refusal(
                404, "That is not the digest of a layer: sha256: and 64 hexadecimal digits, as in a manifest."
            )
        savings = (await self._reader.savings()).value
        entry, uploads = await asyncio.gather(self._reader.layer(digest), self._reader.uploads())
        return await self._page(
            "layer.html",
            savings=savings,
            digest=digest,
            layer=str(digest),
            entry=entry,
            places=[] if entry.value is None else views.places(entry.value),
            account=None if savings is None else savings.layer(digest),
            uploads=uploads,
            path="layer",
        )

    async def _state(self) -> FleetState:
        reader = self._reader
        return FleetState(
            namespace=reader.namespace,
            connection=await reader.connection(),
            savings=await reader.savings(),
            uploads=await reader.uploads(),
            contents=await reader.contents(),
            registries=await reader.registries(),
        )

    async def _not_there(self) -> SiteAnswer:
        return await self._refusal(404, "There is no such page.")

    async def _refusal(self, status: int, words: str) -> SiteAnswer:
        return await self._page("refusal.html", status=status, words=words)

    async def _accounts(self, savings: Savings, days: int) -> dict[str, Any]:
        shown = views.period(savings, days)
        return {
            "tiles": views.tiles(savings),
            "first": views.first_push(savings),
            "period": shown,
            "chart": await asyncio.to_thread(column_chart, shown.columns),  # a proxy has other work meanwhile
        }

    async def _page(self, template: str, *, names: bool = True, status: int = 200, **context: Any) -> SiteAnswer:
        reader = self._reader
        connection = await reader.connection()
        accounts = await reader.savings()
        html = self._templates.get_template(template).render(
            {
                "names": names,
                "namespace": reader.namespace,
                "address": reader.address,
                "connection": connection,
                "accounts": accounts,
                "now": reader.now,
                "version": self._version,
                "periods": views.PERIODS,
                "reasons": views.REASONS,
                "first_rows": views.FIRST_ROWS,
                "other": OTHER,
                "trait_word": views.trait_word,
                "uploads_of": views.uploads_of,
                "registry": "",
                "prefix": "",
                "layer": "",
                "path": "",
                **context,
            }
        )
        return page(html, status)


def _parameters(query: bytes) -> Mapping[str, str]:
    """Return the parameters of a query; none if it is too long, or not UTF-8."""
    if len(query) > _QUERY_MAX:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), max_num_fields=_PARAMETERS_MAX, errors="strict")
    except ValueError:
        return {}
    return dict(pairs)


def _days(given: Mapping[str, str]) -> int:
    found = given.get("days", "")
    return int(found) if found in map(str, views.PERIODS) else views.PERIOD
