"""Model families, one row each: how a model is recognised, what its blocks are called and carry, how they are reached.

Read in ComfyUI 0.29 and 0.33 (comfy/ldm) and diffusers 0.42.1. Block counts, widths, patch and token counts are no part
of a row: they are read from the model, from the attributes that a row names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .depth import Depth, Kind, join_blocks
from .site import Point, Site, Stream, kind_name, point_suffix, stack_name
from .unet_lists import ATTENTIONS, INSIDE, sort_of

# slot: a function in `patches_replace["dit"]`; list: one in `patches["double_block"]`; hook: a forward hook on the
# block, for the length of one call of the model
Way = Literal["slot", "list", "hook"]
# apart: image and text as two tensors; joint: one sequence of both; image: the picture alone
Carries = Literal["apart", "joint", "image"]
# Where the text of a joint sequence ends: `img_slice` of transformer_options, or all that comes before the picture.
TextEnd = Literal["img_slice", "before the picture"]


@dataclass(frozen=True)
class Inside:
    """A module inside a block whose output is a point; with `columns`, the first columns of its input are.

    `columns` names the block's attribute that says how many. Where ComfyUI has a list of patches for the output,
    `patches` is its name: there the output is as the block gets it, whoever computed it.
    """

    path: str
    columns: str = ""
    patches: str = ""


Modules = Mapping[tuple[Point, Stream], Inside]  # a joint sequence's modules stand under "joint"


@dataclass(frozen=True)
class Stack:
    """Blocks of one kind. `comfyui` is the attribute of ComfyUI's network; diffusers' name, where it is another than
    the kind's own, is a synonym in locations. Of a UNet the kind is a sort of lists (`unet_lists.py`), whose paths the
    model tells; each of its blocks has tokens of its own number, `own_grid`."""

    kind: Kind
    comfyui: str
    carries: Carries
    way: Way
    modules: Modules
    slot: str = "double_block"
    diffusers: str = ""
    ends_without_text: bool = False  # the last block returns no text
    text_end: TextEnd = "img_slice"
    own_grid: bool = False

    @property
    def streams(self) -> tuple[Stream, ...]:
        every: dict[Carries, tuple[Stream, ...]] = {
            "apart": ("image", "text"),
            "joint": ("joint", "text", "image"),
            "image": ("image",),
        }
        return every[self.carries]

    def module(self, point: Point, stream: Stream) -> Inside | None:
        """The module of a point inside the block; None where there is none of that meaning."""
        inside = "mlp" if point == "transcoder" else point
        return self.modules.get((inside, "joint" if self.carries == "joint" else stream))

    @property
    def points(self) -> tuple[str, ...]:
        """The points as locations write them; the output itself is "none"."""
        streams: tuple[Stream, ...] = ("joint",) if self.carries == "joint" else self.streams
        written = [point_suffix(self.kind, point, stream) for point, stream in self.modules if stream in streams]
        return (".input", *dict.fromkeys(written), ".update", "none for the output")


@dataclass(frozen=True)
class Family:
    """One row. `models` are the names of ComfyUI's model classes, `network` is that of the network inside; where
    families share both, an attribute of the network (`marked_by`) or the class of core's config tells them apart."""

    name: str
    models: tuple[str, ...]
    network: str
    stacks: tuple[Stack, ...]
    width: str = "hidden_size"  # attribute of the network, through several with dots
    patch: str = "patch_size"  # latent cells a token covers each way: a number, or (frames, rows, columns)
    marked_by: str = ""
    config: str = ""
    padded_to: str = ""  # attribute: the picture's tokens are filled up to a multiple of this
    lead: Literal["none", "reference", "references", "first"] = (
        "none"  # tokens between the text and the picture: `lead_tokens`
    )

    @property
    def is_unet(self) -> bool:
        return self.stacks[0].own_grid

    def stack(self, kind: Kind) -> Stack | None:
        return next((stack for stack in self.stacks if stack.kind == sort_of(kind)), None)

    def place(self, site: Site, depth: Depth) -> Site:
        """The site as this family calls it; ValueError, with what the model has, for one that it lacks."""
        stack = self.stack(site.kind) or self._by_other_name(site.kind)
        if stack is None:
            raise self._lacks(site, depth, f"{stack_name(site.kind)} are not among its blocks")
        here = site.in_diffusers(depth) if stack.own_grid else replace(site, kind=stack.kind)
        if here is None:
            raise self._lacks(site, depth, "there is no transformer")
        here.check(depth)
        if here.stream not in stack.streams:
            raise ValueError(
                f"stream: {site.stream} was asked at {here.location}, but the {kind_name(here.kind)} of {self.name} "
                f"carry {_either(stack.streams)}; use {_either(stack.streams)}."
            )
        if (
            stack.ends_without_text
            and here.stream == "text"
            and here.point != "input"
            and depth.of(here.kind) - 1 in here.blocks
        ):
            raise self._lacks(site, depth, f"its last block, {depth.of(here.kind) - 1}, returns no text")
        if here.point in ("attn", "cross", "mlp", "transcoder") and stack.module(here.point, here.stream) is None:
            raise self._lacks(site, depth, f"its {kind_name(here.kind)} have no such point")
        return here

    def takes(self, site: Site, depth: Depth) -> bool:
        """Whether a site, under whatever name, is a place in a model of this depth."""
        try:
            self.place(site, depth)
        except ValueError:
            return False
        return True

    def has(self, site: Site, depth: Depth) -> bool:
        """The same under this very name."""
        return self.takes(site, depth) and self.place(site, depth) == site

    def _by_other_name(self, kind: Kind) -> Stack | None:
        """ComfyUI and diffusers may call the same blocks by names that are another kind's elsewhere."""
        name = stack_name(kind)
        return next((stack for stack in self.stacks if name in (stack.comfyui, stack.diffusers)), None)

    def _lacks(self, site: Site, depth: Depth, why: str) -> ValueError:
        has = "; ".join(self.offers(depth))
        return ValueError(f"location: {site.location} is no place in {self.name}: {why}; this model has {has}.")

    def offers(self, depth: Depth) -> Iterator[str]:
        """Stack by stack, what a location may name."""
        if self.is_unet:
            yield from self._lists(depth)
            return
        for stack in self.stacks:
            count = depth.of(stack.kind)
            blocks = f"{stack_name(stack.kind)}.{f'0-{count - 1}' if count > 1 else 0}" if count else "no blocks"
            yield f"{blocks} ({', '.join(stack.streams)}) with {', '.join(stack.points)}"

    def _lists(self, depth: Depth) -> Iterator[str]:
        """Of a UNet, list by list; the transformers of one list are alike inside."""
        outside, *inside = self.stacks
        for kind in dict.fromkeys(one.listed[0] for one in depth.attentions):
            here = [one for one in depth.attentions if one.listed[0] == kind]
            blocks = join_blocks(tuple(one.listed[1] for one in here))
            own = f"{kind}.{blocks} ({', '.join(outside.streams)}, width {here[0].width}) with "
            own += ", ".join(outside.points)
            count = here[0].blocks
            if not inside or not count:
                yield own
                continue
            yield f"{own}; inside .transformer_blocks.{join_blocks(tuple(range(count)))} with " + ", ".join(
                inside[0].points
            )


