from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...sae.commands.train_job import keep_tokens
from ...sae.hosts.comfyui.model import Model
from ...sae.hosts.comfyui.own_folders import named_folder, output_folder
from ...sae.places.site import parse_sites
from ...sae.training.collect import Collection
from ..inputs.menu import TRAIN
from ..inputs.plain_inputs import lines_in, lines_input
from .training_job import Shards, activity_inputs, activity_of, calls_input, expert_seed_input, host_of


class CollectActivations(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CollectActivations",
            display_name="Collect Activations",
            category=TRAIN,
            description=(
                "Keeps a model's activations at one or several places, all from the same runs, to train SAEs on. "
                "Cancel keeps what was collected; queue it again to go on."
            ),
            search_aliases=["activation dataset", "cache activations", "sae shards"],
            inputs=[
                *activity_inputs(),
                lines_input(
                    "sites",
                    "A place a line, LOCATION:STREAM, such as transformer_blocks.0:text or "
                    "single_transformer_blocks.9.attn:image. Inspect Model lists the places.",
                    "transformer_blocks.0:text",
                ),
                io.Int.Input(
                    "tokens", default=60_000, min=1024, max=1_000_000_000, step=1,
                    tooltip="Tokens of each place. Time and disk are told before anything is written.",
                ),
                io.String.Input(
                    "name", default="my-tokens", tooltip="Their folder inside output/sae/tokens, which is made."
                ),
                calls_input(),
                expert_seed_input("Seed of the noises."),
            ],
            outputs=[
                Shards.Output(display_name="shards", tooltip="For Train SAE, at any of these places."),
                io.String.Output(display_name="report", tooltip="What was kept, and where."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Any,
        latent_image: dict[str, Any],
        prompts: str,
        sites: str,
        tokens: int,
        name: str,
        sampling_steps: int = 8,
        seed: int = 0,
    ) -> io.NodeOutput:
        activity = activity_of(model, clip, prompts, latent_image, sampling_steps)
        places = {site.name: site for site in map(activity.place, parse_sites(lines_in(sites)).values())}
        folder = named_folder(name, "name", output_folder() / "tokens")
        report = keep_tokens(Collection(activity, places, tokens, seed), folder, host_of(cls), "name")
        return io.NodeOutput(folder, report, ui=ui.PreviewText(report))


NODES = [CollectActivations]
