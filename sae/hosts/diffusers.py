"""Steering and reading diffusers' `FluxTransformer2DModel`, and its UNets, with plain forward hooks.

What each module returns was read off diffusers 0.42: a double block (text, image), its attention (image, text) and
with an IP-Adapter a third tensor, a single block (text, image) since 0.35 and one tensor before, its attention one
tensor with the text first. `DiffusersModel` is a transformer as the front door runs any model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import TrainedOn
from ..dictionary.sae_set import AnySae, Member, check_sites, members_at
from ..places.depth import Depth
from ..places.families import Family, family_named
from ..places.moment import COND, Moment, OnStep, Schedule, SigmaWindow
from ..places.reach import CountedTap, Done, Reach
from ..places.site import Site
from ..places.stream_taps import Observer, Tap, tap_image, tap_text, tap_tokens
from ..steering.host_calls import Draw, Drawn, Level, Which
from ..steering.intervention import Intervention, RandomDirection
from ..steering.record import SteeringRecord
from ..steering.row_by_row import Alone
from .diffusers_unet import UnetCall, depth_of_unet, family_name, is_unet
from .host import See, SteeringResult

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel

PercentToSigma = Callable[[float], float]
Transformer: TypeAlias = "FluxTransformer2DModel | UNet2DConditionModel"
log = logging.getLogger(__name__)


def straight_percent_to_sigma(percent: float) -> float:
    """Sigma after a part of the run on a schedule without time shift, as FLUX.1-schnell has it; of a UNet the time
    step's share."""
    return 1.0 - percent


def depth_of(transformer: Transformer) -> Depth:
    if is_unet(transformer):
        return depth_of_unet(transformer)
    return Depth(len(transformer.transformer_blocks), len(transformer.single_transformer_blocks))


@contextmanager
def steer(
    transformer: Transformer,
    interventions: Sequence[Intervention],
    percent_to_sigma: PercentToSigma = straight_percent_to_sigma,
    sides: tuple[int, ...] = (COND,),
    random_direction: int | None = None,
) -> Iterator[SteeringRecord]:
    """Steers every call of the transformer inside the `with` block and yields its record.

    `sides` says which side of guidance each equal part of the batch is, COND or UNCOND. With `random_direction` each Δ
    keeps its length but points along one random direction, drawn from that seed. Hooks are gone at the end, whatever
    happened. Raises ValueError where a site does not exist in this model.
    """
    record = SteeringRecord()
    active = [item.begin(record, window_of(item.schedule, percent_to_sigma)) for item in interventions]
    taps = active if random_direction is None else [RandomDirection(tap, random_direction) for tap in active]
    with tapped(transformer, taps, sides) as record.reaches:
        yield record
    _warn(record.reaches, "steered")


def drawing(
    transformer: Transformer,
    sample: Callable[[OnStep], Tensor],
    percent_to_sigma: PercentToSigma = straight_percent_to_sigma,
    sides: tuple[int, ...] = (COND,),
) -> Draw:
    """The `Draw` that sweeps and calibrations ask for; `sample` draws with the transformer, such as in a pipeline.

    `sample` gets whom to tell of its steps, and gives pictures or latents (batch, channels, height, width).
    """

    def draw(interventions: Sequence[Intervention], random_direction: int | None, on_step: OnStep) -> Drawn:
        with steer(transformer, interventions, percent_to_sigma, sides, random_direction) as record:
            result = sample(on_step)
        summary = record.summary()
        summary.check_reached()
        return Drawn(result, summary.mean_ratio)

    return draw


@dataclass(frozen=True)
class Predicting:
    """The `Predict` of a transformer.

    `forward` calls it for one of the two prompts on latents (rows, ...) that are all at the noise level sigma.
    """

    transformer: Transformer
    forward: Callable[[Which, Tensor, float], Tensor]
    most_rows: int = 8

    @torch.no_grad()
    def __call__(self, which: Which, level: Level, rows: int, taps: Sequence[Alone] = ()) -> Tensor:
        latents = level.latent.expand(rows, *level.latent.shape[1:])
        with tapped(self.transformer, taps, (COND,)) as reaches:
            predicted = self.forward(which, latents, level.sigma)
        for reach in reaches:
            reach.check()
        return predicted


