"""Which tensor of an embedding an SAE belongs to, and which of its tokens.

An embedding belongs to one encoder: equal widths do not make two of them one space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.known import known_checkpoint
from .hidden_states import ALL, AUTO, Tap, check_encoder, is_tapped, stack_for, stack_of, tap_for
from .residual import state_of

Target = Literal[
    "image_embeds", "last_hidden_state", "penultimate_hidden_states", "pooled_output", "token_embeddings",
    "conditioning_llama3",
]  # fmt: skip
TARGETS: tuple[Target, ...] = get_args(Target)  # where two fit, the earlier one is taken
TEXTS: tuple[Target, ...] = ("conditioning_llama3", "token_embeddings")  # those that may have taps

_HIDDEN = {1664: "CLIP ViT-bigG", 1280: "CLIP ViT-H", 1024: "CLIP ViT-L", 1152: "SigLIP so400m", 1536: "DINOv2 giant"}
ENCODERS: Mapping[Target, Mapping[int, str]] = {
    "image_embeds": {1280: "CLIP ViT-bigG", 1024: "CLIP ViT-H", 768: "CLIP ViT-L"},
    "last_hidden_state": _HIDDEN,
    "penultimate_hidden_states": _HIDDEN,
    "pooled_output": {768: "CLIP-L text", 1280: "CLIP-G text", 2048: "CLIP-L and CLIP-G text"},
    "token_embeddings": {
        768: "CLIP-L text",
        1024: "CLIP-H text",
        1280: "CLIP-G text",
        2048: "CLIP-L and CLIP-G text of SDXL",
        4096: "T5-XXL text",
    },
    "conditioning_llama3": {},  # all hidden states of HiDream's Llama, side by side
}


@dataclass(frozen=True)
class Spot:
    """The tensor of an embedding that is read or edited, the tokens of it, and why."""

    target: Target
    tokens: str  # "all", or positions such as "0" and "2,5-8"
    reason: str
    tap: Tap | None = None  # the part of each token, where several hidden states lie side by side


def home_of(sae: SparseAutoencoder) -> tuple[Target, str] | None:
    """The tensor and the tokens that an SAE was trained on, by the table of public SAEs or by its name."""
    known = known_checkpoint(sae.name)
    if known is not None and known.embedding is not None:
        target, tokens = known.embedding
        return _target(target), tokens
    named = [target for target in TARGETS if target in sae.name]
    return (named[0], ALL) if len(named) == 1 else None


def tensor_name(target: Target, width: int) -> str:
    """Such as `image_embeds 1280 (CLIP ViT-bigG)`."""
    stack = stack_of(width) if target in TEXTS else None
    known = ENCODERS[target].get(width) if stack is None else stack
    return f"{target} {width}" + (f" ({known})" if known else "")


def spot_for(
    sae: SparseAutoencoder, widths: Mapping[Target, int], target: str = AUTO, tokens: str = ALL, tap: str = AUTO
) -> Spot:
    """Which of the tensors that an embedding has (with their widths) an SAE reads, and which `tap` of a text.

    `auto` follows what the SAE was trained on, else its width. Raises ValueError where nothing fits.
    """
    tapped = _tapped(sae, widths, target, tap)
    if tapped is not None:
        part, far = tap_for(sae, widths[tapped], tap)
        chosen = "as chosen" if tap.strip() != AUTO else ""
        return Spot(tapped, tokens, "; ".join(filter(None, (chosen, far))) or _TAPPED, part)
    if target not in (AUTO, *TARGETS):
        raise ValueError(
            f"target: {target!r} is not a tensor of an embedding; use auto or one of {', '.join(TARGETS)}."
        )
    home = home_of(sae)
    present = "; ".join(tensor_name(name, width) for name, width in widths.items()) or "no tensor"
    if target != AUTO:
        _check_model(sae, _target(target), widths)
        return Spot(_checked(sae, widths, target, present), _tokens(home, target, tokens), "as chosen")
    if home is not None:
        if home[0] not in widths:
            raise ValueError(
                f"embed: {sae.name} was trained on {home[0]}, but this embedding has {present}; connect one that has "
                f"{home[0]}, or set target to try another."
            )
        far = _check_model(sae, home[0], widths)
        reason = "; ".join(filter(None, ("what it was trained on", far)))
        return Spot(_checked(sae, widths, home[0], present), _tokens(home, home[0], tokens), reason)
    fitting = [name for name in TARGETS if widths.get(name) == sae.d_in]
    if not fitting:
        raise ValueError(f"embed: {sae.name} reads width {sae.d_in}, but this embedding has {present}; {_ADVICE}")
    far = _check_model(sae, fitting[0], widths)
    reason = f"the only one of width {sae.d_in}"
    if len(fitting) > 1:
        reason = f"{' and '.join(fitting)} have width {sae.d_in}; auto takes the first, target chooses another"
    return Spot(fitting[0], tokens, "; ".join(filter(None, (reason, far))))


def _tapped(sae: SparseAutoencoder, widths: Mapping[Target, int], target: str, tap: str) -> Target | None:
    """Of which tensor the SAE reads one hidden state; ValueError for an SAE of another encoder, and a tap of none."""
    texts = [name for name in TEXTS if name in widths and target in (AUTO, name)]
    chosen = tap.strip() != AUTO
    if not texts and chosen:
        raise ValueError(f"tap: {tap!r} was given, but taps are parts of a text's token_embeddings; write auto.")
    if chosen:
        return next((name for name in texts if stack_for(sae, widths[name]) is not None), texts[-1])
    if home_of(sae) not in (None, ("token_embeddings", ALL)):
        return None
    found = next((name for name in texts if is_tapped(sae, widths[name])), None)
    if found is None and sae.d_in not in [widths[name] for name in texts]:
        for stack in filter(None, (stack_of(widths[name]) for name in texts)):
            if stack.width == sae.d_in:
                check_encoder(sae, stack, stack.whole)
    return found


def _check_model(sae: SparseAutoencoder, target: Target, widths: Mapping[Target, int]) -> str:
    """What is to be said of the SAE's model; ValueError where it is another one's, or of no hidden state."""
    width = widths.get(target, 0)
    if target == "token_embeddings":
        state_of(sae)
    stack = stack_of(width) if target in TEXTS else None
    return check_encoder(sae, stack or ENCODERS[target].get(width), width)


def reads_tokens(sae: SparseAutoencoder, width: int | None, tap: str = AUTO) -> bool:
    """Whether an SAE, or who chose a `tap`, means a text's token embeddings of this width, and not a vector of it."""
    home = home_of(sae)
    if tap.strip() != AUTO or home == ("token_embeddings", ALL):
        return True
    return home is None and width is not None and is_tapped(sae, width)


