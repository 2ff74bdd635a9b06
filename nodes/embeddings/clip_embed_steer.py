from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.sae_set import AnySae
from ...sae.embeddings.editing import embedding_record, steer_tokens
from ...sae.embeddings.spot import ALL, AUTO
from ...sae.hosts.comfyui.embeddings import edited, spot_in
from ...sae.steering.delta import Steering
from ...sae.steering.edits import Auto, FeatureList, Method, Unit
from ...sae.steering.methods import method_for
from ...sae.steering.record import SteeringRecord
from ..inputs.embed_inputs import (
    EMBED_TYPES,
    describe_spot,
    embed_warnings,
    tap_input,
    target_input,
    tokens_input,
    word_inputs,
    words_of,
)
from ..inputs.menu import EMBEDDINGS
from ..inputs.sockets import (
    UNSTEERED,
    Sae,
    nothing_to_steer_with,
    one_sae,
    replaces_input,
    steering_inputs,
    steering_warnings,
    unit_tip,
)

log = logging.getLogger(__name__)


class ClipEmbedSteer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("embed", EMBED_TYPES)
        return io.Schema(
            node_id="ClipEmbedSteer",
            display_name="CLIP Embed Steer",
            category=EMBEDDINGS,
            description=(
                "Steers an embedding with features of an SAE before it reaches the generator: a picture's for "
                "Kandinsky 2.2, ReVision, unCLIP, Stable Cascade and Redux, or a text's. One edit serves the whole run."
            ),
            search_aliases=["embedding steering", "clip steering", "redux steering", "revision steering"],
            inputs=[
                io.MatchType.Input(
                    "embed",
                    template=template,
                    tooltip="A CLIP_VISION_OUTPUT or a CONDITIONING. It stays as it is; the output is a copy, "
                    "edited, of the same type.",
                ),
                Sae.Input("sae", tooltip="An SAE that was trained on embeddings of this encoder."),
                *steering_inputs("TopEmbedFeatures", unit_tip("embedding", "0.1 to 0.5"), without=UNSTEERED),
                target_input(),
                tokens_input(),
                *word_inputs(),
                replaces_input(", such as those of the baseline against the picture"),
                tap_input(),
            ],
            outputs=[io.MatchType.Output(template, display_name="embed", tooltip="The steered copy.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        embed: Any,
        sae: AnySae,
        method: Method | Auto,
        strength: float,
        unit: Unit,
        features: FeatureList | None = None,
        target: str = AUTO,
        tokens: str = ALL,
        clip: Any = None,
        text: str = "",
        replaces: FeatureList | None = None,
        tap: str = AUTO,
    ) -> io.NodeOutput:
        sae = one_sae(sae)
        if features is None or features.muted:
            return io.NodeOutput(embed, ui={"text": [nothing_to_steer_with(features)]})
        spot = spot_in(embed, sae, target, tokens, tap)
        words = words_of(embed, clip, text, spot.tokens)
        steering = Steering(sae, features, method_for(method, replaces), strength, unit, replaces or ())
        record = embedding_record()
        steered = edited(embed, spot, lambda x: steer_tokens(x, steering, record), words)
        lines = _report(embed, steering, spot, record)
        return io.NodeOutput(steered, ui={"text": lines})


def _report(embed: Any, steering: Steering, spot: Any, record: SteeringRecord) -> list[str]:
    summary = record.summary()
    ratio = f"‖Δ‖/‖x‖ {summary.mean_ratio:.3g}" if summary.steps else "nothing changed, the strength is neutral"
    warnings = [*summary.warnings, *embed_warnings(embed, spot), *steering_warnings(steering)]
    for warning in warnings:
        log.warning("ClipEmbedSteer: %s", warning)
    return [f"{steering.method} {steering.edits}: {ratio}.", describe_spot(embed, spot), *warnings]


NODES = [ClipEmbedSteer]
