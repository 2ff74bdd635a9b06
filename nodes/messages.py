"""Text on a node after it has run: what a sampling run reports back to the node that prepared it."""

from __future__ import annotations


def show_on_node(node_id: str | None, text: str) -> None:
    """Shows text on a node of the graph under way; without a server (a plain Python run) nobody is there to see it."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
