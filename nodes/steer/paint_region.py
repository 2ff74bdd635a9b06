from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...sae.drawing.strokes import EMPTY, painted
from ..inputs.menu import STEER
from .before_and_after import kept


@io.comfytype(io_type="SAE_STEERING_STROKES")
class Strokes(io.ComfyTypeIO):
    """The brush. Its value is a JSON text, so that it runs without a browser."""

    Type = str

    class Input(io.WidgetInput):
        pass


class PaintRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PaintRegion",
            display_name="Paint a Region",
            category=STEER,
            description=(
                "Paint on a picture where to steer. Run once, so that the picture is there, paint, and run again; what "
                "is painted is the mask of the node that steers."
            ),
            search_aliases=["paint mask", "brush", "painter", "draw mask", "regional steering", "inpaint"],
            inputs=[
                io.Image.Input("image", tooltip="The picture to paint on, such as the unsteered one."),
                Strokes.Input(
                    "strokes", default=EMPTY, socketless=True, tooltip="What is painted, in shares of the picture."
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="1 where it is painted, of the picture's size.")],
            is_output_node=True,  # it shows the picture, whether anything is wired to it or not
        )

    @classmethod
    def execute(cls, image: Tensor, strokes: str) -> io.NodeOutput:
        mask = painted(strokes, int(image.shape[1]), int(image.shape[2]))
        return io.NodeOutput(mask[None], ui={"painted_on": kept(image[:1], cls)})


NODES = [PaintRegion]
