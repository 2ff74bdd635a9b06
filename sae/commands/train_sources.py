"""The sources of tokens that the commands know, made from settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo.shapes_model import predict_held_out, run_shapes
from ..demo.shipped_weights import load_transformer
from ..dictionary.autoencoder import SparseAutoencoder
from ..files.small_json import digest_of
from ..hosts.diffusers import capture, depth_of, tapped
from ..hosts.encoders import load_pipeline, picture_encoder, text_encoder
from ..places.moment import COND
from ..places.site import Site, parse_sites
from ..places.stream_taps import Tap
from ..training.embedding_source import EmbeddingSource, lines_of, pictures_in
from ..training.shards import ShardSource
from ..training.source import ModelSource, RememberedSource, See, Source, check_one_block, generator_of
from .train_settings import SOURCES, Settings


def build_source(settings: Settings) -> Source:
    """The source that settings ask for. ValueError names what is missing or wrong."""
    if settings.source not in SOURCES:
        raise ValueError(f"source: {settings.source!r} is not known; use one of {', '.join(SOURCES)}.")
    source = _BUILDERS[settings.source](settings)
    return RememberedSource(source, settings.tokens) if settings.tokens else source


def site_name(source: Source, sae: SparseAutoencoder) -> str:
    """The name of the source's place that an SAE belongs to: its own site, or the only place. ValueError else."""
    found = [name for name, site in source.sites.items() if site is not None and site == sae.site]
    names = found or list(source.sites)
    if len(names) != 1:
        raise ValueError(f"sites: {sae.name} could belong to {', '.join(names)}; give one of them.")
    return names[0]


OUTPUT_PROMPTS = 8  # whose outputs are compared


class ShapesModel:
    """The demo's transformer."""

    def __init__(self) -> None:
        self.transformer = load_transformer()
        self.about: dict[str, str | int | float] = {"model": "shapes"}

    def observe(self, site: Site, see: See) -> AbstractContextManager[None]:
        return capture(self.transformer, site, see)

    def run(self, number: int, seed: int) -> Sequence[int]:
        return run_shapes(self.transformer, number, seed)

    def outputs(self, taps: Sequence[Tap]) -> Tensor:
        """Predictions for held-out prompts, all from one noise."""
        with tapped(self.transformer, taps, (COND,)):
            return predict_held_out(self.transformer)


class PipelineModel:
    """A diffusers pipeline that draws prompts, one a run, each time with another starting noise."""

    def __init__(self, pipeline: Any, prompts: Sequence[str], steps: int, side: int, name: str) -> None:
        self.pipeline, self.prompts, self.steps, self.side = pipeline, list(prompts), steps, side
        self.transformer = pipeline.transformer
        self.about: dict[str, str | int | float] = {
            "model": name, "prompts": len(self.prompts), "digest of prompts": digest_of(self.prompts),
            "sampling steps": steps, "side": side,
        }  # fmt: skip

    def observe(self, site: Site, see: See) -> AbstractContextManager[None]:
        return capture(self.transformer, site, see)

    def run(self, number: int, seed: int) -> Sequence[int]:
        prompt = number % len(self.prompts)
        self.pipeline(
            prompt=self.prompts[prompt],
            num_inference_steps=self.steps,
            height=self.side,
            width=self.side,
            generator=generator_of(seed, number),
            output_type="latent",
        )
        return [prompt]

    def outputs(self, taps: Sequence[Tap]) -> Tensor:
        """What one step makes of one noise, for the first prompts."""
        prompts = self.prompts[:OUTPUT_PROMPTS]
        with tapped(self.transformer, taps, (COND,)), torch.no_grad():
            return self.pipeline(
                prompt=prompts,
                num_inference_steps=1,
                height=self.side,
                width=self.side,
                generator=[generator_of(0) for _ in prompts],
                output_type="latent",
            ).images


def _shapes(settings: Settings) -> Source:
    model = ShapesModel()
    return _at_sites(model, settings)


def _diffusers(settings: Settings) -> Source:
    prompts = lines_of(_needed(settings.prompts, "prompts", "a text file with a prompt a line"))
    folder = _needed(settings.model, "model", "the folder of a FLUX pipeline in diffusers' layout")
    pipeline = load_pipeline(folder, settings.device)
    return _at_sites(PipelineModel(pipeline, prompts, settings.steps_a_picture, settings.side, folder.name), settings)


def _at_sites(model: ShapesModel | PipelineModel, settings: Settings) -> ModelSource:
    sites = parse_sites(settings.sites)
    check_one_block(sites.values())
    for site in sites.values():
        site.check(depth_of(model.transformer))
    return ModelSource(model, sites, dict.fromkeys(sites, settings.share), settings.seed)


def _pictures(settings: Settings) -> Source:
    files = pictures_in(_needed(settings.data, "data", "a folder of pictures"))
    folder = _needed(settings.model, "model", "the folder of a vision encoder")
    encode = picture_encoder(folder, settings.device)
    return EmbeddingSource(files, encode, "image_embeds", {"encoder": folder.name}, seed=settings.seed)


def _texts(settings: Settings) -> Source:
    lines = lines_of(_needed(settings.prompts, "prompts", "a text file with a text a line"))
    folder = _needed(settings.model, "model", "the folder of a text encoder")
    encode = text_encoder(folder, settings.device)
    return EmbeddingSource(lines, encode, "text_embeds", {"encoder": folder.name}, seed=settings.seed)


def _shards(settings: Settings) -> Source:
    return ShardSource(_needed(settings.data, "data", "a folder of shards"), settings.seed)


def _needed(value: str, name: str, what: str) -> Path:
    if not value:
        raise ValueError(f"{name}: it is needed for this source; give {what}.")
    return Path(value)


_BUILDERS = {"shapes": _shapes, "diffusers": _diffusers, "pictures": _pictures, "texts": _texts, "shards": _shards}
