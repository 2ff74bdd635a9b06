from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..inputs.menu import STEER


class BeforeAndAfter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BeforeAndAfter",
            display_name="Before and After",
            category=STEER,
            description=(
                "Shows two pictures over each other with a line to move, side by side, or one that gives way to the "
                "other while it is held; of batches one pair after the other."
            ),
            search_aliases=["compare images", "image compare", "before after", "wipe", "side by side", "difference"],
            inputs=[
                io.Image.Input("before", tooltip="The pictures as they are without steering."),
                io.Image.Input("after", tooltip="The steered pictures: as many, or one."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, before: Tensor, after: Tensor) -> io.NodeOutput:
        counts = {before.shape[0], after.shape[0]}
        if len(counts) > 1 and 1 not in counts:
            raise ValueError(
                f"after: {after.shape[0]} pictures came for {before.shape[0]} in before; give as many, or one."
            )
        return io.NodeOutput(ui={"before": kept(before, cls), "after": kept(after, cls)})


def kept(pictures: Tensor, node: type[io.ComfyNode]) -> list[ui.SavedResult]:
    """Writes pictures (batch, height, width, 3) into ComfyUI's folder for previews; where each lies."""
    return ui.PreviewImage(pictures, cls=node).values


NODES = [BeforeAndAfter]
