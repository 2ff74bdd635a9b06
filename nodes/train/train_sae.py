from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...sae.commands.train_job import Job, held_out_of
from ...sae.hosts.comfyui.model import Model, width_of
from ...sae.hosts.comfyui.model_at_work import Activity
from ...sae.places.site import Site, parse_location
from ...sae.training.collect import Collection
from ...sae.training.config import PRESETS, TopKConfig, TrainedAs
from ...sae.training.shards import ShardSource
from ..inputs.menu import TRAIN
from ..inputs.plain_inputs import expert_number
from ..inputs.sockets import stream_input
from .training_job import (
    Shards,
    activity_inputs,
    activity_of,
    architecture_input,
    calls_input,
    expert_seed_input,
    job_folders,
    name_input,
    rate_input,
    trained,
    trained_outputs,
)

AUTO_K = 32


class TrainSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TrainSAE",
            display_name="Train SAE",
            category=TRAIN,
            description=(
                "Trains an SAE at one place of your model, on your prompts, and puts it into models/sae. Cancel keeps "
                "what was done; queue it again to go on, to the same result."
            ),
            search_aliases=["train sparse autoencoder", "make sae", "sae training"],
            inputs=[
                *activity_inputs(),
                io.String.Input(
                    "location",
                    default="transformer_blocks.0",
                    tooltip="One block of the model, such as transformer_blocks.0 or single_transformer_blocks.9.attn; "
                    "Inspect Model lists its places.",
                ),
                stream_input(),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    tooltip="How much it collects and trains; the times are those of a FLUX on a good graphics card. "
                    "Time, memory and disk are told before it begins.",
                ),
                name_input(),
                expert_number("d_sae", "Features; 0: 4, 8 or 16 times the width, by the preset.", 1_000_000),
                expert_number("k", "Features that are active at a token; 0: 32.", 4096),
                architecture_input(),
                expert_number("tokens", "Tokens to collect; 0: by the preset.", 1_000_000_000),
                expert_number("steps", "Steps of training; 0: by the preset.", 10_000_000),
                calls_input(),
                expert_seed_input("Seed of noises, weights and order."),
                Shards.Input(
                    "shards",
                    optional=True,
                    tooltip="From Collect Activations of the same model: tokens of this place are read from there, and "
                    "none are collected. The prompts only measure the result.",
                ),
                rate_input(),
            ],
            outputs=trained_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Any,
        latent_image: dict[str, Any],
        prompts: str,
        location: str,
        stream: str,
        preset: str,
        name: str,
        d_sae: int = 0,
        k: int = 0,
        architecture: TrainedAs = "topk",
        tokens: int = 0,
        steps: int = 0,
        sampling_steps: int = 8,
        seed: int = 0,
        shards: Path | None = None,
        rate: float = TopKConfig.rate,
    ) -> io.NodeOutput:
        size = PRESETS[preset]
        activity = activity_of(model, clip, prompts, latent_image, sampling_steps)
        site = activity.place(parse_location(location, stream))
        width = width_of(model, site)
        source: Collection | ShardSource
        if shards is None:
            tokens = tokens or size.tokens
            source = Collection(activity, {site.name: site}, tokens, seed)
            decided_by: tuple[Any, ...] = (activity.about, activity.prompts, tokens)
        else:
            source = _kept(shards, site, activity, seed)
            tokens, decided_by = source.tokens[site.name], (source.about, tokens, source.index["shards"])
        features = d_sae or size.expansion * width
        config = TopKConfig(
            width, features, k or min(AUTO_K, features), steps or size.steps,
            batch_tokens=size.batch_for(tokens), rate=rate, architecture=architecture, seed=seed,
        )  # fmt: skip
        folders = job_folders(name)
        job = Job(site.name, config, *folders, decided_by, held_out_of(tokens), size.tried_features, activity)
        return trained(job, source, name, cls)


def _kept(folder: Path, site: Site, activity: Activity, seed: int) -> ShardSource:
    """The shards of a folder; ValueError where they are of another model, or have no tokens of the site."""
    source, model = ShardSource(folder, seed), activity.about["model"]
    if source.index["about"].get("model") != model:
        raise ValueError(
            f"shards: they were collected from {source.index['about'].get('model')}, but model is {model}; connect the "
            "model that they are from, LoRAs included."
        )
    if source.sites.get(site.name) != site:
        places = ", ".join(map(str, source.sites.values()))
        raise ValueError(f"location: the shards have tokens of {places}, but none of {site}; choose one of them.")
    return source


NODES = [TrainSAE]
