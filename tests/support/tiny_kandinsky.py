"""Kandinsky 2.2 pipelines with random weights, saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler, KandinskyV22Pipeline, KandinskyV22PriorPipeline

from lab.kandinsky import models


def save_random(folder: Path) -> tuple[Path, Path]:
    """The folders of a prior and of a decoder, of the demo's shapes.

    The decoder's schedule is that of the real one: noise predicted, with a learned variance, and noise at each step.
    """
    torch.manual_seed(4)
    prior = models.build_prior()
    prior.clip_mean.data.normal_()
    prior.clip_std.data.uniform_(0.5, 1.5)
    models.prior_pipeline(models.build_clip(), prior).save_pretrained(folder / "prior")
    decoder = models.decoder_pipeline(models.build_unet(), models.build_movq())
    decoder.scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False, beta_schedule="linear")
    decoder.save_pretrained(folder / "decoder")
    return folder / "prior", folder / "decoder"


def plain_prior(folder: Path) -> KandinskyV22PriorPipeline:
    """diffusers' own pipeline, read the usual way."""
    pipeline = KandinskyV22PriorPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_decoder(folder: Path) -> KandinskyV22Pipeline:
    pipeline = KandinskyV22Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_hand(pipeline: KandinskyV22Pipeline, embeds_at, negative, steps, guidance, seed, side=64):
    """The decoder's loop written out: `embeds_at(i)` is what step i sees. Pictures (batch, side, side, 3)."""
    scheduler, random = pipeline.scheduler, torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    cells = side // 4
    latents = torch.randn(len(embeds_at(0)), 4, cells, cells, generator=random)
    for i, t in enumerate(scheduler.timesteps):
        told = {"image_embeds": torch.cat([negative, embeds_at(i)])}  # in one batch: rounding grows from step to step
        without, with_it = pipeline.unet(torch.cat([latents] * 2), t, None, added_cond_kwargs=told).sample.chunk(2)
        noise = without[:, :4] + guidance * (with_it[:, :4] - without[:, :4])
        output = torch.cat([noise, with_it[:, 4:]], dim=1)
        latents = scheduler.step(output, t, latents, generator=random).prev_sample
    pictures = pipeline.movq.decode(latents, force_not_quantize=True).sample
    return (pictures * 0.5 + 0.5).clamp(0, 1).movedim(1, -1)
