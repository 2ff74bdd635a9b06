"""What a sampling run reports back to the node that prepared it: sent to the browser, and kept for its next visit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from aiohttp import web

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
