"""What encodes texts and pictures in ComfyUI, as functions to embeddings (n, width) in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...drawing.pictures import from_image
from ..encoders import opened
from ..kandinsky import Half, KandinskyHalf, embed_texts, encode_pictures
from .memory import load_whole
from .model import identity_of

TextEncoder = Callable[[Sequence[str]], Tensor]
PictureEncoder = Callable[[Sequence[Path]], Tensor]


def load_parts(half: KandinskyHalf | None, kind: Half, names: tuple[str, ...], memory: float = 0) -> KandinskyHalf:
    """Lets ComfyUI bring these modules to the device, with `memory` bytes beside them."""
    if not isinstance(half, KandinskyHalf) or half.half != kind:
        raise ValueError(f"{kind}: nothing came; choose its folder in Load Kandinsky 2.2.")
    load_whole({name: half.part(name) for name in names}, half.handles, memory)
    return half


def text_encoder(encoder: Any) -> TextEncoder:
    """Of a CLIP that projects its pooled output, or of a prior: texts to the space of pictures."""
    if isinstance(encoder, KandinskyHalf):
        half = load_parts(encoder, "prior", ("text_encoder",))
        return lambda texts: embed_texts(half, texts)
    if not hasattr(encoder, "encode_from_tokens"):
        raise ValueError(
            "encoder: a CLIP VISION reads pictures, but these are texts; connect a CLIP or a prior of Kandinsky 2.2."
        )

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.cat([pooled_row(text_outputs(encoder, text)[1]) for text in texts])

    return encode


def picture_encoder(encoder: Any) -> PictureEncoder:
    """Of a CLIP VISION, or of a prior: files of pictures to their projected embeddings."""
    if isinstance(encoder, KandinskyHalf):
        half = load_parts(encoder, "prior", ("image_encoder",))
        return lambda files: encode_pictures(half, opened(files)).image_embeds
    if not hasattr(encoder, "encode_image"):
        raise ValueError(
            "encoder: a CLIP reads texts, but these are pictures; connect a CLIP VISION or a prior of Kandinsky 2.2."
        )

    def encode(files: Sequence[Path]) -> Tensor:
        pictures = [encoder.encode_image(from_image(picture).unsqueeze(0)) for picture in opened(files)]
        return torch.cat([picture["image_embeds"].float().cpu() for picture in pictures])

    return encode


def encoder_identity(encoder: Any, part: Literal["text_encoder", "image_encoder"]) -> str:
    """Which encoder it is; of a prior the part, which is in use already."""
    if isinstance(encoder, KandinskyHalf):
        return f"Kandinsky-{part}-{identity_of(encoder.handles[part]).rpartition('-')[2]}"
    return identity_of(encoder.patcher)


def text_outputs(clip: Any, text: str) -> tuple[Tensor | None, Tensor | None]:
    """Of one text the tokens' hidden states and the pooled output, each None where the CLIP has none."""
    tokens, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return tokens, pooled


def pooled_row(pooled: Tensor | None) -> Tensor:
    """(1, width): the pooled output in float32; ValueError for a CLIP without one."""
    if pooled is None:
        raise ValueError("encoder: this CLIP gives no pooled output; use one with a projection, as SDXL's clip_g.")
    return pooled.float().cpu()
