"""python -m sae compare"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..formats import load
from ..training.card import comparison
from .evaluate import VALUES, measure, settings_for
from .train_settings import add_flags, read_settings
from .train_sources import build_source

HELP = "Measures two SAEs on the same held-out tokens, side by side."


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("one", type=Path, help="a weight file, or a folder with one")
    parser.add_argument("other", type=Path, help="a weight file, or a folder with one")
    add_flags(parser, VALUES)


def run(arguments: Namespace) -> None:
    saes = [load(arguments.one), load(arguments.other)]
    given = Namespace(**{name: getattr(arguments, name) for name in VALUES})
    settings = settings_for(saes, read_settings(given), asked=given.sites is not None)
    source = build_source(settings)
    one, other = (measure(sae, source, settings) for sae in saes)
    print(comparison(one, other))
