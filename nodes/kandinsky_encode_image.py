from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..sae.drawing.pictures import to_image
from ..sae.hosts.kandinsky import KandinskyHalf, encode_pictures
from .shared.kandinsky_sockets import KANDINSKY, NEGATIVE_TIP, KandinskyPriorModel, embedding, load_parts


class KandinskyEncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KandinskyEncodeImage",
            display_name="Kandinsky Encode Image",
            category=KANDINSKY,
            description="Embeds pictures with Kandinsky's own CLIP; Kandinsky Decode draws variations of them.",
            search_aliases=["kandinsky image variation", "clip vision encode"],
            inputs=[
                KandinskyPriorModel.Input("prior", tooltip="From Load Kandinsky 2.2."),
                io.Image.Input("image", tooltip="One or more pictures; CLIP sees the square in their middle."),
            ],
            outputs=[
                io.ClipVisionOutput.Output(display_name="embed", tooltip="The pictures' embeddings."),
                io.ClipVisionOutput.Output(display_name="negative", tooltip=NEGATIVE_TIP),
            ],
        )

    @classmethod
    def execute(cls, prior: KandinskyHalf, image: Tensor) -> io.NodeOutput:
        if not image.numel():
            raise ValueError(f"image: it is empty, {list(image.shape)}; connect one or more pictures.")
        half = load_parts(prior, "prior", ("image_encoder",))
        without_alpha = image[..., :3].movedim(-1, 1)
        seen = encode_pictures(half, [to_image(picture) for picture in without_alpha])
        states = {name: getattr(seen, name) for name in ("last_hidden_state", "penultimate_hidden_states")}
        return io.NodeOutput(embedding(seen.image_embeds, **states), embedding(seen.blank))


NODES = [KandinskyEncodeImage]
