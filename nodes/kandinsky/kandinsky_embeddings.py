from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...sae.drawing.pictures import to_image
from ...sae.hosts.comfyui.embedding_encoders import load_parts
from ...sae.hosts.kandinsky import KandinskyHalf, encode_pictures, run_prior
from ..inputs.menu import KANDINSKY
from .load_kandinsky import NEGATIVE_TIP, KandinskyPriorModel, embedding, guidance_input, seed_input, step_progress


class KandinskyPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KandinskyPrior",
            display_name="Kandinsky Prior",
            category=KANDINSKY,
            description="Makes the embedding of a picture that a text describes, for Kandinsky Decode.",
            search_aliases=["kandinsky text", "unclip prior"],
            inputs=[
                KandinskyPriorModel.Input("prior", tooltip="From Load Kandinsky 2.2."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="What the picture shows."),
                io.String.Input(
                    "negative_text", multiline=True, dynamic_prompts=True, tooltip="What it does not; may stay empty."
                ),
                io.Int.Input("steps", default=25, min=2, max=200, tooltip="Steps of the prior; 25 do."),
                guidance_input("How closely the embedding follows the text; 4 is Kandinsky's own value."),
                seed_input("Seed of the embedding; another seed gives another picture of the same text."),
            ],
            outputs=[
                io.ClipVisionOutput.Output(display_name="embed", tooltip="The picture's embedding, to steer or draw."),
                io.ClipVisionOutput.Output(display_name="negative", tooltip=NEGATIVE_TIP),
            ],
        )

    @classmethod
    def execute(
        cls, prior: KandinskyHalf, text: str, negative_text: str, steps: int, guidance: float, seed: int
    ) -> io.NodeOutput:
        half = load_parts(prior, "prior", ("text_encoder", "prior", "image_encoder"))
        result = run_prior(half, [text], negative_text, steps, guidance, [seed], step_progress(steps))
        return io.NodeOutput(embedding(result.embeds), embedding(result.negative))


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


NODES = [KandinskyPrior, KandinskyEncodeImage]
