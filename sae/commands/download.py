"""python -m sae list, and download: public SAEs"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from difflib import get_close_matches
from pathlib import Path

from ..formats.known import KNOWN, KnownCheckpoint
from . import Command
from .hub_search import search, table

HELP = "Downloads a public SAE with its config into models/sae; goes on where a download was cut off."
_COMFYUI = Path(__file__).resolve().parents[4]  # where the pack lies in ComfyUI/custom_nodes/<pack>/sae/commands


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="a name that 'python -m sae list' shows")
    parser.add_argument(
        "--folder", type=Path, help="where to put it; by default models/sae of the ComfyUI around this pack"
    )


def run(arguments: Namespace) -> None:
    entry = find(arguments.name)
    folder = arguments.folder or models_folder()
    path = download(entry, folder)
    print(f"{entry.name} is in {path.parent}.")
    print(f"Licence: {entry.licence or f'the repository names none; see {entry.page}'}")


def find(name: str) -> KnownCheckpoint:
    """The entry of that name; ValueError names similar ones."""
    entry = next((entry for entry in KNOWN if entry.name == name), None)
    if entry is None:
        close = get_close_matches(name, [entry.name for entry in KNOWN], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "'python -m sae list' shows them all."
        raise ValueError(f"{name!r} is not a known SAE; {hint}")
    return entry


def models_folder() -> Path:
    """models/sae of the ComfyUI in whose custom_nodes this pack lies; ValueError where there is none."""
    models = _COMFYUI / "models"
    if not (models.is_dir() and (_COMFYUI / "custom_nodes").is_dir()):
        raise ValueError(
            "folder: this pack does not lie inside ComfyUI/custom_nodes; say where to put it with --folder."
        )
    return models / "sae"


def download(entry: KnownCheckpoint, folder: Path) -> Path:
    """Fetches weights and config into `folder`/<name>; returns the weights' path. ValueError when that fails."""
    if entry.file is None:
        raise ValueError(f"{entry.name}: which of its files to take is not known to us; choose one at {entry.page}.")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError("downloading needs huggingface_hub; install it with: pip install huggingface_hub") from error
    files = [file for file in (entry.config, entry.file) if file is not None]  # the weights come last
    try:
        return [Path(hf_hub_download(entry.repository, file, local_dir=folder / entry.name)) for file in files][-1]
    except (OSError, RuntimeError, ValueError) as error:  # the Hub's own errors are kinds of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{entry.name} could not be downloaded from {entry.page} ({reason}).") from error


def _add_list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the table of the help page")
    parser.add_argument(
        "--search", action="store_true", help="ask the Hugging Face Hub for others, which needs network"
    )
    parser.add_argument("--for", dest="model", default="", help="with --search: only those that fit, such as Qwen3-8B")


def _list(arguments: Namespace) -> None:
    if arguments.search:
        print(table(search(), arguments.model))
        return
    print(markdown() if arguments.markdown else text())


def text() -> str:
    width = max(len(entry.name) for entry in KNOWN)
    return "\n".join(f"{entry.name:<{width}}  {entry.model}: {_place(entry)}" for entry in KNOWN)


def markdown() -> str:
    """The table of public SAEs, one row each."""
    head = "| name | model | place | width | features | layout | licence |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *map(_row, KNOWN)])


def _row(entry: KnownCheckpoint) -> str:
    place = _place(entry) + (f" ({entry.note})" if entry.note else "")
    cells = [entry.model, place, f"{entry.d_in:,}", f"{entry.d_sae:,}", entry.layout, entry.licence or "none named"]
    return f"| [{entry.name}]({entry.page}) | {' | '.join(cells)} |"


def _place(entry: KnownCheckpoint) -> str:
    return f"{entry.location}, {entry.stream}" if entry.stream else entry.location


LIST = Command("Lists public SAEs of image models that this pack reads.", _add_list_arguments, _list)
