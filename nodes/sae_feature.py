from __future__ import annotations

from comfy_api.latest import io

from ..sae.steering.edits import Edit, FeatureList
from .shared.inputs import amount_input
from .shared.sockets import CATEGORY, SaeFeatures


class SAEFeature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAEFeature",
            display_name="SAE Feature",
            category=CATEGORY,
            description="Names one feature of an SAE and how strongly to steer with it. Chain several for a list.",
            search_aliases=["sae edit", "feature index"],
            inputs=[
                io.Int.Input(
                    "feature",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    step=1,
                    tooltip="Index of the feature. TopActivatingFeatures tells which ones fire for your prompt.",
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


NODES = [SAEFeature]
