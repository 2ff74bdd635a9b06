from __future__ import annotations

import logging

from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.sae_set import AnySae
from ...sae.hosts.comfyui.model import Model
from ...sae.places.moment import Schedule, Side
from ...sae.steering.edits import Auto, FeatureList, Method, Unit
from ...sae.steering.methods import method_for
from ...sae.steering.set_up import Wanted
from ...sae.steering.steering_inputs import Gate
from ..inputs.menu import STEER
from ..inputs.plain_inputs import expert_switch, steered_model_input
from ..inputs.sockets import (
    UNSTEERED,
    Sae,
    SaeFeatures,
    location_input,
    nothing_to_steer_with,
    percent_input,
    replaces_input,
    side_input,
    steering_inputs,
    stream_input,
    unit_tip,
)
from .steered_run import steered

log = logging.getLogger(__name__)


def token_unit_tip() -> str:
    """Of the units of nodes that steer tokens."""
    return unit_tip("token", "0.05 to 0.3", " · calibrated: what Calibrate Strength found to be clearly there")


def _what() -> list[io.Input]:
    return [
        steered_model_input(),
        Sae.Input(
            "sae", tooltip="An SAE that was trained on this model, or a set of them, which steers at all its places."
        ),
        *steering_inputs("Top Activating Features", token_unit_tip(), without=UNSTEERED),
    ]


def _where_and_when() -> list[io.Input]:
    return [
        location_input(),
        stream_input(),
        percent_input(
            "start_percent",
            0.0,
            "Part of the run after which steering begins, by noise level; 0 is the first step.",
            advanced=True,
        ),
        percent_input(
            "end_percent",
            1.0,
            "Part of the run at which steering ends, by noise level; 1 is the last step.",
            advanced=True,
        ),
        side_input(
            "Side of guidance when CFG is above 1. With guidance g, cond alone moves the result g times as far. "
            "opposite: added to cond, taken from uncond.",
            advanced=True,
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where on the picture to steer; it must have the picture's proportions. Image tokens only.",
        ),
        replaces_input(", such as those of the baseline against the prompt"),
        SaeFeatures.Input(
            "where_active",
            optional=True,
            tooltip="The steering acts only at tokens where one of these features fires, whatever the method; of the "
            "same SAE or set.",
        ),
        io.Float.Input(
            "active_above",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.05,
            round=False,
            optional=True,
            advanced=True,
            tooltip="Of where_active: how strongly, as a multiple of the feature's mean where it fires. 0: wherever it "
            "fires at all.",
        ),
        expert_switch("keep_norm", False, "Steered tokens keep their length: they are turned, not pushed."),
    ]


class FluxActivationSteer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxActivationSteer",
            display_name="Activation Steer",
            category=STEER,
            description=(
                "Steers FLUX, Qwen-Image, Z-Image, Wan, Chroma, Krea 2 and others (see Inspect Model) with features of "
                "an SAE while any sampler runs. Reports after each run how many steps it steered and how large the "
                "change was. Chain several to steer at several places."
            ),
            search_aliases=["steering", "activation steering", "feature steering", "concept slider", "flux control"],
            inputs=[*_what(), *_where_and_when()],
            outputs=[io.Model.Output(display_name="model", tooltip="The steered copy of the model.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: AnySae,
        method: Method | Auto,
        strength: float,
        unit: Unit,
        location: str,
        stream: str,
        start_percent: float,
        end_percent: float,
        apply_to: Side,
        features: FeatureList | None = None,
        mask: Tensor | None = None,
        replaces: FeatureList | None = None,
        where_active: FeatureList | None = None,
        active_above: float = 0.0,
        keep_norm: bool = False,
    ) -> io.NodeOutput:
        if features is None or features.muted:
            return io.NodeOutput(model, ui={"text": [nothing_to_steer_with(features)]})
        schedule, chosen = Schedule(start_percent, end_percent), method_for(method, replaces)
        gate = Gate(where_active or (), active_above)
        wanted = Wanted(features, chosen, strength, unit, replaces or (), schedule, apply_to, mask, gate, keep_norm)
        return steered(cls, model, sae, wanted, location, stream)


NODES = [FluxActivationSteer]
