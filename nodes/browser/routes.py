"""The pack's routes, JSON in and out: what is known of features, renaming them, recipes, reports of earlier runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from ...sae.dictionary.fingerprint import SET
from ...sae.dictionary.sae_set import SaeSet
from ...sae.files.quote import shown
from ...sae.files.small_json import UnreadableError, parse_object
from ...sae.files.whole import UnwritableError
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.known.labels import Label, labels_from
from .queries import MOST_FEATURES, FeatureQueries
from .recipe_presets import list_presets, open_preset
from .sae_sources import SaeSources
from .server_memory import KEY, Reports, remember

MOST_BYTES = 2**20
MOST_CHARACTERS = 5000  # of one query's value
HEADERS = {"X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_routes(routes: web.RouteTableDef, app: web.Application) -> None:
    """Adds the routes to ComfyUI's; what they keep lives as long as the server does."""
    sources, reports = SaeSources(remember(app)), Reports()
    app[KEY] = reports
    queries = FeatureQueries(sources)
    questions: dict[str, Callable[[Mapping[str, str]], Any]] = {
        "features": queries.find,
        "browse": queries.browse,
        "pictures": queries.pictures,
        "recipes": partial(list_presets, sources),
        "reports": lambda query: {"reports": reports.get(query.get("prompt_id", ""))},
    }
    changes: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "labels": partial(rename, sources),
        "preset": partial(open_preset, sources),
    }
    for name, answer in questions.items():
        routes.get(f"/sae_steering/{name}")(_told(answer, _query))
    for name, answer in changes.items():
        routes.post(f"/sae_steering/{name}")(_told(answer, _body))


def _told(answer: Callable[[Any], Any], asked: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Answers what was `asked` with JSON, in a thread, for files are read.

    A ValueError becomes status 400 with its sentence, and what a disk refuses status 500.
    """

    async def handler(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(answer, await asked(request)), headers=HEADERS)
        except (UnreadableError, UnwritableError) as error:
            return _refusal(500, str(error))
        except ValueError as error:
            return _refusal(400, str(error))
        except OSError as error:
            return _refusal(
                500, f"files: one of them cannot be read or written ({error.strerror}); look into its folder."
            )

    return handler


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=HEADERS)


async def _query(request: web.Request) -> dict[str, str]:
    query = dict(request.query)
    long = next((name for name, value in query.items() if len(value) > MOST_CHARACTERS), None)
    if long is not None:
        raise ValueError(f"{shown(long, 40)}: it is longer than {MOST_CHARACTERS} characters; ask for less.")
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


def rename(sources: SaeSources, body: Mapping[str, Any]) -> dict[str, Any]:
    """Sets labels in the user's file, and removes those that are null. `body` has fingerprint and labels.

    Those of a set go into its members' files.
    """
    mark, changes = body.get("fingerprint"), body.get("labels")
    if not isinstance(mark, str) or not isinstance(changes, dict) or not 0 < len(changes) <= MOST_FEATURES:
        raise ValueError(
            f"body: fingerprint and up to {MOST_FEATURES} labels are needed, index to name, or null to remove one."
        )
    named = labels_from({key: value for key, value in changes.items() if value is not None}, "body")
    removed = labels_from({key: "x" for key, value in changes.items() if value is None}, "body")
    new: dict[int, Label | None] = {**named, **dict.fromkeys(removed)}
    known = notebooks()
    notebook = known.of(_set_of(sources, mark)) if mark.startswith(SET) else known.of_fingerprint(mark)
    kept = notebook.update(new)
    return {"labels": {str(k): label.name for k, label in kept.items() if k in new}, "warnings": notebook.warnings}


def _set_of(sources: SaeSources, mark: str) -> SaeSet:
    """The set of a fingerprint, whose members keep its names."""
    found = sources.seen.by_fingerprint.get(mark)
    if not isinstance(found, SaeSet):
        raise ValueError(
            f"fingerprint: no graph has worked with the set {mark[:16]}… since ComfyUI started, so nobody knows whose "
            "its features are; run the graph once, then name them."
        )
    return found
