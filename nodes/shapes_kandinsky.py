from __future__ import annotations

from comfy_api.latest import io

from ..sae.demo.shipped_weights import EMBED_SAE, KANDINSKY_DECODER, KANDINSKY_PRIOR, load_sae
from ..sae.hosts.kandinsky import KandinskyHalf
from .shapes_demo import DEMO
from .shared.kandinsky_sockets import KandinskyDecoder, KandinskyPriorModel
from .shared.sockets import Sae


class LoadShapesKandinsky(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadShapesKandinsky",
            display_name="Load Shapes Kandinsky",
            category=DEMO,
            description=(
                "A very small real Kandinsky 2.2 that draws coloured shapes, and an SAE of its picture embeddings. It "
                "comes with the pack, so steering can be tried at once. Draw at 64×64. Needs diffusers."
            ),
            search_aliases=["shapes", "demo model", "tiny kandinsky"],
            inputs=[],
            outputs=[
                KandinskyPriorModel.Output(
                    display_name="prior",
                    tooltip="Texts such as 'red square left big white', or pictures, to embeddings.",
                ),
                KandinskyDecoder.Output(display_name="decoder", tooltip="Draws embeddings at 64×64."),
                Sae.Output(display_name="sae", tooltip="SAE of the picture embeddings."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            KandinskyHalf(KANDINSKY_PRIOR, "prior"), KandinskyHalf(KANDINSKY_DECODER, "decoder"), load_sae(EMBED_SAE)
        )


NODES = [LoadShapesKandinsky]
