"""python -m sae label"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..dictionary.fingerprint import fingerprint
from ..files.small_json import MOST_BYTES
from ..formats import load
from ..known.labels import labels_from_text, shipped_labels
from .inspect import add_architecture

HELP = "Puts names that somebody wrote, as CSV or JSON, beside an SAE, where ComfyUI's tables and panels find them."


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a weight file, or a folder with one")
    parser.add_argument("names", type=Path, help="CSV with the columns index and name, or JSON such as {'12': 'snow'}")
    add_architecture(parser)


def run(arguments: Namespace) -> None:
    sae = load(arguments.path, architecture=arguments.architecture)
    shipped, mark = shipped_labels(sae), fingerprint(sae)
    if shipped is None:
        raise ValueError(f"path: {arguments.path.name} is no file; give a weight file, or a folder with one.")
    found = labels_from_text(_text(arguments.names), arguments.names.name, mark)
    beyond = next((index for index in found if index >= sae.d_sae), None)
    if beyond is not None:
        raise ValueError(
            f"names: {arguments.names.name} names feature {beyond}, but {sae.name} has 0 to {sae.d_sae - 1}; give the "
            "names of this SAE."
        )
    known = shipped.update(found, mark)
    print(f"{len(found)} names are in {shipped.path.name}, which now has {len(known)}.")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"names: {path.name} is larger than {MOST_BYTES >> 20} MB, which no list of names is.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"names: {path.name} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"names: {path.name} is no text in UTF-8.") from error
