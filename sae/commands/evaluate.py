"""python -m sae evaluate, and compare"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats import load
from ..places.moment import OnProgress, OnStep
from ..places.site import Site
from ..training.card import Card, comparison, evaluate_sae
from ..training.collect import Collection
from ..training.source import Model, ModelSource, Source
from . import Command
from .inspect import add_architecture
from .sae_report import held_out_tokens, measured_card, table, write_card
from .train_settings import Settings, add_flags, read_settings
from .train_sources import build_source, site_name

HELP = "Measures an SAE on held-out tokens: explained variance, L0, dead features, what it is worth to the model."
MEASURED = "measured"  # the site's name in a source of one place
VALUES = (
    "source", "sites", "model", "prompts", "data", "steps_a_picture", "side", "share", "seed", "device",
    "held_out_tokens", "tried_features",
)  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a weight file, or a folder with one")
    parser.add_argument("--out", type=Path, help="folder for README.md, report.json and charts")
    add_flags(parser, VALUES)
    add_architecture(parser)


def run(arguments: Namespace) -> None:
    sae = load(arguments.path, architecture=arguments.architecture)
    given = Namespace(**{name: getattr(arguments, name) for name in VALUES})
    settings = settings_for([sae], read_settings(given), asked=given.sites is not None)
    card = measure(sae, build_source(settings), settings)
    print(table(card))
    if arguments.out is not None:
        write_card(card, arguments.out)
        print(f"Wrote the report into {arguments.out}.")


class Stepping(Model, Protocol):
    """A model that tells of its steps."""

    steps: int  # of a run
    on_step: OnStep


def measuring_source(model: Stepping, site: Site, tokens: int, seed: int, on_progress: OnProgress) -> ModelSource:
    """Of one place, with so many tokens spread over several runs; `on_progress` hears of each step from now on."""
    collection = Collection(model, {MEASURED: site}, tokens, seed)
    source, runs, done = collection.source, collection.one.runs(tokens), 0.0

    def on_step(part: float, preview: Any) -> None:
        nonlocal done
        done += 1 / model.steps
        on_progress(min(done, runs), runs, preview)

    model.on_step = on_step
    return source


def settings_for(saes: Sequence[SparseAutoencoder], settings: Settings, asked: bool) -> Settings:
    """The settings with the SAEs' own sites, unless sites were asked for."""
    own = dict.fromkeys(f"{sae.site.location}:{sae.site.stream}" for sae in saes if sae.site is not None)
    return settings if asked or not own else settings.at(*own)


def measure(sae: SparseAutoencoder, source: Source, settings: Settings) -> Card:
    """The report on an SAE at the one place of a source that fits it. ValueError where none or several do."""
    name = site_name(source, sae)
    chunk = source.held_out(0)[name]
    if chunk.tokens.shape[1] != sae.d_in:
        raise ValueError(
            f"sae: {sae.name} reads activations of width {sae.d_in}, but {name} has {chunk.tokens.shape[1]}; give "
            "the place and the model that it was trained on."
        )
    fit, statistics = evaluate_sae(sae, held_out_tokens(source, name, settings.held_out_tokens))
    placed = sae if source.sites[name] is None else sae.at(source.sites[name])
    return measured_card(placed, sae.name, fit, statistics, source, settings.tried_features)


def _add_compare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("one", type=Path, help="a weight file, or a folder with one")
    parser.add_argument("other", type=Path, help="a weight file, or a folder with one")
    add_flags(parser, VALUES)


def _compare(arguments: Namespace) -> None:
    saes = [load(arguments.one), load(arguments.other)]
    given = Namespace(**{name: getattr(arguments, name) for name in VALUES})
    settings = settings_for(saes, read_settings(given), asked=given.sites is not None)
    source = build_source(settings)
    one, other = (measure(sae, source, settings) for sae in saes)
    print(comparison(one, other))


COMPARE = Command("Measures two SAEs on the same held-out tokens, side by side.", _add_compare_arguments, _compare)