@contextmanager
def capture(transformer: Transformer, site: Site, see: Callable[[Tensor, Moment], None]) -> Iterator[None]:
    """Shows `see` the tokens (batch, tokens, width) of a site at every call of the transformer.

    Raises ValueError at the end where the transformer was called and never came to the site.
    """
    with tapped(transformer, [Observer(site, see)], (COND,)) as reaches:
        yield
    for reach in reaches:
        reach.check()
    _warn(reaches, "read")


def _warn(reaches: Sequence[Reach], done: Done) -> None:
    for reach in reaches:
        for sentence in reach.missed(done):
            log.warning("%s", sentence)


def window_of(schedule: Schedule, percent_to_sigma: PercentToSigma) -> SigmaWindow:
    """A schedule as sigmas; from 0 and to 1 mean from before the first and to after the last step."""
    start = float("inf") if schedule.start_percent <= 0 else float(percent_to_sigma(schedule.start_percent))
    end = -float("inf") if schedule.end_percent >= 1 else float(percent_to_sigma(schedule.end_percent))
    return SigmaWindow(start, end)


@contextmanager
def tapped(transformer: Transformer, taps: Sequence[Tap], sides: tuple[int, ...]) -> Iterator[list[Reach]]:
    """Installs the taps, in order, for the length of the `with` block, and yields how far each comes."""
    for tap in taps:
        tap.site.check(depth_of(transformer))
    kind = UnetCall if is_unet(transformer) else _Call
    call = kind(sides, [Reach(tap.site) for tap in taps])
    with ExitStack() as stack:
        hook: Any = transformer.register_forward_pre_hook(call.begin, with_kwargs=True)
        stack.callback(hook.remove)
        hook = transformer.register_forward_hook(call.end)
        stack.callback(hook.remove)
        for tap, reach in zip(taps, call.reaches, strict=True):
            for block in tap.site.blocks:
                for hook in call.install(transformer, CountedTap(tap, reach, block)):
                    stack.callback(hook.remove)
        yield call.reaches


