"""The pack's routes, JSON in and out: what is known of features, renaming them, and reports of earlier runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ...sae.dictionary.fingerprint import fingerprint
from ...sae.files.small_json import parse_object
from ...sae.naming.label_store import shipped_labels
from ...sae.naming.labels import Label, Labels, labels_from, search
from ...sae.steering.measured import Setting
from .feature_names import label_store
from .feature_payload import feature_payload
from .feature_ranges import FIRST, offered
from .messages import KEY, Reports
from .sae_sources import SOURCES, SaeSources, Use

MOST_BYTES = 2**20
MOST_FEATURES = 200  # of one answer
MOST_CHARACTERS = 5000  # of one query's value
HEADERS = {"X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_routes(routes: web.RouteTableDef, app: web.Application) -> None:
    """Adds the routes to ComfyUI's; what they keep lives as long as the server does."""
    sources, reports = SaeSources(), Reports()
    app[KEY], app[SOURCES] = reports, sources

    @routes.get("/sae_steering/features")
    @_told
    async def features(request: web.Request) -> Any:
        query = _query(request)
        return await asyncio.to_thread(find_features, sources, query)

    @routes.post("/sae_steering/labels")
    @_told
    async def labels(request: web.Request) -> Any:
        body = await _body(request)
        return await asyncio.to_thread(rename, body)

    @routes.get("/sae_steering/reports")
    @_told
    async def told(request: web.Request) -> Any:
        return {"reports": reports.get(_query(request).get("prompt_id", ""))}


def _told(handler: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Answers with JSON; a ValueError becomes status 400 with its sentence."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await handler(request), headers=HEADERS)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400, headers=HEADERS)

    return answer


def _query(request: web.Request) -> dict[str, str]:
    query = dict(request.query)
    long = next((name for name, value in query.items() if len(value) > MOST_CHARACTERS), None)
    if long is not None:
        raise ValueError(f"{long[:40]}: it is longer than {MOST_CHARACTERS} characters; ask for less.")
    return query


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Other content types could come from a form on a foreign page."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="application/json is needed.")
    if (request.content_length or 0) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES, request.content_length or 0)
    text = bytearray()
    async for chunk in request.content.iter_chunked(2**16):
        text += chunk
        if len(text) > MOST_BYTES:
            raise web.HTTPRequestEntityTooLarge(MOST_BYTES, len(text))
    try:
        return parse_object(text.decode("utf-8"), "body: it")
    except UnicodeDecodeError as error:
        raise ValueError("body: it is no text in UTF-8.") from error


def find_features(sources: SaeSources, query: Mapping[str, str]) -> dict[str, Any]:
    """What is known of features: of those named by `index`, else of those whose label has all the words of `q`.

    Of an SAE that only its `fingerprint` tells, the user's labels and calibrations are known, not its statistics. The
    calibrations are those that fit what a graph last steered with.
    """
    sae = sources.open(query)
    mark = query.get("fingerprint", "") if sae is None else fingerprint(sae)
    store = label_store()
    labels = store.labels(mark, None if sae is None else shipped_labels(sae))
    count = None if sae is None else sae.d_sae
    numbers = _indices(query["index"]) if query.get("index") else search(labels, query.get("q", ""))[:MOST_FEATURES]
    if count is not None:
        numbers = [number for number in numbers if number < count]
    use = sources.used.get(mark, Use(FIRST, Setting()))
    ranges, told = offered(mark, use.setting, use.method, numbers)
    statistics = None if sae is None else sae.statistics
    return {
        "fingerprint": mark,
        "sae": None if sae is None else sae.name,
        "owner": None if sae is None else asdict(sae.owner),
        "count": count,
        "features": [feature_payload(number, labels.get(number), statistics, ranges) for number in numbers],
        "warnings": [*store.warnings, *told],
    }


def _indices(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_FEATURES or not all(p.isascii() and p.isdecimal() and len(p) <= 9 for p in parts):
        raise ValueError(f"index: {text[:40]!r} came; give up to {MOST_FEATURES} whole numbers, such as 3,17.")
    return [int(part) for part in parts]


def rename(body: Mapping[str, Any]) -> dict[str, Any]:
    """Sets labels in the user's file, and removes those that are null. `body` has fingerprint and labels."""
    mark, changes = body.get("fingerprint"), body.get("labels")
    if not isinstance(mark, str) or not isinstance(changes, dict) or not 0 < len(changes) <= MOST_FEATURES:
        raise ValueError(
            f"body: fingerprint and up to {MOST_FEATURES} labels are needed, index to name, or null to remove one."
        )
    named = labels_from({key: value for key, value in changes.items() if value is not None}, "body")
    removed = labels_from({key: "x" for key, value in changes.items() if value is None}, "body")
    store = label_store()
    new: dict[int, Label | None] = {**named, **dict.fromkeys(removed)}
    kept: Labels = store.update(mark, new)
    return {"labels": {str(k): label.name for k, label in kept.items() if k in new}, "warnings": store.warnings}
