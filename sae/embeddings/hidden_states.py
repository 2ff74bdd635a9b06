"""Text encoders of which a generator reads one hidden state or several, and which of them an SAE reads.

Layers and order are ComfyUI's (comfy/text_encoders/flux.py, krea2.py, lumina2.py, ...): tap k is `hidden_states[k]`,
what block k - 1 gives out. An SAE of block n's output therefore belongs to tap n + 1; where no such tap is, the one
beside it is taken. LTX-2 mixes all states of its Gemma 3 in a projection of its own, so that it has no taps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..dictionary.autoencoder import SparseAutoencoder
from .encoder_models import distance, is_known, model_of
from .residual import Read, state_of

AUTO, ALL = "auto", "all"


@dataclass(frozen=True)
class Stack:
    """An encoder whose token embeddings are the hidden states `layers` of `width` numbers each, side by side.

    `encoder` is also what the table of public SAEs calls it. `interleaved`: feature by feature, the first number of
    every state, then the second. `normed` is a state behind the last norm, which no block gives out.
    """

    encoder: str
    width: int
    layers: tuple[int, ...]
    interleaved: bool = False
    normed: int | None = None

    def __str__(self) -> str:
        states = "hidden states" if len(self.layers) > 1 else "hidden state"
        return f"the {states} {', '.join(map(str, self.layers))} of {self.encoder}"

    @property
    def whole(self) -> int:
        """Width of all states together."""
        return self.width * len(self.layers)

    def tap(self, layer: int) -> Tap:
        """ValueError for a layer that is none of them."""
        if layer not in self.layers:
            raise ValueError(f"tap: {layer} is none of {self}; write one of these.")
        place, count = self.layers.index(layer), len(self.layers)
        if self.interleaved:
            return Tap(layer, place, self.width, self.encoder, count)
        return Tap(layer, place * self.width, self.width, self.encoder)


@dataclass(frozen=True)
class Tap:
    """One hidden state in token embeddings (batch, tokens, all of them): `width` numbers from `start` on."""

    layer: int
    start: int
    width: int
    encoder: str
    stride: int = 1

    def __str__(self) -> str:
        return f"hidden state {self.layer} of {self.encoder}"

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + (self.width - 1) * self.stride + 1, self.stride)


STACKS = (
    Stack("Qwen3-4B (FLUX.2 Klein 4B)", 2560, (9, 18, 27)),
    Stack("Qwen3-8B (FLUX.2 Klein 9B)", 4096, (9, 18, 27)),
    Stack("Mistral 3 Small (FLUX.2)", 5120, (10, 20, 30)),
    Stack("Qwen3-VL-4B (Krea 2)", 2560, tuple(range(2, 36, 3))),
    Stack("Gemma 2 2B (Lumina 2)", 2304, (25,)),  # behind the last block but one, before the last norm
    Stack("Qwen3-VL-8B (Ideogram 4)", 4096, (*range(1, 35, 3), 36), interleaved=True),
    Stack("Qwen3-VL-4B (FLUX 3 Klein)", 2560, tuple(range(4, 33, 4))),
    Stack("Llama 3.1 8B Instruct (HiDream I1)", 4096, tuple(range(1, 33)), normed=32),
    # One state each, as wide as other encoders' own: the SAE's model decides.
    Stack("Llama 3 8B (HunyuanVideo)", 4096, (30,)),
    Stack("Qwen3-4B (Z-Image)", 2560, (35,)),
    Stack("Gemma 3 4B (NewBie)", 2560, (33,)),
)
_AMBIGUOUS = frozenset({4096, 2560})  # T5-XXL's and HunyuanVideo's; Z-Image's and NewBie's


def stack_of(width: int) -> Stack | None:
    """The encoder whose token embeddings are this wide; None where they are one hidden state, or unknown."""
    if width in _AMBIGUOUS:
        return None
    return next((stack for stack in STACKS if stack.whole == width), None)


def stack_for(sae: SparseAutoencoder, width: int) -> Stack | None:
    """As `stack_of`; where several encoders are this wide, the one whose model the SAE was trained on."""
    model = model_of(sae)
    if width not in _AMBIGUOUS or model is None:
        return stack_of(width)
    near = [stack for stack in STACKS if stack.whole == width and distance(model, stack.encoder) is not None]
    return near[0] if len(near) == 1 else None


def check_encoder(sae: SparseAutoencoder, encoder: Stack | str | None, width: int) -> str:
    """How far the SAE's model is from this encoder, for people; "" where nothing is to be said.

    Other encoders than those of hidden states are known by their width alone, or not at all.

    ValueError for a model that is another one: equal widths do not make two encoders one.
    """
    model = model_of(sae)
    if model is None:
        return ""
    name = encoder.encoder if isinstance(encoder, Stack) else encoder
    far = distance(model, name) if name is not None else None
    if far is None and is_known(model):
        here = str(encoder) if isinstance(encoder, Stack) else f"{width} wide"
        raise ValueError(
            f"embed: {sae.name} was trained on {model}, but this text is {here}; equal widths do not make two encoders "
            f"one, so encode with {model}, or use an SAE of this encoder."
        )
    if far is None:
        return f"it was trained on {model}, which is not known here"
    return f"it was trained on {model}: {far}" if far else ""


def is_tapped(sae: SparseAutoencoder, width: int) -> bool:
    """Whether an SAE reads one hidden state of token embeddings of this width, as far as widths and models tell."""
    stack, model = stack_for(sae, width), model_of(sae)
    if stack is None or sae.d_in != stack.width:
        return False
    return model is None or not is_known(model) or distance(model, stack.encoder) is not None


def tap_for(sae: SparseAutoencoder, width: int, tap: str = AUTO) -> tuple[Tap, str]:
    """The part of token embeddings of this width that an SAE reads, and what is to be said of how well it fits.

    `tap` is a hidden state's number, or auto for the one that the SAE's file or name tells. ValueError for a number
    that is no tap here, for an SAE of another width, and where auto cannot tell.
    """
    layer, stack = _number(tap), _stack(width, tap, sae=sae)
    if sae.d_in != stack.width:
        raise ValueError(f"embed: {sae.name} reads width {sae.d_in}, but this text is {stack}, {stack.width} each.")
    far = check_encoder(sae, stack, width)
    if layer is not None:
        return stack.tap(layer), far
    found, beside = _told(sae, stack)
    return found, "; ".join(filter(None, (beside, far)))


def tap_at(width: int, tap: str) -> Tap | None:
    """The hidden state of that number in token embeddings of this width, None of `all`; ValueError for any other."""
    if tap.strip().lower() == ALL:
        return None
    layer, stack = _number(tap), _stack(width, tap, ALL)
    if layer is None:
        raise ValueError(f"tap: {tap!r} tells none, and this text is {stack}; write one, or {ALL}.")
    return stack.tap(layer)


def _number(tap: str) -> int | None:
    """None of auto."""
    asked = tap.strip().lower()
    if asked != AUTO and not re.fullmatch(r"\d{1,3}", asked):
        raise ValueError(f"tap: {tap!r} is no number of a hidden state; write auto or one such as 18.")
    return None if asked == AUTO else int(asked)


def _stack(width: int, tap: str, otherwise: str = AUTO, sae: SparseAutoencoder | None = None) -> Stack:
    found = stack_of(width) if sae is None else stack_for(sae, width)
    if found is None and (layer := _number(tap)) is not None:  # one of several of this width, told by the number
        found = next((stack for stack in STACKS if stack.whole == width and layer in stack.layers), None)
    if found is None:
        known = "; ".join(f"{one.whole} is {one}" for one in STACKS if one.whole not in _AMBIGUOUS)
        raise ValueError(
            f"tap: {tap.strip()} was given, but these token embeddings are {width} wide, which is no row of hidden "
            f"states that is known ({known}); write {otherwise}."
        )
    return found


def _told(sae: SparseAutoencoder, stack: Stack) -> tuple[Tap, str]:
    """The tap that an SAE's file or name tells, at most one away from it, and how near it is."""
    read: Read | None = state_of(sae)
    if read is None and len(stack.layers) == 1:
        return stack.tap(stack.layers[0]), f"its layer is not told, and {stack} is the only one"
    if read is None:
        raise ValueError(f"tap: the name of {sae.name} tells no single layer, and this text is {stack}; write one.")
    nearest = min(stack.layers, key=lambda layer: abs(layer - read.state))
    if abs(nearest - read.state) > 1:
        raise ValueError(
            f"tap: {sae.name} was trained {read}, but this text is {stack}; use an SAE of one of these, or write the "
            f"one to try."
        )
    if nearest != read.state:
        return stack.tap(nearest), f"one block beside its own, hidden state {read.state}"
    if nearest == stack.normed:
        return stack.tap(nearest), "here behind the last norm, where it was trained before it"
    return stack.tap(nearest), f"its own, {read.words}"