@dataclass
class _Call:
    """The transformer call under way: what its arguments say of noise level and layout."""

    sides: tuple[int, ...]
    reaches: list[Reach]
    moment: Moment = field(default_factory=lambda: Moment(0.0, (COND,), 0, 0, 0))

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "img_ids")
        given = dict(zip(names, args, strict=False)) | kwargs
        ids = given["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        main = ids[ids[:, 0] == 0]  # reference latents are counted from 1
        rows, columns = (int(main[:, axis].max()) + 1 for axis in (1, 2))
        sigma = float(torch.as_tensor(given["timestep"]).flatten()[0])
        self.moment = Moment(sigma, self.sides, given["encoder_hidden_states"].shape[1], 2 * rows, 2 * columns)

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for reach in self.reaches:
            reach.call()

    def install(self, transformer: Transformer, tap: CountedTap) -> list[Any]:
        """Handles of the hooks of one block."""
        return _install(transformer, tap, self)


def _install(transformer: Transformer, tap: CountedTap, call: _Call) -> list[Any]:
    site = tap.site
    stack = transformer.transformer_blocks if site.kind == "double" else transformer.single_transformer_blocks
    module = stack[tap.block]
    hooks = [module.register_forward_pre_hook(lambda module, args: tap.enter(call.moment.sigma))]
    if site.point == "attn":
        change = _change_attention(tap, call) if site.kind == "double" else _change_joint(tap, call)
        return [*hooks, module.attn.register_forward_hook(change)]
    if site.point in ("mlp", "transcoder"):
        feed_forward = module.ff if site.stream == "image" else module.ff_context
        return [*hooks, feed_forward.register_forward_hook(_change_one_stream(tap, call))]
    if site.point == "input":
        return [*hooks, module.register_forward_pre_hook(_change_input(tap, call), with_kwargs=True)]
    inputs: dict[str, Tensor] = {}
    hooks.append(module.register_forward_hook(_change_block(tap, call, inputs)))
    if site.point == "update":
        hooks.insert(0, module.register_forward_pre_hook(_keep_inputs(inputs), with_kwargs=True))
    return hooks


_STREAMS = ("hidden_states", "encoder_hidden_states")  # a block's first arguments: the picture, the text


def _change_input(tap: Tap, call: _Call) -> Callable[..., Any]:
    """What a block is given: picture and text, or one tensor with the text first (single blocks before 0.35)."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(_STREAMS, args, strict=False)) | kwargs
        image, text = given["hidden_states"], given.get("encoder_hidden_states")
        if text is None:
            changed = {"hidden_states": tap_tokens(tap, image, call.moment)}
        elif tap.site.stream == "image":
            changed = {"hidden_states": tap_image(tap, image, call.moment)}
        elif tap.site.stream == "text":
            changed = {"encoder_hidden_states": tap_text(tap, text, call.moment)}
        else:
            joint = tap_tokens(tap, torch.cat([text, image], dim=1), call.moment)
            parts = joint[:, text.shape[1] :], joint[:, : text.shape[1]]
            changed = dict(zip(_STREAMS, parts, strict=True))
        placed = tuple(changed.pop(name, value) for name, value in zip(_STREAMS, args, strict=False))
        return (*placed, *args[len(_STREAMS) :]), kwargs | changed

    return hook


def _keep_inputs(inputs: dict[str, Tensor]) -> Callable[..., None]:
    """Blocks may write in place, so their inputs are cloned."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(_STREAMS, args, strict=False)) | kwargs
        inputs["image"] = given["hidden_states"].clone()
        text = given.get("encoder_hidden_states")
        if text is not None:
            inputs["text"] = text.clone()

    return hook


def _change_block(tap: Tap, call: _Call, inputs: dict[str, Tensor]) -> Callable[..., Any]:
    """A block's output: (text, image), or one tensor with the text first (single blocks before diffusers 0.35)."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if torch.is_tensor(output):
            return tap_tokens(tap, output, call.moment, inputs.pop("image", None))
        text, image = output
        if tap.site.stream == "image":
            return text, tap_image(tap, image, call.moment, inputs.pop("image", None))
        if tap.site.stream == "text":
            return tap_text(tap, text, call.moment, inputs.pop("text", None)), image
        before = torch.cat([inputs.pop("text"), inputs.pop("image")], dim=1) if inputs else None
        joint = tap_tokens(tap, torch.cat([text, image], dim=1), call.moment, before)
        return joint[:, : text.shape[1]], joint[:, text.shape[1] :]

    return hook


def _change_attention(tap: Tap, call: _Call) -> Callable[..., Any]:
    """An attention's (image, text); what IP-Adapters add to the picture is a value of its own and passes through."""

    def hook(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        image, text, *adapters = output
        if tap.site.stream == "image":
            return tap_image(tap, image, call.moment), text, *adapters
        return image, tap_text(tap, text, call.moment), *adapters

    return hook


def _change_joint(tap: Tap, call: _Call) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return tap_tokens(tap, output, call.moment)

    return hook


def _change_one_stream(tap: Tap, call: _Call) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        change = tap_image if tap.site.stream == "image" else tap_text
        return change(tap, output, call.moment, args[0] if tap.site.point == "transcoder" else None)

    return hook


FAMILY = "FLUX.1"


@dataclass(frozen=True)
class DiffusersModel:
    """The `Host` of a FluxTransformer2DModel or a UNet2DConditionModel."""

    transformer: Transformer

    @property
    def family(self) -> Family:
        name = family_name(self.transformer) if is_unet(self.transformer) else FAMILY
        family = family_named(name)
        if family is None:
            raise LookupError(f"no row for {name}")
        return family

    @property
    def depth(self) -> Depth:
        return depth_of(self.transformer)

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(self.family.name)

    def members(self, sae: AnySae, location: str, stream: str) -> list[Member]:
        members, family, depth = members_at(sae, location, stream), self.family, self.depth
        check_sites(sae, members, family, depth)
        return [self._in_unet(member) for member in members] if family.is_unet else members

    def _in_unet(self, member: Member) -> Member:
        """By diffusers' names; ValueError for an SAE of another width than that of its place."""
        site, sae, depth = self.family.place(member.site, self.depth), member.sae, self.depth
        width = depth.width(site.kind, site.blocks)
        if width != sae.d_in:
            raise ValueError(
                f"sae: {sae.name} was trained on activations of width {sae.d_in}, but at {site.location} this model "
                f"has width {width}; use an SAE that was trained on this model."
            )
        return replace(member, site=site)

    @contextmanager
    def showing(
        self, places: Sequence[tuple[Site, SparseAutoencoder | None]], sees: Sequence[See]
    ) -> Iterator[Transformer]:
        with ExitStack() as stack:
            for (site, _), see in zip(places, sees, strict=True):
                stack.enter_context(capture(self.transformer, site, see))
            yield self.transformer

    @contextmanager
    def steering(self, interventions: Sequence[Intervention]) -> Iterator[SteeringResult]:
        with steer(self.transformer, interventions) as record:
            yield SteeringResult(self.transformer, record.summary)
