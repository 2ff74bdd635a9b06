"""What nodes that steer a MODEL give and show: a steered clone, what is known to fail, and a report after each run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae
from ...sae.hosts.comfyui.model import (
    Model,
    depth_of,
    elsewhere_lines,
    family_lines,
    host_warnings,
    members_in,
    setting_here,
)
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.hosts.comfyui.steering import carry, steer, with_mask_check
from ...sae.places.depth import Depth
from ...sae.places.site import Site, kind_name
from ...sae.steering.delta import Steering
from ...sae.steering.edits import FeatureList
from ...sae.steering.set_up import Planned, SetUp, Wanted
from ...sae.steering.summary import RunSummary
from ..browser.server_memory import Use, note_use, show_on_node
from ..inputs.sockets import steering_warnings

log = logging.getLogger(__name__)

EMPTY_MASK = "The mask is empty, so nothing is steered: paint on it, or leave it away."


class _Told:
    """Says things on a node and in the log, in its name."""

    def __init__(self, node: type[io.ComfyNode]) -> None:
        schema, self.id = node.define_schema(), node.hidden.unique_id
        self.kind, self.name = schema.node_id, f"{schema.display_name} (node {self.id})"

    def warn(self, text: str) -> None:
        log.warning("%s: %s", self.kind, text)

    def report(self, summary: RunSummary, place: str, warnings: list[str]) -> None:
        if summary.steps == 0:
            guess = ": the schedule and apply_to leave no step, strength is neutral, or the model ignores patches"
            text = f"No step was steered at {place}{'' if summary.warnings else guess}."
            self.warn(text)
        else:
            text = f"{summary} At {place}."
            log.info("%s: %s", self.kind, text)
        for warning in summary.warnings:
            self.warn(warning)
        self._show(text, list(dict.fromkeys([*summary.warnings, *warnings])), [list(step) for step in summary.curve])

    def fault(self, text: str) -> None:
        self._show(text, [], [])

    def _show(self, text: str, warnings: list[str], curve: list[list[float]]) -> None:
        show_on_node(self.id, {"kind": "report", "text": text, "warnings": warnings, "curve": curve})


def steered(
    node: type[io.ComfyNode], model: Model, sae: AnySae, wanted: Wanted, location: str, stream: str, *more: Any
) -> io.NodeOutput:  # fmt: skip
    """The steered model and `more` outputs; the node shows what is known to fail, and after each run the report.

    The model carries its set-up, for whoever saves it.
    """
    planned = wanted.at(sae, members_in(model, sae, location, stream))
    told = _Told(node)
    warnings = [*merged_away(graph_under_way(), told.id), *_warnings(model, sae, planned)]
    base = model
    if wanted.mask is not None and not all(item.steering.changes_nothing for item in planned.interventions):
        base = with_mask_check(model, wanted.mask, told.name, told.fault)
    if wanted.mask is not None and not bool((wanted.mask > 0).any()):
        told.fault(EMPTY_MASK)
        carry(clone := model.clone(), SetUp(sae, wanted, location, stream))
        return io.NodeOutput(clone, *more, ui={"text": [EMPTY_MASK]})
    clone = steer(base, planned.interventions, partial(told.report, place=planned.place, warnings=warnings))
    carry(clone, SetUp(sae, wanted, location, stream))
    for warning in warnings:
        told.warn(warning)
    shown = f"{wanted.method} {FeatureList(wanted.features)} at {planned.place}"
    return io.NodeOutput(clone, *more, ui={"text": [shown, *warnings]})


def _warnings(model: Model, sae: AnySae, planned: Planned) -> list[str]:
    """What is known to fail, told before the run."""
    elsewhere = elsewhere_lines(model, planned.members)
    found = [*host_warnings(model), *family_lines(model, sae), *elsewhere, *planned.lines]
    for member, item in zip(planned.members, planned.interventions, strict=True):
        late = item.site.late_blocks(depth_of(model))
        if late:
            found.append(_late_warning(late, depth_of(model), item.site))
        found += steering_warnings(item.steering, member.first)
    if len(planned.interventions) == 1:
        [item] = planned.interventions
        found += _ranges_in_use(model, item.steering, item.site)
    return list(dict.fromkeys(found))


def _ranges_in_use(model: Model, steering: Steering, site: Site) -> list[str]:
    """Notes what the graph steers with, for the panels; warnings of its ranges that were measured elsewhere."""
    if not isinstance(steering.sae, SparseAutoencoder):  # ranges are kept for SAEs
        return []
    setting = setting_here(model, site, steering.replaces)
    note_use(steering.sae, Use(steering.method, setting))
    calibrated = [edit for edit, unit in zip(steering.edits, steering.units, strict=True) if unit == "calibrated"]
    return notebooks().of(steering.sae).misfits(calibrated, setting) if calibrated else []


def _late_warning(late: tuple[int, ...], depth: Depth, site: Site) -> str:
    count = depth.of(site.kind)
    blocks = ", ".join(map(str, late))
    return (
        f"Block {blocks} of the {count} {kind_name(site.kind)} is among the last: little is left to change there; "
        "steer earlier."
    )


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
