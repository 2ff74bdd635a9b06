"""Text encoders of which a generator reads one hidden state or several side by side, and which of them an SAE reads.

Layers and order are ComfyUI's (comfy/text_encoders/flux.py, krea2.py, lumina2.py): tap k is `hidden_states[k]`, what
block k - 1 gives out. An SAE of block n's output therefore belongs to tap n + 1; where no such tap is, the one beside
it is taken. LTX-2 mixes all states of its Gemma 3 in a projection of its own, so that it has no taps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.known import known_checkpoint

AUTO, ALL = "auto", "all"


@dataclass(frozen=True)
class Stack:
    """An encoder whose token embeddings are the hidden states `layers` of `width` numbers each, side by side.

    `encoder` is also what the table of public SAEs calls it.
    """

    encoder: str
    width: int
    layers: tuple[int, ...]

    def __str__(self) -> str:
        states = "hidden states" if len(self.layers) > 1 else "hidden state"
        return f"the {states} {', '.join(map(str, self.layers))} of {self.encoder}"

    def tap(self, layer: int) -> Tap:
        """ValueError for a layer that is none of them."""
        if layer not in self.layers:
            raise ValueError(f"tap: {layer} is none of {self}; write one of these.")
        return Tap(layer, self.layers.index(layer) * self.width, self.width, self.encoder)


@dataclass(frozen=True)
class Tap:
    """One hidden state in token embeddings (batch, tokens, all of them): start to start + width."""

    layer: int
    start: int
    width: int
    encoder: str

    def __str__(self) -> str:
        return f"hidden state {self.layer} of {self.encoder}"


STACKS = (
    Stack("Qwen3-4B (FLUX.2 Klein 4B)", 2560, (9, 18, 27)),
    Stack("Qwen3-8B (FLUX.2 Klein 9B)", 4096, (9, 18, 27)),
    Stack("Mistral 3 Small (FLUX.2)", 5120, (10, 20, 30)),
    Stack("Qwen3-VL-4B (Krea 2)", 2560, tuple(range(2, 36, 3))),
    Stack("Gemma 2 2B (Lumina 2)", 2304, (25,)),  # behind the last block but one, before the last norm
)
_LAYER = re.compile(r"(?:layers?|blocks?)[._ -]?(\d{1,3})(?!\d)", re.IGNORECASE)


def stack_of(width: int) -> Stack | None:
    """The encoder whose token embeddings are this wide; None where they are one hidden state, or unknown."""
    return next((stack for stack in STACKS if stack.width * len(stack.layers) == width), None)


def encoder_of(sae: SparseAutoencoder) -> str | None:
    """The text encoder that an SAE was trained on, by the table of public SAEs; None where that does not tell."""
    known = known_checkpoint(sae.name)
    return known.model if known and known.embedding and known.embedding[0] == "token_embeddings" else None


def check_encoder(sae: SparseAutoencoder, width: int) -> None:
    """ValueError for an SAE of a hidden state where token embeddings of this width are another encoder's."""
    own, stack = encoder_of(sae), stack_of(width)
    home = next((one for one in STACKS if one.encoder == own), None)
    if home is not None and stack != home:
        here = f"{width} wide" if stack is None else str(stack)
        raise ValueError(
            f"embed: {sae.name} was trained on {own}, but this text is {here}; equal widths do not make two encoders "
            f"one, so encode with {own}."
        )


def is_tapped(sae: SparseAutoencoder, width: int) -> bool:
    """Whether an SAE reads one hidden state of token embeddings of this width, as far as widths and the table tell."""
    stack = stack_of(width)
    return stack is not None and sae.d_in == stack.width and encoder_of(sae) in (None, stack.encoder)


def tap_for(sae: SparseAutoencoder, width: int, tap: str = AUTO) -> Tap:
    """The part of token embeddings of this width that an SAE reads.

    `tap` is a hidden state's number, or auto for the layer in the SAE's name. ValueError for a number that is no tap
    here, for an SAE of another width, and where auto cannot tell.
    """
    layer, stack = _number(tap), _stack(width, tap)
    if sae.d_in != stack.width:
        raise ValueError(f"embed: {sae.name} reads width {sae.d_in}, but this text is {stack}, {stack.width} each.")
    return stack.tap(_named(sae, stack) if layer is None else layer)


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


def _stack(width: int, tap: str, otherwise: str = AUTO) -> Stack:
    stack = stack_of(width)
    if stack is None:
        known = "; ".join(f"{one.width * len(one.layers)} is {one}" for one in STACKS)
        raise ValueError(
            f"tap: {tap.strip()} was given, but these token embeddings are {width} wide, which is no row of hidden "
            f"states that is known ({known}); write {otherwise}."
        )
    return stack


def _named(sae: SparseAutoencoder, stack: Stack) -> int:
    """The tap of the layer in an SAE's name, at most one away from it."""
    numbers = {int(number) for number in _LAYER.findall(sae.name)}
    if not numbers and len(stack.layers) == 1:
        return stack.layers[0]
    if len(numbers) != 1:
        raise ValueError(f"tap: the name of {sae.name} tells no single layer, and this text is {stack}; write one.")
    [block] = numbers
    nearest = min(stack.layers, key=lambda layer: abs(layer - (block + 1)))
    if abs(nearest - (block + 1)) > 1:
        raise ValueError(
            f"tap: {sae.name} was trained after block {block}, which is hidden state {block + 1}, but this text is "
            f"{stack}; use an SAE of one of these, or write the one to try."
        )
    return nearest
