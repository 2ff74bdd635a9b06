from __future__ import annotations

from comfy_api.latest import io

from ..sae.dictionary.sae_set import AnySae
from ..sae.steering.edits import FeatureList, check_owner
from ..sae.steering.mixer_value import EMPTY, parse_mix
from .shared.feature_payload import sae_payload
from .shared.sockets import CATEGORY, Sae, SaeFeatures


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
            category=CATEGORY,
            description=(
                "A panel of sliders, one for each feature. Add features by number, by their names, or by a click in "
                "the table of Top Activating Features. Each row says what its 1 means; set strength 1 at the node "
                "that steers."
            ),
            search_aliases=["sliders", "feature sliders", "concept sliders", "mix features"],
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


NODES = [FeatureMixer]
