"""Steering the text's embedding before it enters the FLUX, as CLIP Embed Steer does: the other level on one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sae.demo.shapes import Prompt
from sae.demo.shapes_model import embed_prompts, sample
from sae.dictionary.contrast import SIDES, Side
from sae.embeddings.editing import embedding_record, steer_tokens
from sae.finding.features import feature_list
from sae.finding.two_sides import contrast_of_texts, measure_texts, rows_of
from sae.places.moment import COND, Moment
from sae.places.site import Site
from sae.steering.delta import Steering
from sae.steering.intervention import Intervention, RandomDirection
from sae.steering.record import SteeringRecord

from ..judge.steer import STEPS
from .cases import FINDING, Change, saying

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

WHERE = "the text's embedding, before the FLUX"
NOWHERE = Site("double", (0,), "input", "text")  # a control turns a Δ of tokens, wherever they are


def embedded_steering(change: Change, strength: float = 1.0) -> Steering:
    """`swap` between the words, from the embeddings of eight pairs of prompts."""
    words: dict[Side, str] = {"positive": change.target, "negative": change.source}
    texts = {
        side: list(embed_prompts([saying(one, change.slot, word) for one in FINDING])) for side, word in words.items()
    }
    sae = contrast_of_texts(texts).dictionary(None, f"{change} text")
    measure_texts(sae, texts)
    features, replaces = (feature_list(rows_of(sae, side)) for side in SIDES)
    return Steering(sae, features, "swap", strength, "raw", replaces)


def draw_embedded(
    transformer: FluxTransformer2DModel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steering: Steering,
    random_direction: int | None = None,
) -> tuple[Tensor, SteeringRecord]:
    """Latents (batch, 16, 16, 16) drawn from steered texts, and what the steering did; as `draw_steered`."""
    record = embedding_record()
    with _texts_of(transformer, steering, record, random_direction):
        return sample(transformer, prompts, seeds, STEPS), record


@contextmanager
def _texts_of(
    transformer: nn.Module, steering: Steering, record: SteeringRecord, random_direction: int | None
) -> Iterator[None]:
    def steered(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        if random_direction is None:
            text = steer_tokens(text, steering, record)
        else:
            tap = Intervention(steering, NOWHERE).begin(record)
            text = RandomDirection(tap, random_direction)(text, Moment(0.0, (COND,), text.shape[1], 0, 0))
        return args, {**kwargs, "encoder_hidden_states": text}

    handle = transformer.register_forward_pre_hook(steered, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
