"""python -m sae inspect, and convert"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from ..export import TARGETS, export
from ..finding.inspection import describe, report
from ..formats import AUTO, LAYOUT_NAMES, load
from . import Command

HELP = "Says what an SAE file holds: layout, architecture, width, features, site, statistics, fingerprint."
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a weight file, or a folder with one")
    add_architecture(parser)


def add_architecture(parser: ArgumentParser) -> None:
    known = f"auto, or one of {', '.join(LAYOUT_NAMES)}, with :k where the file does not tell k"
    parser.add_argument("--architecture", default=AUTO, metavar="LAYOUT", help=known)


def run(arguments: Namespace) -> None:
    print(report(describe(load(arguments.path, architecture=arguments.architecture))))


def _add_convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a weight file, or a folder with one")
    parser.add_argument("folder", type=Path, help="where to write; a folder that holds no other checkpoint")
    parser.add_argument("--to", default=TARGETS[0], choices=TARGETS, help="the layout to write (%(default)s)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="the type to store the weights in; as they are stored")
    add_architecture(parser)


def _convert(arguments: Namespace) -> None:
    sae = load(arguments.source, architecture=arguments.architecture)
    written = export(sae, arguments.folder, arguments.to, DTYPES.get(arguments.dtype))
    print(f"Wrote {written}: {sae}.")


CONVERT = Command(
    "Writes an SAE in another layout, with the same codes and reconstructions.", _add_convert_arguments, _convert
)
