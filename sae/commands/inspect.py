"""python -m sae inspect"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..finding.inspection import describe, report
from ..formats import AUTO, LAYOUT_NAMES, load

HELP = "Says what an SAE file holds: layout, architecture, width, features, site, statistics, fingerprint."


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a weight file, or a folder with one")
    add_architecture(parser)


def add_architecture(parser: ArgumentParser) -> None:
    known = f"auto, or one of {', '.join(LAYOUT_NAMES)}, with :k where the file does not tell k"
    parser.add_argument("--architecture", default=AUTO, metavar="LAYOUT", help=known)


def run(arguments: Namespace) -> None:
    print(report(describe(load(arguments.path, architecture=arguments.architecture))))
