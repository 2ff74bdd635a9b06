"""How many blocks of each kind a model has; of a UNet, which transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .unet_lists import BLOCKS, holder, is_in_comfyui, order_of

Kind = str  # one of KINDS; in a UNet the path of a list of like modules (`unet_lists.py`)
KINDS: tuple[Kind, ...] = ("double", "single", "blocks", "layers")  # in the order in which a model runs them


@dataclass(frozen=True)
class Attention:
    """One transformer of a UNet."""

    path: str  # as diffusers has it
    comfyui: str  # ComfyUI's path of the same; empty where the host does not know it
    blocks: int  # transformer blocks inside
    width: int

    @property
    def listed(self) -> tuple[str, int]:
        """The list that it stands in, and its number there."""
        path, _, number = self.path.rpartition(".")
        return path, int(number)


@dataclass(frozen=True)
class Depth:
    """How many blocks of each kind a model has; of a UNet its transformers, in the order in which they run."""

    double: int = 0
    single: int = 0
    blocks: int = 0
    layers: int = 0
    attentions: tuple[Attention, ...] = ()

    def of(self, kind: Kind) -> int:
        if kind in KINDS:
            return {"double": self.double, "single": self.single, "blocks": self.blocks, "layers": self.layers}[kind]
        inside = holder(kind)
        return sum(
            one.blocks if one.path == inside else one.listed[0] == kind
            for one in self.attentions
            if inside in ("", one.path)
        )

    def width(self, kind: Kind, blocks: tuple[int, ...]) -> int:
        """Of the tokens at places in a UNet; ValueError where they differ in it."""
        widths = {self.attentions[self.position(kind, block)].width for block in blocks}
        if len(widths) > 1:
            raise ValueError(
                f"location: the widths of {kind}.{join_blocks(blocks)} are {sorted(widths)}; name places of one width."
            )
        return widths.pop()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Those that any family has; of a UNet its own lists."""
        lists = dict.fromkeys(one.listed[0] for one in self.attentions)
        inside = [f"{one.path}.transformer_blocks" for one in self.attentions if one.blocks]
        return (*lists, *inside) or KINDS

    @property
    def total(self) -> int:
        return len(self.attentions) or sum(map(self.of, KINDS))

    def position(self, kind: Kind, block: int) -> int:
        """How many blocks run before this one; in a UNet, transformers before the one that it is or lies in."""
        if kind in KINDS:
            return block + sum(self.of(other) for other in KINDS[: KINDS.index(kind)])
        return transformer_at(kind, block, self.attentions)


def running_order(kind: Kind) -> tuple[int, ...]:
    """Sorts kinds as a model runs them."""
    return (KINDS.index(kind),) if kind in KINDS else (len(KINDS), *order_of(kind))


def in_diffusers(kind: str, block: int, attentions: Sequence[Attention]) -> tuple[str, int] | None:
    """List and number by diffusers' names, for either name; None where the UNet has no such place by ComfyUI's."""
    if not is_in_comfyui(kind):
        return kind, block
    path = holder(kind) or f"{kind}.{block}"
    found = next((one for one in attentions if one.comfyui == path), None)
    if found is None:
        return None
    return (f"{found.path}{BLOCKS}", block) if holder(kind) else found.listed


def transformer_at(kind: str, block: int, attentions: Sequence[Attention]) -> int:
    """The number, in running order, of the transformer that a place by diffusers' names is, or lies in; ValueError."""
    path = holder(kind) or f"{kind}.{block}"
    return [one.path for one in attentions].index(path)


def path_in_comfyui(path: str, attentions: Sequence[Attention]) -> str:
    """ComfyUI's path of the transformer that diffusers calls `path`; ValueError where there is none."""
    found = next((one.comfyui for one in attentions if one.path == path), "")
    if not found:
        raise ValueError(f"location: {path} is no place in this model.")
    return found


def join_blocks(blocks: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) as "0-2,5"."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