def _either(words: tuple[str, ...]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _of(**points: str) -> Modules:
    """`attn_image="path"` and the like."""
    found: dict[tuple[Point, Stream], Inside] = {}
    for name, path in points.items():
        point, stream = name.split("_")
        found[point, stream] = Inside(path)  # type: ignore[index]
    return found


_FLUX_DOUBLE = Stack(
    "double", "double_blocks", "apart", "slot",
    _of(attn_image="img_attn.proj", attn_text="txt_attn.proj", mlp_image="img_mlp", mlp_text="txt_mlp"),
)  # fmt: skip
# The attention's output is the first columns of linear2's input; the MLP's hidden units follow.
_FLUX_SINGLE = Stack(
    "single", "single_blocks", "joint", "slot", {("attn", "joint"): Inside("linear2", "hidden_size")},
    slot="single_block",
)  # fmt: skip
# diffusers' `single_transformer_blocks.N.attn` is attention and MLP in one there: ComfyUI has no module of its meaning.
_FLUX2_SINGLE = replace(_FLUX_SINGLE, modules={})
_LUMINA = Stack(
    "layers", "layers", "joint", "list", _of(attn_joint="attention", mlp_joint="feed_forward"),
    text_end="before the picture",
)  # fmt: skip
# Inside a transformer's block: what the attentions give is patched by other nodes in lists, behind tiles and merges.
_UNET = (
    Stack(ATTENTIONS, "", "image", "hook", {}, own_grid=True),
    Stack(
        INSIDE, "", "image", "hook",
        {
            ("attn", "image"): Inside("attn1", patches="attn1_output_patch"),
            ("cross", "image"): Inside("attn2", patches="attn2_output_patch"),
            ("mlp", "image"): Inside("ff"),
        },
        own_grid=True,
    ),
)  # fmt: skip


def _unet(name: str, models: tuple[str, ...], config: str, stacks: tuple[Stack, ...] = _UNET) -> Family:
    """`config` is core's for it: several share the classes."""
    return Family(name, models, "UNetModel", stacks, width="", patch="", config=config)


FAMILIES: tuple[Family, ...] = (
    Family("FLUX.1", ("Flux",), "Flux", (_FLUX_DOUBLE, _FLUX_SINGLE)),
    Family("FLUX.2", ("Flux2",), "Flux", (_FLUX_DOUBLE, _FLUX2_SINGLE)),
    Family("Chroma", ("Chroma",), "Chroma", (_FLUX_DOUBLE, _FLUX_SINGLE)),
    # Its reference latent lies before the video.
    Family(
        "HunyuanVideo", ("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"), "HunyuanVideo",
        (_FLUX_DOUBLE, _FLUX_SINGLE), lead="first",
    ),
    Family("LongCat", ("LongCatImage",), "Flux", (_FLUX_DOUBLE, _FLUX_SINGLE)),
    Family(
        "Qwen-Image",
        ("QwenImage",),
        "QwenImageTransformer2DModel",
        (
            Stack(
                "double", "transformer_blocks", "apart", "slot",
                _of(attn_image="attn.to_out.0", attn_text="attn.to_add_out", mlp_image="img_mlp", mlp_text="txt_mlp"),
            ),
        ),
        width="inner_dim",
    ),
    # Both are NextDiT; only Z-Image fills its picture's tokens up, with a token of its own.
    Family(
        "Z-Image", ("Lumina2",), "NextDiT", (_LUMINA,), width="dim", marked_by="x_pad_token",
        padded_to="pad_tokens_multiple", lead="references",
    ),
    Family("Lumina 2", ("Lumina2",), "NextDiT", (_LUMINA,), width="dim", lead="references"),
    Family(
        "Wan 2",
        ("WAN21", "WAN22"),
        "WanModel",
        (Stack("blocks", "blocks", "image", "slot", _of(attn_image="self_attn", mlp_image="ffn")),),
        width="dim",
        lead="reference",
    ),
    Family(
        "Stable Diffusion 3",
        ("SD3",),
        "MMDiT",
        (
            Stack(
                "double", "joint_blocks", "apart", "slot",
                _of(
                    attn_image="x_block.attn.proj", attn_text="context_block.attn.proj",
                    mlp_image="x_block.mlp", mlp_text="context_block.mlp",
                ),
                ends_without_text=True,
            ),
        ),
    ),
    Family(
        "Krea 2",
        ("Krea2",),
        "SingleStreamDiT",
        (
            Stack(
                "blocks", "blocks", "joint", "hook", _of(attn_joint="attn", mlp_joint="mlp"),
                diffusers="transformer_blocks",
            ),
        ),
        width="first.out_features",
        patch="patch",
    ),
    Family(
        "Anima",
        ("Anima",),
        "MiniTrainDIT",
        (
            Stack(
                "blocks", "blocks", "image", "hook", _of(attn_image="self_attn", mlp_image="mlp"),
                diffusers="transformer_blocks",
            ),
        ),
        width="model_channels",
        patch="patch_spatial",
    ),
    _unet("Stable Diffusion 1", ("BaseModel", "SD15_instructpix2pix"), "SD15"),
    _unet("Stable Diffusion 2", ("BaseModel", "SD21UNCLIP"), "SD20"),
    _unet("SDXL", ("SDXL", "SDXL_instructpix2pix"), "SDXL"),
    _unet("SDXL Refiner", ("SDXLRefiner",), "SDXLRefiner"),
    # In diffusers alone; a plain attention, without blocks inside, is what it has at each place.
    _unet("Kandinsky 2.2", (), "", _UNET[:1]),
)  # fmt: skip


def family_named(name: str) -> Family | None:
    return next((family for family in FAMILIES if family.name == name), None)
