"""What the graph that is executed does with a steered model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Graph = Mapping[str, Any]  # nodes by id, each with its class_type and its inputs, as a prompt of the API has them


def graph_under_way() -> Graph:
    """The graph that this thread executes; empty in a plain Python run."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server, running = getattr(PromptServer, "instance", None), get_executing_context()
    if server is None or running is None:
        return {}
    tasks = list(server.prompt_queue.currently_running.values())
    return next((graph for _, prompt, graph, *_ in tasks if str(prompt) == str(running.prompt_id)), {})


def merged_away(graph: Graph, node_id: str | None) -> list[str]:
    """A sentence for each merge that takes the node's MODEL, directly or through other nodes, as its second model.

    A merge is a copy of its first model, with numbers of the second one's weights; nothing else of that one remains.
    """
    carriers, found = {str(node_id)}, {}
    grown = True
    while grown:
        grown = False
        for key, node in graph.items():
            for name in _given_by(node, carriers):
                if name == "model2":
                    found[key] = (
                        f"{node.get('class_type')} (node {key}) takes this model as model2, and a merge keeps the "
                        "steering of model1 only, so nothing is steered behind it: steer the merged model."
                    )
                elif key not in carriers:
                    carriers.add(key)
                    grown = True
    return list(found.values())


def _given_by(node: Any, carriers: set[str]) -> list[str]:
    """The names of a node's model inputs that come from one of the carriers' first outputs."""
    inputs = node.get("inputs", {}) if isinstance(node, Mapping) else {}
    return [
        name
        for name, value in inputs.items()
        if name.startswith("model") and isinstance(value, list) and len(value) == 2
        if str(value[0]) in carriers and value[1] == 0
    ]