_TAPPED = "the one nearest to the SAE's own"
_ADVICE = "encode with the encoder that the SAE was trained on."


def _checked(sae: SparseAutoencoder, widths: Mapping[Target, int], target: str, present: str) -> Target:
    name = _target(target)
    if name not in widths:
        raise ValueError(f"target: this embedding has no {name}; it has {present}.")
    if widths[name] != sae.d_in:
        raise ValueError(
            f"embed: {sae.name} reads {tensor_name(name, sae.d_in)}, but this embedding has {present}; {_ADVICE}"
        )
    return name


def _target(name: str) -> Target:
    return next(target for target in TARGETS if target == name)


def _tokens(home: tuple[Target, str] | None, target: str, tokens: str) -> str:
    """An SAE of the class token alone is used on that token, unless others are asked for."""
    return home[1] if home is not None and home[0] == target and tokens.strip() == ALL else tokens


def token_positions(text: str, count: int, words: Mapping[int, Sequence[int]] | None = None) -> list[int] | None:
    """`all` -> None; `0,2,5-8` -> these positions of `count` tokens.

    With `words` (number of a word, from 1 -> positions of its tokens) the numbers are those of words. ValueError for
    other text and for positions that are not there.
    """
    text = text.replace(" ", "")
    if text == ALL:
        return None
    if not re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", text):
        raise ValueError(f"tokens: {text!r} does not name tokens; write all, or positions such as 0 or 2,5-8.")
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), min(int(last or first), 10**6) + 1)
    known = range(count) if words is None else words.keys()
    beyond = next((number for number in numbers if number not in known), None)
    if beyond is not None or not numbers:
        what = f"tokens are numbered 0 to {count - 1}" if words is None else f"words are numbered 1 to {len(words)}"
        raise ValueError(f"tokens: there is no {text if beyond is None else beyond} in this text; its {what}.")
    if words is not None:
        numbers = [position for number in numbers for position in words[number]]
    return sorted(set(numbers))
