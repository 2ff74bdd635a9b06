"""Inputs that the nodes for embeddings share, and what they tell about their choice."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...sae.embeddings.spot import ALL, AUTO, TARGETS, Spot, tensor_name
from ...sae.hosts.comfyui.embeddings import TOKENS, Words, is_conditioning, tensors_of, word_positions
from .plain_inputs import encoded_text_inputs, expert_text

EMBED_TYPES = [io.ClipVisionOutput, io.Conditioning]
FLUX_TEXT = {"pooled_output": 768, "token_embeddings": 4096}
FLUX_POOLED = (
    "FLUX hardly reacts to its pooled CLIP vector; steer the picture embedding of Redux, or use Activation Steer."
)


def embed_input(name: str, tooltip: str, optional: bool = False) -> io.Input:
    return io.MultiType.Input(name, types=EMBED_TYPES, optional=optional, tooltip=tooltip)


def target_input() -> io.Combo.Input:
    return io.Combo.Input(
        "target",
        options=[AUTO, *TARGETS],
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="Which tensor of the embedding. 'auto' takes the one that the SAE was trained on, else the one of its "
        "width, and says why. Set it where two fit.",
    )


def tokens_input() -> io.String.Input:
    return expert_text(
        "tokens",
        ALL,
        "'all', or positions such as 0 or 2,5-8. In a CLIP text 0 is the start and 1 the first token; in a T5 text 0 "
        "is the first. With clip and text connected the numbers count words, from 1.",
    )


def tap_input() -> io.String.Input:
    return expert_text(
        "tap",
        AUTO,
        "Which hidden state, where a text's encoder puts several side by side, as FLUX.2, Klein and Krea 2 read it: "
        "its number, such as 18. auto: by the layer in the SAE's name.",
    )


def word_inputs() -> list[io.Input]:
    chosen = "to choose tokens by the number of a word."
    return encoded_text_inputs(f"The CLIP that encoded the text, {chosen}", f"The text that was encoded, {chosen}")


def words_of(embed: Any, clip: Any, text: str, tokens: str) -> Words | None:
    """The positions of each word's tokens, where a clip is connected; None where positions are meant."""
    if clip is None or tokens.strip() == ALL:
        return None
    if not is_conditioning(embed):
        raise ValueError("clip: a picture has no words; disconnect clip, or connect a CONDITIONING as embed.")
    if not text.strip():
        raise ValueError("text: it is empty, but with clip connected tokens are words of it; write the encoded text.")
    length = tensors_of(embed)[0][TOKENS].shape[1]
    return word_positions(lambda part: clip.tokenize(part, return_word_ids=True), text, length)


def describe_spot(embed: Any, spot: Spot) -> str:
    """Which tensor was taken, and why."""
    width = tensors_of(embed)[0][spot.target].shape[-1]
    tokens = "" if spot.tokens.strip() == ALL else f", tokens {spot.tokens}"
    if spot.tap is not None:
        return f"{spot.tap}{tokens}: {spot.reason}."
    return f"{tensor_name(spot.target, width)}{tokens}: {spot.reason}."


def embed_warnings(embed: Any, spot: Spot) -> list[str]:
    tensors = tensors_of(embed)[0]
    widths = {name: tensor.shape[-1] for name, tensor in tensors.items()}
    return [FLUX_POOLED] if spot.target == "pooled_output" and widths == FLUX_TEXT else []
