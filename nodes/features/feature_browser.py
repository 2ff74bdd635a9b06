from __future__ import annotations

from comfy_api.latest import io

from ...sae.dictionary.sae_set import AnySae
from ..browser.payloads import sae_payload
from ..inputs.menu import FEATURES
from ..inputs.sockets import Sae


class FeatureBrowser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureBrowser",
            display_name="Feature Browser",
            category=FEATURES,
            description=(
                "All features of an SAE in a list: number, name, the pictures on which each fires most, and how often "
                "it fires. Search by name or number, sort, and click a feature to add it to the Feature Mixer of the "
                "same SAE. It shows them as soon as an SAE is connected."
            ),
            search_aliases=["feature list", "all features", "explore features", "feature gallery", "neuron viewer"],
            inputs=[Sae.Input("sae", tooltip="The SAE whose features to look through, or a set.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sae: AnySae) -> io.NodeOutput:
        return io.NodeOutput(ui={"sae_steering": [sae_payload(sae)]})


NODES = [FeatureBrowser]
