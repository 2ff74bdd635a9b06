"""What ComfyUI's server remembers of graphs that ran, and what it tells the browser while one runs.

It remembers SAEs that were seen and how they were used, searches for concepts, and the newest reports of runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import web

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae
from ...sae.files.recent import Newest
from ...sae.known.ranges import Setting
from ...sae.steering.edits import Method

MOST_SEARCHES = 32  # each a few dozen numbers, or two directions a place


@dataclass(frozen=True)
class Use:
    """How a graph steers with an SAE."""

    method: Method
    setting: Setting


@dataclass(frozen=True)
class SeenSaes:
    """SAEs that graphs have worked with, wherever they came from, as long as somebody else holds them.

    `used` has, by fingerprint too, how a graph steered or calibrated with one last.
    """

    by_fingerprint: WeakValueDictionary[str, AnySae] = field(default_factory=WeakValueDictionary)
    used: dict[str, Use] = field(default_factory=dict)


SEEN = web.AppKey("sae_steering.seen", SeenSaes)  # in the server's application, as the next one
CONCEPTS = web.AppKey("sae_steering.concepts", Newest[Any])


def remember(app: web.Application) -> SeenSaes:
    """Begins to remember, as long as the server lives."""
    app[SEEN], app[CONCEPTS] = SeenSaes(), Newest[Any](MOST_SEARCHES)
    return app[SEEN]


def introduce(sae: AnySae, mark: str) -> None:
    """Lets the routes know an SAE of the graph under way by its fingerprint."""
    app = _app()
    if app is not None and SEEN in app:
        app[SEEN].by_fingerprint[mark] = sae


def note_use(sae: SparseAutoencoder, use: Use) -> None:
    """Lets the routes know how the graph under way steers with an SAE that was introduced."""
    app = _app()
    if app is not None and SEEN in app:
        marks = [mark for mark, known in list(app[SEEN].by_fingerprint.items()) if known is sae]
        app[SEEN].used.update(dict.fromkeys(marks, use))


def kept_concepts() -> Newest[Any]:
    """The searches for concepts; in a plain Python run nothing is known."""
    app = _app()
    return app[CONCEPTS] if app is not None and CONCEPTS in app else Newest[Any](MOST_SEARCHES)


def _app() -> web.Application | None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return None if server is None else server.app


EVENT = "sae_steering.report"
MOST = 200  # reports kept


class Reports:
    """The newest reports by prompt and node."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Mapping[str, Any]] = OrderedDict()

    def keep(self, prompt: str, node: str, report: Mapping[str, Any]) -> None:
        self._kept[prompt, node] = report
        self._kept.move_to_end((prompt, node))
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def get(self, prompt: str) -> dict[str, Mapping[str, Any]]:
        """Those of one prompt, by node."""
        return {node: report for (known, node), report in list(self._kept.items()) if known == prompt}


KEY = web.AppKey("sae_steering.reports", Reports)  # of the store in the server's application


def show_on_node(node_id: str | None, report: Mapping[str, Any]) -> None:
    """Shows a report on a node of the graph under way; in a plain Python run nobody is there to see it."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    running = get_executing_context()
    if server is None or node_id is None or running is None:
        return
    prompt = str(running.prompt_id)
    if KEY in server.app:
        server.app[KEY].keep(prompt, node_id, report)
    server.send_sync(EVENT, {"node": node_id, "prompt_id": prompt, "report": report}, server.client_id)


def show_progress_text(node_id: str | None, text: str) -> None:
    """Shows a line on a node while it works; in a plain Python run nobody is there to see it."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
