"""Finding, contrasting and steering with whatever is at hand: a MODEL of ComfyUI, diffusers' transformer, an embedding.

What the front door offers (`sae/__init__.py`). Each host's own module has more: several steerings at once, controls,
other schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.contrast import Side, Way
from ..dictionary.sae_set import AnySae, Member, SaeSet
from ..embeddings.editing import check_embedding, embedding_record, steer_tokens
from ..finding.concept import Concept
from ..finding.contrasted import contrasted, contrasted_tokens
from ..finding.features import (
    FeatureReader,
    FeatureTally,
    RankBy,
    RankedFeature,
    feature_list,
    feature_table,
    rank_features,
    tally_tokens,
)
from ..finding.two_sides import Runs
from ..places.moment import OnStep, Schedule, unheard
from ..places.moment import Side as GuidanceSide
from ..places.named_choices import first_text, sites_of
from ..steering.delta import Steering
from ..steering.set_up import SetUp, Wanted
from .diffusers_unet import is_unet
from .host import Host, Model, See, SteeringResult

Run = Callable[[Model], object]  # draws once with the model that it is given; what it returns is not looked at
EMBEDDING = "embedding"  # what a place is called where there is none


def host_of(model: Model) -> Host:
    """ValueError for what is neither a MODEL of ComfyUI nor a transformer or UNet of diffusers."""
    if isinstance(model, nn.Module) and (hasattr(model, "single_transformer_blocks") or is_unet(model)):
        from .diffusers import DiffusersModel

        return DiffusersModel(model)
    if hasattr(model, "model_options") and hasattr(model, "clone"):
        from .comfyui.steering import ComfyuiModel

        return ComfyuiModel(model)
    raise ValueError(
        f"model: {type(model).__name__} came; give a MODEL of ComfyUI, or diffusers' FluxTransformer2DModel or "
        "UNet2DConditionModel, which are a pipeline's `transformer` or `unet`."
    )


def find(
    sae: AnySae, wanted: Tensor | Run, instead_of: Tensor | Run | None = None, *, model: Model = None,
    location: str = "auto", stream: str = "auto", count: int = 10, by: RankBy = "mean",
) -> Concept:  # fmt: skip
    """The features that fire most for what is `wanted`, or more than for the other side, and the reverse.

    Embeddings are given as tensors, (batch, width) or (batch, tokens, width). Of a model each side is a callable that
    draws with what it is given, as in `lambda model: pipeline(prompt)`; it is run once, while the SAE reads at its own
    place or where `location` and `stream` say. `count` features are listed at most, of a set at each place.
    Raises ValueError where nothing fires, and for an SAE that does not fit.

    >>> import sae, torch
    >>> blue, red = torch.eye(8)[None, :2], torch.eye(8)[None, 2:4]  # (1, 2 tokens, 8 wide)
    >>> dictionary = sae.contrast([blue, blue * 1.1], [red, red * 1.1]).sae
    >>> found = sae.find(dictionary, blue, red)
    >>> [edit.feature for edit in found.features], [edit.feature for edit in found.replaces]
    ([0], [1])
    """
    if isinstance(wanted, Tensor):
        if isinstance(sae, SaeSet):
            raise ValueError(f"sae: {sae.name} is a set, whose SAEs read a model's blocks; give one SAE of embeddings.")
        members = [Member(sae, 0, sae.site)] if sae.site else []
        here, there = _tallies_of(sae, wanted), None if instead_of is None else _tallies_of(sae, instead_of)
        firsts = [0]
    else:
        host = host_of(model)
        members = host.members(sae, location, stream)
        here, there = _heard(host, members, wanted), None if instead_of is None else _heard(host, members, instead_of)
        firsts = [member.first for member in members]
    gained = _ranked(here, there, firsts, by, count)
    lost = [] if there is None else _ranked(there, here, firsts, by, count)
    if not gained:
        raise ValueError(
            f"sae: no feature of {sae.name} fires {'at all' if there is None else 'more'} for what is wanted; check "
            "that the SAE belongs to this model and place."
        )
    places = (
        {row.feature: str(sae.member_of(row.feature).site) for row in (*gained, *lost)}
        if isinstance(sae, SaeSet)
        else None
    )
    tables = [feature_table(gained, "Wanted:", places=places)]
    if lost:
        tables.append(feature_table(lost, "Instead of:", places=places))
    return Concept(sae, feature_list(gained, sae.owner), feature_list(lost, sae.owner), "\n\n".join(tables))


def contrast(
    wanted: Sequence[Tensor] | Sequence[Run], instead_of: Sequence[Tensor] | Sequence[Run], *, model: Model = None,
    location: str = "auto", stream: str = "auto", way: Way = "auto",
) -> Concept:  # fmt: skip
    """A dictionary of two directions without training: what the sides differ in, pair by pair.

    Each side is a sequence of embeddings, (width), (tokens, width) or (1, tokens, width), or of runs of a model as in
    `find`; two pairs or more tell what chance alone gives, and `way` says how they make a
    direction (dictionary/contrast.py). `auto` is the place where a word is steered best: the text's stream as it enters
    the first block. Raises ValueError where the sides differ by no more than chance.

    >>> import sae, torch
    >>> blue, red = torch.eye(8)[:2], torch.eye(8)[2:4]  # (2 tokens, 8 wide)
    >>> concept = sae.contrast([blue, blue * 1.1], [red, red * 1.1])
    >>> concept.sae.d_sae, concept.sae.d_in
    (2, 8)
    """
    if not wanted or len(wanted) != len(instead_of):
        raise ValueError(
            f"wanted, instead_of: {len(wanted)} and {len(instead_of)} came; as many of each are needed, at least one."
        )
    told: dict[Side, tuple[str, ...]] = {"positive": ("wanted",), "negative": ("instead of",)}
    if isinstance(wanted[0], Tensor):
        sides: dict[Side, list[Tensor]] = {
            "positive": [_tokens(x) for x in wanted],
            "negative": [_tokens(x) for x in instead_of],
        }
        found = contrasted_tokens(sides, EMBEDDING, told, way=way)
    else:
        host = host_of(model)
        sites = sites_of(host.family, host.depth, location, stream, first_text)
        runs: dict[Side, list[Run]] = {"positive": [_run(run) for run in wanted]}
        runs["negative"] = [_run(run) for run in instead_of]

        def show(side: Side, run: int, sees: Sequence[See], on_step: OnStep) -> None:
            with host.showing([(site, None) for site in sites], sees) as shown:
                runs[side][run](shown)

        count = len(wanted)
        found = contrasted(host.trained_on, sites, show, Runs(count, count, True, 1, way), told, unheard)
    return Concept(found.sae, found.features("positive"), found.features("negative"), found.table)


@contextmanager
def steer(
    what: Tensor | Model, steering: SetUp | Steering, *, location: str = "auto", stream: str = "auto",
    start_percent: float = 0.0, end_percent: float = 1.0, side: GuidanceSide = "both", mask: Tensor | None = None,
) -> Iterator[SteeringResult]:  # fmt: skip
    """Steers an embedding, or every run of a model inside the `with` block.

    `result` of what it gives is the steered embedding, in its dtype and on its device; or the model to draw with: of
    diffusers the transformer itself, which has hooks until the block ends, in ComfyUI a clone, which stays steered.
    `location` and `stream` say where, else the SAE's own site does; the schedule goes from `start_percent` to
    `end_percent` of a run, 0 to 1; `mask`, (batch, height, width) in 0..1, says where on the picture. These are for
    models alone. Raises ValueError for places that the model lacks and for SAEs of another width or family.

    >>> import sae, torch
    >>> blue, red = torch.eye(8)[None, :2], torch.eye(8)[None, 2:4]  # (1, 2 tokens, 8 wide)
    >>> concept = sae.contrast([blue, blue * 1.1], [red, red * 1.1])
    >>> with sae.steer(red, concept.steering()) as steered:
    ...     toward = torch.cosine_similarity(steered.result, blue.mean(1, keepdim=True), dim=-1)
    >>> bool((toward > 0.5).all())
    True
    """
    if isinstance(what, Tensor):
        if (location, stream, start_percent, end_percent, side) != (
            "auto",
            "auto",
            0.0,
            1.0,
            "both",
        ) or mask is not None:
            raise ValueError("location, stream, schedule, side, mask: an embedding has none of these; leave them out.")
        yield _embedding(what, steering)
        return
    if isinstance(steering, Steering):
        wanted = Wanted(
            steering.edits, steering.method, steering.strength, steering.unit, steering.replaces, gate=steering.gate
        )
        steering = SetUp(steering.sae, wanted)  # type: ignore[arg-type]  # directions that are no SAE stand at a site too
    schedule = Schedule(start_percent, end_percent)
    wanted = replace(steering.wanted, schedule=schedule, side=side, mask=mask)
    host = host_of(what)
    planned = wanted.at(steering.sae, host.members(steering.sae, location, stream))
    with host.steering(planned.interventions) as steered:
        yield steered


def _embedding(x: Tensor, steering: SetUp | Steering) -> SteeringResult:
    if isinstance(steering, SetUp):
        if isinstance(steering.sae, SaeSet):
            raise ValueError(
                f"steering: {steering.sae.name} is a set of places in a model; an embedding needs one SAE."
            )
        wanted = steering.wanted
        steering = Steering(
            steering.sae, wanted.features, wanted.method, wanted.strength, wanted.unit, wanted.replaces, wanted.gate
        )
    check_embedding(x, EMBEDDING)
    record = embedding_record()
    steered = steer_tokens(x if x.ndim == 3 else x.unsqueeze(1), steering, record)
    return SteeringResult(steered if x.ndim == 3 else steered.squeeze(1), record.summary)


def _tokens(x: Any) -> Tensor:
    """(tokens, width)."""
    if not isinstance(x, Tensor) or x.ndim > 3 or (x.ndim == 3 and len(x) != 1):
        came = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"wanted, instead_of: {came} came; one embedding each is needed, (tokens, width).")
    return x.reshape(-1, x.shape[-1])


def _run(run: Tensor | Run) -> Run:
    if isinstance(run, Tensor) or not callable(run):
        raise ValueError(f"wanted, instead_of: {type(run).__name__} came; give callables that draw with the model.")
    return run


def _tallies_of(sae: SparseAutoencoder, x: Tensor | Run) -> list[FeatureTally]:
    if not isinstance(x, Tensor):
        raise ValueError("instead_of: a run came, but what is wanted is an embedding; give an embedding.")
    check_embedding(x, EMBEDDING)
    return [tally_tokens(sae, x if x.ndim == 3 else x.unsqueeze(1))]


def _heard(host: Host, members: Sequence[Member], run: Tensor | Run) -> list[FeatureTally]:
    readers = [FeatureReader(member.sae, member.site) for member in members]
    with host.showing([(member.site, member.sae) for member in members], readers) as shown:
        _run(run)(shown)
    return [reader.tally for reader in readers]


def _ranked(
    here: Sequence[FeatureTally], there: Sequence[FeatureTally] | None, firsts: Sequence[int], by: RankBy, count: int
) -> list[RankedFeature]:
    found = []
    for place, first in enumerate(firsts):
        rows = rank_features(here[place], by, count, None if there is None else there[place])
        found += [replace(row, feature=first + row.feature) for row in rows]
    return found
