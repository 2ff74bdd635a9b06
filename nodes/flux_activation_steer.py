from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.hosts.comfyui.model import Model, depth_of, host_warnings
from ..sae.hosts.comfyui.steering import steer
from ..sae.places.moment import SIDES, Schedule, Side
from ..sae.places.site import Depth, Site, resolve_site
from ..sae.steering.delta import Steering
from ..sae.steering.edits import FeatureList, Method, Unit
from ..sae.steering.intervention import Intervention
from ..sae.steering.record import RunSummary
from .shared.feature_ranges import ranges_in_use
from .shared.messages import show_on_node
from .shared.sockets import CATEGORY, Sae, SaeFeatures, location_input, steering_inputs, steering_warnings, stream_input

log = logging.getLogger(__name__)

UNIT_TIP = (
    "What strength 1 means for add, boost_if_active and surgery. token_norm: as long as the token itself (try 0.05 to "
    "0.3) · raw: the feature's activation · mean, max: multiples of the feature's own mean or largest activation · "
    "calibrated: what Calibrate Strength found to be clearly there. set takes raw, mean or max."
)


def _what() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="A FLUX model. It stays as it is; the output is a steered copy."),
        Sae.Input("sae", tooltip="An SAE that was trained on this model."),
        *steering_inputs("TopActivatingFeatures", 0.2, UNIT_TIP),
    ]


def _where_and_when() -> list[io.Input]:
    return [
        location_input(),
        stream_input(),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of the run after which steering begins, by noise level; 0 is the first step.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Part of the run at which steering ends, by noise level; 1 is the last step.",
        ),
        io.Combo.Input(
            "apply_to",
            options=list(SIDES),
            default="both",
            tooltip="Side of guidance when CFG is above 1. With guidance g, cond alone moves the result g "
            "times as far. opposite: added to cond, taken from uncond.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where on the picture to steer; it must have the picture's proportions. Image tokens only.",
        ),
        SaeFeatures.Input(
            "replaces",
            optional=True,
            tooltip="For swap: the features to take out, such as those of the baseline against the prompt.",
        ),
    ]


class FluxActivationSteer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxActivationSteer",
            display_name="FLUX Activation Steer",
            category=CATEGORY,
            description=(
                "Steers FLUX with features of an SAE while any sampler runs. Reports after each run how many steps it "
                "steered and how large the change was. Chain several to steer at several places."
            ),
            search_aliases=["sae steering", "activation steering", "feature steering", "concept slider"],
            inputs=[*_what(), *_where_and_when()],
            outputs=[io.Model.Output(display_name="model", tooltip="The steered copy of the model.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: SparseAutoencoder,
        features: FeatureList,
        method: Method,
        strength: float,
        unit: Unit,
        location: str,
        stream: str,
        start_percent: float,
        end_percent: float,
        apply_to: Side,
        mask: Tensor | None = None,
        replaces: FeatureList | None = None,
    ) -> io.NodeOutput:
        if features.muted:
            return io.NodeOutput(model, ui={"text": ["Every feature is switched off, so nothing is steered."]})
        site = resolve_site(location, stream, sae.site)
        steering = Steering(sae, features, method, strength, unit, replaces or ())
        intervention = Intervention(steering, site, Schedule(start_percent, end_percent), apply_to, mask)
        return steered(model, intervention, cls.hidden.unique_id)


def steered(model: Model, intervention: Intervention, node_id: str | None, *more: Any) -> io.NodeOutput:
    """The steered model and `more` outputs; the node shows what is known to fail, and after each run the report."""
    steering, site = intervention.steering, intervention.site
    warnings = _warnings(model, steering, site)
    clone = steer(model, intervention, lambda summary: _report(summary, node_id, str(site), warnings))
    for warning in warnings:
        log.warning("FluxActivationSteer: %s", warning)
    told = f"{steering.method} {FeatureList(steering.edits)} at {site}"
    return io.NodeOutput(clone, *more, ui={"text": [told, *warnings]})


def _warnings(model: Model, steering: Steering, site: Site) -> list[str]:
    """What is known to fail, told before the run."""
    found = host_warnings(model)
    late = site.late_blocks(depth_of(model))
    if late:
        found.append(_late_warning(late, depth_of(model), site))
    found += steering_warnings(steering)
    found += ranges_in_use(model, steering, site)
    return found


def _late_warning(late: tuple[int, ...], depth: Depth, site: Site) -> str:
    count = getattr(depth, site.kind)
    blocks = ", ".join(map(str, late))
    return (
        f"Block {blocks} of the {count} {site.kind} blocks is among the last: little is left to change there; "
        "steer earlier."
    )


def _report(summary: RunSummary, node_id: str | None, place: str, warnings: list[str]) -> None:
    if summary.steps == 0:
        guess = ": the schedule and apply_to leave no step, strength is neutral, or the model ignores patches"
        summary_text = f"No step was steered at {place}{'' if summary.unreached else guess}."
        log.warning("FluxActivationSteer: %s", summary_text)
    else:
        summary_text = f"{summary} At {place}."
        log.info("FluxActivationSteer: %s", summary_text)
    for warning in summary.warnings:
        log.warning("FluxActivationSteer: %s", warning)
    report = {
        "kind": "report",
        "text": summary_text,
        "warnings": [*summary.warnings, *warnings],
        "curve": [list(step) for step in summary.curve],
    }
    show_on_node(node_id, report)


NODES = [FluxActivationSteer]
