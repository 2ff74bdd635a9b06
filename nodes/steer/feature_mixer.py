from __future__ import annotations

from comfy_api.latest import io

from ...sae.dictionary.sae_set import AnySae
from ...sae.steering.edits import Edit, FeatureList, check_owner
from ...sae.steering.mixer_value import EMPTY, parse_mix
from ..browser.payloads import sae_payload
from ..inputs.menu import STEER
from ..inputs.plain_inputs import amount_input
from ..inputs.sockets import Sae, SaeFeatures


@io.comfytype(io_type="SAE_STEERING_MIX")
class Mix(io.ComfyTypeIO):
    """The panel of sliders. Its value is a JSON text, so that it runs without a browser."""

    Type = str

    class Input(io.WidgetInput):
        pass


class FeatureMixer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureMixer",
            display_name="Feature Mixer",
            category=STEER,
            description=(
                "A panel of sliders, one for each feature. Add features by number, by their names, or by a click in "
                "the table of Top Activating Features. Each row says what its 1 means; set strength 1 at the node "
                "that steers."
            ),
            search_aliases=[
                "sliders",
                "feature sliders",
                "concept sliders",
                "style slider",
                "lora slider",
                "mix features",
            ],
            inputs=[
                Sae.Input("sae", tooltip="The SAE that the features belong to."),
                Mix.Input(
                    "mix",
                    default=EMPTY,
                    socketless=True,
                    tooltip="The features to steer with, one a row: each has a switch, a name, a slider and what its 1 "
                    "means. The line above them acts on all.",
                ),
                SaeFeatures.Input("features", optional=True, tooltip="Features that come before those of the panel."),
            ],
            outputs=[SaeFeatures.Output(display_name="features", tooltip="The features whose rows are on.")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, sae: AnySae, mix: str, features: FeatureList | None = None) -> io.NodeOutput:
        before = FeatureList() if features is None else features
        check_owner(before, sae.owner, "features")
        found = parse_mix(mix, sae.d_sae, sae.statistics, sae.owner)
        warnings = (*before.warnings, *found.warnings)
        edits = FeatureList([*before, *found], found.muted and not before, sae.owner, warnings)
        return io.NodeOutput(edits, ui={"sae_steering": [{**sae_payload(sae), "lines": list(warnings)}]})


class SAEFeature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEFeature",
            display_name="SAE Feature",
            category=STEER,
            description="Names one feature of an SAE and how strongly to steer with it. Chain several for a list.",
            search_aliases=["sae edit", "feature index"],
            inputs=[
                io.Int.Input(
                    "feature",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    step=1,
                    tooltip="Index of the feature. Top Activating Features tells which ones fire for your prompt.",
                ),
                amount_input(
                    "strength",
                    1000.0,
                    "Multiplied by the strength of the steering node; what one unit means is set there too.",
                ),
                SaeFeatures.Input("features", optional=True, tooltip="Features that come before this one."),
            ],
            outputs=[SaeFeatures.Output(display_name="features", tooltip="The list with this feature added.")],
        )

    @classmethod
    def execute(cls, feature: int, strength: float, features: FeatureList | None = None) -> io.NodeOutput:
        return io.NodeOutput(FeatureList(features or ()).plus(Edit(feature, strength)))


NODES = [FeatureMixer, SAEFeature]
