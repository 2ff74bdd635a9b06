from __future__ import annotations

from comfy_api.latest import io, ui

from ...sae.hosts.comfyui.inspection_of_model import offer_of
from ...sae.hosts.comfyui.model import Model
from ..inputs.menu import FIND


class InspectModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InspectModel",
            display_name="Inspect Model",
            category=FIND,
            description=(
                "Says what a model offers to steering: its family, the places that a location can name, width and "
                "streams, and what other nodes put there. A family that is not known is refused, with those that are."
            ),
            search_aliases=["model info", "blocks", "locations", "which family"],
            inputs=[io.Model.Input("model", tooltip="The model to look at; it stays as it is.")],
            outputs=[io.String.Output(display_name="report", tooltip="One fact a line.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Model) -> io.NodeOutput:
        text = offer_of(model)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


NODES = [InspectModel]
