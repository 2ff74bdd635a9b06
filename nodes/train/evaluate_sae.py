from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...sae.commands.evaluate import measure, measuring_source
from ...sae.commands.sae_report import densities_chart, table
from ...sae.commands.train_settings import Settings
from ...sae.dictionary.sae_set import AnySae
from ...sae.drawing.pictures import from_image
from ...sae.hosts.comfyui.drawing import progress_bar
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, members_in
from ..inputs.menu import TRAIN
from ..inputs.plain_inputs import expert_number
from ..inputs.sockets import Sae, location_input, one_sae, stream_input
from .training_job import activity_of, calls_input, expert_seed_input, prompts_input


class EvaluateSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EvaluateSAE",
            display_name="Evaluate SAE",
            category=TRAIN,
            description=(
                "Measures an SAE on your model and prompts: explained variance, active and dead features, what is left "
                "of the model's prediction, and whether its features steer."
            ),
            search_aliases=["measure sae", "report card", "explained variance"],
            inputs=[
                Sae.Input("sae", tooltip="The SAE to measure."),
                io.Model.Input("model", tooltip="The model that it was trained on; it stays as it is."),
                io.Clip.Input("clip", tooltip="Encodes the prompts, as for CLIP Text Encode."),
                io.Latent.Input("latent_image", tooltip="Size of the pictures."),
                prompts_input(),
                expert_number("tokens", "Tokens that it is measured on.", 10_000_000, 20_000, 256),
                expert_number(
                    "tried_features", "Random features whose steering is tried; each takes two calls of the model.",
                    1000, 20,
                ),
                calls_input(),
                expert_seed_input("Seed of the noise; training has other noise."),
                location_input(optional=True),
                stream_input(optional=True),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The numbers."),
                io.Image.Output(display_name="densities", tooltip="How many features fire how often."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        sae: AnySae,
        model: Model,
        clip: Any,
        latent_image: dict[str, Any],
        prompts: str,
        tokens: int = 20_000,
        tried_features: int = 20,
        sampling_steps: int = 8,
        seed: int = 0,
        location: str = "auto",
        stream: str = "auto",
    ) -> io.NodeOutput:
        [member] = members_in(model, one_sae(sae), location, stream)
        activity = activity_of(model, clip, prompts, latent_image, sampling_steps)
        tried = tried_features if activity.compared_alike else 0
        settings = Settings(held_out_tokens=tokens, tried_features=tried)
        source = measuring_source(activity, member.site, tokens, seed, progress_bar(1))
        card = measure(member.sae, source, settings)
        text = "\n".join([table(card), *elsewhere_lines(model, [member])])
        chart = from_image(densities_chart(card)).unsqueeze(0)
        return io.NodeOutput(text, chart, ui=ui.PreviewText(text))


NODES = [EvaluateSAE]
