"""One call of ComfyUI's model as a Moment: noise level, sides, and how its tokens lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...places.families import Family
from ...places.moment import COND, NEITHER, UNCOND, UNKNOWN, Moment
from ...places.region import PATCH
from .areas import crops_of
from .model import patch_of

PROMPTS_KEY, LISTS_KEY = "sae_steering_prompts", "sae_steering_lists"  # in `transformer_options`

NAMES = {"positive": COND, "negative": UNCOND}
Conds = Sequence[Sequence[Mapping[str, Any]] | None]


@dataclass(frozen=True)
class Prompts:
    """The guider's prompts before core adds copies of them to other lists, as it does where a prompt has an area."""

    sides: Mapping[Any, int]  # by uuid
    copied: bool  # whether a uuid may stand in several lists

    @classmethod
    def of(cls, conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Prompts:
        """Lists of other names than core's two sides are neither; where it has none of the two, nothing is known."""
        if not NAMES.keys() & conds.keys():
            return cls({}, False)
        sides = {
            prompt.get("uuid"): NAMES.get(name, NEITHER) for name, prompts in conds.items() for prompt in prompts or ()
        }
        cut = any("area" in prompt or "mask" in prompt for prompts in conds.values() for prompt in prompts or ())
        return cls(sides, cut and len(conds) > 1)

    def of_list(self, prompts: Sequence[Mapping[str, Any]] | None) -> int:
        """The side of a list that is calculated; its own prompts stand before the copies."""
        return self.sides.get(prompts[0].get("uuid"), UNKNOWN) if prompts else UNKNOWN

    def of_row(self, uuid: Any) -> int:
        """The side of a prompt of which it is not known in which list it stood."""
        return UNKNOWN if self.copied else self.sides.get(uuid, UNKNOWN)


@dataclass(frozen=True)
class Lists:
    """The lists of one batch: the side of each, and how many pictures each of their prompts is calculated for."""

    sides: tuple[int, ...]
    pictures: int

    @classmethod
    def of(cls, conds: Conds, pictures: int, prompts: Prompts) -> Lists:
        return cls(tuple(prompts.of_list(found) for found in conds), pictures)


def sides_of(rows: int, options: Mapping[str, Any]) -> tuple[int, ...]:
    """`sides` of a Moment for a call with so many rows.

    Outside of a run, core's numbers are taken at their word. Where another node stacks rows so that they are no longer
    one equal part for each prompt, such as several tiles in one call, each row is a part of its own.
    """
    numbers = tuple(options.get("cond_or_uncond") or (COND,))
    prompts, lists = options.get(PROMPTS_KEY), options.get(LISTS_KEY)
    if prompts is None:
        return numbers
    if lists is None:
        uuids = options.get("uuids") or ()
        same = len(uuids) == len(numbers)
        return tuple(prompts.of_row(uuid) for uuid in uuids) if same else (UNKNOWN,) * len(numbers)
    found = tuple(lists.sides[number] if number < len(lists.sides) else UNKNOWN for number in numbers)
    if rows == len(numbers) * lists.pictures:
        return found
    return (found[0] if len(set(found)) == 1 else UNKNOWN,) * rows


def moment_of(
    x: Tensor, t: Tensor, context: Tensor | None, options: Mapping[str, Any], family: Family, network: Any,
    given: Mapping[str, Any],
) -> Moment:  # fmt: skip
    """`x` is the latent, (batch, channels, height, width) or with frames before the height; `given` the keywords.

    A Moment counts in cells of half a token; the model's patch is 2 latent cells in FLUX.1 and 1 in FLUX.2.
    """
    frames_each, patch = patch_of(family, network)
    height, width = (-(-side * PATCH // patch) for side in x.shape[-2:])
    frames = -(-x.shape[2] // frames_each) if x.ndim == 5 else 1
    sides = sides_of(len(x), options)
    text_tokens = 0 if context is None else context.shape[1]
    lead = lead_tokens(family, network, given)
    crops = crops_of(x, options, patch, len(sides))
    return Moment(float(t.flatten()[0]), sides, text_tokens, height, width, crops, frames, lead)


def lead_tokens(family: Family, network: Any, given: Mapping[str, Any]) -> int:
    """Tokens of reference pictures that the model lays before the main one."""
    if family.lead == "reference":
        reference = given.get("reference_latent")
        if reference is None or getattr(network, "ref_conv", None) is None:
            return 0
        patch = patch_of(family, network)[1]
        return (reference.shape[-2] // patch) * (reference.shape[-1] // patch)
    if family.lead == "first":
        return _tokens_in(given.get("ref_latent"), *patch_of(family, network))
    references = given.get("ref_latents") or ()
    if family.lead == "none" or not references:
        return 0
    multiple = getattr(network, family.padded_to) if family.padded_to else 1
    patch = patch_of(family, network)[1]

    def filled(tokens: int) -> int:
        return -(-tokens // multiple) * multiple

    pictures = sum(filled((latent.shape[-2] // patch) * (latent.shape[-1] // patch)) for latent in references)
    if getattr(network, "siglip_embedder", None) is None:
        return pictures
    # Beside each reference lie what an encoder saw of it, (batch, rows, columns, width), or tokens that stand for none.
    seen = list(given.get("siglip_feats") or ())[: len(references)]
    encoded = sum(filled(found.shape[1] * found.shape[2]) for found in seen)
    return pictures + encoded + multiple * (len(references) - len(seen) + 1)


def _tokens_in(latent: Any, frames: int, cells: int) -> int:
    """Of a latent (batch, channels, frames, rows, columns), where there is one."""
    if latent is None:
        return 0
    count, rows, columns = latent.shape[-3:]
    return (count // frames) * (rows // cells) * (columns // cells)
