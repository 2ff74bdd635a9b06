"""What each part of the small Kandinsky is trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sae.demo.shapes import Prompt, draw, training_prompts
from sae.demo.shapes_model import forget_words

from .models import PICTURE_SIDE, build_scheduler, build_tokenizer, clip_pixels

if TYPE_CHECKING:
    from diffusers import PriorTransformer, UNet2DConditionModel, VQModel
    from transformers import CLIPModel

NO_PICTURE = 0.1  # share of the decoder's training that sees the embedding of a blank picture instead
LATENT_NOISE = 0.05  # sampling leaves a little
UNIT_WEIGHT = 0.02  # pulls latents to mean 0 and deviation 1


def drawings(prompts: Sequence[Prompt], generator: torch.Generator) -> Tensor:
    """Pictures (batch, 3, 64, 64) in 0..1."""
    return draw(list(prompts), generator, PICTURE_SIDE)[0]


def shuffled_caption(prompt: Prompt, rng: random.Random) -> str:
    """The prompt's words in any order."""
    words = [word for word in prompt.words if word is not None]
    rng.shuffle(words)
    return " ".join(words)


class ClipLoss:
    """Contrast of drawings and captions; every prompt at most once in a batch, so that no negative is true."""

    def __init__(self, clip: CLIPModel, batch: int = 192) -> None:
        self.clip, self.batch, self.tokenizer, self.prompts = clip, batch, build_tokenizer(), training_prompts()

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Tensor:
        prompts = rng.sample(self.prompts, self.batch)
        captions = [shuffled_caption(prompt, rng) for prompt in prompts]
        tokens = self.tokenizer(captions, padding="max_length", return_tensors="pt")
        return self.clip(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=clip_pixels(drawings(prompts, generator)),
            return_loss=True,
        ).loss


class MovqLoss:
    """Pictures through the latents and back, the latents with a little noise, as sampling leaves it."""

    def __init__(self, movq: VQModel, batch: int = 16) -> None:
        self.movq, self.batch, self.prompts = movq, batch, training_prompts()

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Tensor:
        pictures = drawings(rng.choices(self.prompts, k=self.batch), generator) * 2 - 1
        latents = self.movq.encode(pictures).latents
        spread, mean = torch.std_mean(latents, dim=(0, 2, 3))
        unit = (mean.square() + (spread - 1).square()).mean()
        strength = LATENT_NOISE * torch.rand(self.batch, 1, 1, 1, generator=generator)
        noisy = latents + strength * torch.randn(latents.shape, generator=generator)
        back = self.movq.decode(noisy, force_not_quantize=True).sample
        return functional.l1_loss(back, pictures) + UNIT_WEIGHT * unit


class Pool(NamedTuple):
    """Drawings of training prompts as the trained CLIP and MoVQ see them."""

    prompts: list[Prompt]
    embeds: Tensor  # (n, 64)
    latents: Tensor  # (n, 4, 16, 16)
    blank: Tensor  # (1, 64), what the pipeline takes for "no picture"


class UnetLoss:
    """Denoising of latents given the picture's embedding: the mean squared error of the velocity."""

    def __init__(self, unet: UNet2DConditionModel, pool: Pool, batch: int = 64) -> None:
        self.unet, self.pool, self.batch, self.scheduler = unet, pool, batch, build_scheduler()

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.pool.prompts), (self.batch,), generator=generator)
        latents, embeds = self.pool.latents[rows], self.pool.embeds[rows]
        forgotten = torch.rand(self.batch, 1, generator=generator) < NO_PICTURE
        embeds = torch.where(forgotten, self.pool.blank, embeds)
        noise = torch.randn(latents.shape, generator=generator)
        times = torch.randint(self.scheduler.config.num_train_timesteps, (self.batch,), generator=generator)
        noisy = self.scheduler.add_noise(latents, noise, times)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = self.unet(noisy, times, None, added_cond_kwargs={"image_embeds": embeds}).sample
        velocity = self.scheduler.get_velocity(latents, noise, times)
        return functional.mse_loss(predicted[:, : latents.shape[1]].float(), velocity)


class PriorLoss:
    """Denoising of normalised embeddings given a caption that forgets words; the target is the embedding itself."""

    def __init__(self, prior: PriorTransformer, clip: CLIPModel, pool: Pool, batch: int = 256) -> None:
        from diffusers import DDPMScheduler

        self.prior, self.clip, self.pool, self.batch = prior, clip.eval(), pool, batch
        self.tokenizer = build_tokenizer()
        self.scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        spread, mean = torch.std_mean(pool.embeds, dim=0, keepdim=True)
        prior.clip_mean.data, prior.clip_std.data = mean, spread
        prior.clip_mean.requires_grad_(False), prior.clip_std.requires_grad_(False)

    def __call__(self, rng: random.Random, generator: torch.Generator) -> Tensor:
        rows = [rng.randrange(len(self.pool.prompts)) for _ in range(self.batch)]
        captions = [shuffled_caption(forget_words(self.pool.prompts[row], rng), rng) for row in rows]
        tokens = self.tokenizer(captions, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            text = self.clip.text_model(input_ids=tokens.input_ids)  # as the pipeline does, without a mask
            projected = self.clip.text_projection(text.pooler_output)
        embeds = (self.pool.embeds[rows] - self.prior.clip_mean) / self.prior.clip_std
        times = torch.randint(1000, (self.batch,), generator=generator)
        noisy = self.scheduler.add_noise(embeds, torch.randn(embeds.shape, generator=generator), times)
        predicted = self.prior(
            noisy,
            times,
            proj_embedding=projected,
            encoder_hidden_states=text.last_hidden_state,
            attention_mask=tokens.attention_mask.bool(),
        ).predicted_image_embedding
        return functional.mse_loss(predicted, embeds)
