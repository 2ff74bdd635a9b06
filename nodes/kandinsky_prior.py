from __future__ import annotations

from comfy_api.latest import io

from ..sae.hosts.kandinsky import KandinskyHalf, run_prior
from .shared.kandinsky_sockets import (
    KANDINSKY,
    NEGATIVE_TIP,
    KandinskyPriorModel,
    embedding,
    guidance_input,
    load_parts,
    seed_input,
    step_progress,
)


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


NODES = [KandinskyPrior]
