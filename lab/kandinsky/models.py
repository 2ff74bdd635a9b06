"""The parts of a very small Kandinsky 2.2, all of them classes of diffusers and transformers.

As in the real one: CLIP's image embedding is all that the decoder is told; a prior makes it from a text.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from sae.demo.shapes import WORDS

if TYPE_CHECKING:
    from diffusers import (
        DDIMScheduler,
        KandinskyV22Pipeline,
        KandinskyV22PriorPipeline,
        PriorTransformer,
        UNet2DConditionModel,
        VQModel,
    )
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

# The tokenizer is CLIP's own kind, over the Shapes words alone, each word one token.
START, END = "<|startoftext|>", "<|endoftext|>"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz,."
MAX_TOKENS = 8  # start, five words, end, and one to spare

Merge = tuple[str, str]

PICTURE_SIDE = 64  # pixels, for CLIP and for the decoder
EMBED_WIDTH = 64
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
LATENT_SIDE = 16
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)

TEXT: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": EMBED_WIDTH,
    "max_position_embeddings": MAX_TOKENS,
}
VISION: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "projection_dim": EMBED_WIDTH,
    "image_size": PICTURE_SIDE,
    "patch_size": 8,
}
PRIOR: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 3,
    "embedding_dim": EMBED_WIDTH,
    "num_embeddings": MAX_TOKENS,
}
UNET: dict[str, Any] = {
    "sample_size": LATENT_SIDE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": 2 * LATENT_CHANNELS,  # the second half, the variance, is not used by this scheduler
    "addition_embed_type": "image",
    "encoder_hid_dim": EMBED_WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "cross_attention_dim": 64,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
    "resnet_time_scale_shift": "scale_shift",
}
MOVQ: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "vq_embed_dim": LATENT_CHANNELS,
    "num_vq_embeddings": 16,  # Kandinsky's decoder never quantizes
    "norm_type": "spatial",
    "mid_block_add_attention": False,
    "sample_size": PICTURE_SIDE,
}


def build_clip() -> CLIPModel:
    """The text and the image encoder as one model, for contrastive training."""
    from transformers import CLIPConfig, CLIPModel

    end = end_token()
    tokens = {"vocab_size": token_count(), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text = {**TEXT, **tokens}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=EMBED_WIDTH)
    return CLIPModel(config)


def build_prior() -> PriorTransformer:
    from diffusers import PriorTransformer

    return PriorTransformer(**PRIOR)


def build_unet() -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_movq() -> VQModel:
    from diffusers import VQModel

    return VQModel(**MOVQ)


def build_scheduler() -> DDIMScheduler:
    """The decoder's noise schedule: DDPM's linear one, and the velocity as what the UNet predicts."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def image_processor() -> CLIPImageProcessor:
    from transformers import CLIPImageProcessor

    side = PICTURE_SIDE
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=PIXEL_MEAN,
        image_std=PIXEL_STD,
    )


def clip_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (batch, 3, 64, 64) in 0..1 as the image processor hands them to CLIP."""
    return pictures * 2 - 1


def prior_pipeline(clip: CLIPModel, prior: PriorTransformer) -> KandinskyV22PriorPipeline:
    from diffusers import KandinskyV22PriorPipeline, UnCLIPScheduler
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    text_encoder = CLIPTextModelWithProjection(clip.config.text_config)
    image_encoder = CLIPVisionModelWithProjection(clip.config.vision_config)
    state = clip.state_dict()
    for encoder in (text_encoder, image_encoder):
        encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", clip_sample=True, clip_sample_range=5.0, prediction_type="sample"
    )
    return KandinskyV22PriorPipeline(
        prior.eval(), image_encoder.eval(), text_encoder.eval(), build_tokenizer(), scheduler, image_processor()
    )


def decoder_pipeline(unet: UNet2DConditionModel, movq: VQModel) -> KandinskyV22Pipeline:
    from diffusers import KandinskyV22Pipeline

    return KandinskyV22Pipeline(unet.eval(), build_scheduler(), movq.eval())


def build_tokenizer() -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    merges = word_merges()
    vocabulary = {token: number for number, token in enumerate(_vocabulary(merges))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def token_count() -> int:
    return len(_vocabulary(word_merges()))


def end_token() -> int:
    """The id that ends a text; CLIP's text encoder reads a text's embedding there."""
    return _vocabulary(word_merges()).index(END)


def word_merges() -> list[Merge]:
    """Byte-pair merges, in order, that join each known word into one token and change no earlier word."""
    merges: list[Merge] = []
    for word in WORDS:
        pieces = _apply(merges, [*word[:-1], word[-1] + "</w>"])
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _apply(merges, pieces)
    return merges


def _apply(merges: list[Merge], pieces: list[str]) -> list[str]:
    """Joins the neighbours whose merge comes first, until none is left."""
    rank = {merge: number for number, merge in enumerate(merges)}
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        at = next(i for i, pair in enumerate(pairwise(pieces)) if pair == best)
        pieces = [*pieces[:at], "".join(best), *pieces[at + 2 :]]
    return pieces


def _vocabulary(merges: list[Merge]) -> list[str]:
    characters = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    joined = dict.fromkeys("".join(merge) for merge in merges)
    return [*characters, *joined, START, END]
