"""Is an SAE that one command trains as good as the one that ships? python -m lab.evidence.trained

Runs `python -m sae train` with docs/training-shapes.toml and docs/training-kandinsky.toml, and prints for each:
seconds, seconds of processors, explained variance on held-out tokens, and how often it steers strictly, by the judge,
prompts and seeds of the evidence, beside the shipped SAE. Pictures for the Kandinsky's SAE are drawn beforehand. With
--saes it trains none and judges those, such as the nodes made (by_nodes.py).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sae.demo.shapes import training_prompts
from sae.demo.shipped_weights import TEXT_SAE
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.drawing.pictures import to_image
from sae.formats import load

from ..kandinsky.losses import drawings
from ..kandinsky.settings import BEST as BEST_SETTING
from ..kandinsky.settings import SETTINGS
from .measure import Measurement, embed_table
from .rows import BEST, Row
from .tables import Line

ROOT = Path(__file__).parents[2]
TEXT_ROW = Row("text", "swap", BEST, random=True)
DRAWINGS_SEED = 5


def draw_pictures(folder: Path, count: int) -> None:
    """`count` new drawings of each training prompt, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, prompts = torch.Generator().manual_seed(DRAWINGS_SEED), training_prompts()
    for number in range(count):
        for place, picture in enumerate(drawings(prompts, generator)):
            to_image(picture).save(folder / f"{place:03}-{number:03}.png")


def config_of(name: str) -> Path:
    """The file of values for the FLUX's SAE (shapes) or the Kandinsky's."""
    return ROOT / "docs" / f"training-{name}.toml"


def train(config: Path, out: Path, more: Sequence[str]) -> tuple[Path, str]:
    """The weights that the command makes, and what it took, in words."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "sae", "train", str(config), "--out", str(out), *more]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    [weights] = out.glob("*/model.safetensors")
    return weights, f"{seconds:.0f} s, {busy:.0f} s of processors"


def explained_variance(weights: Path) -> float:
    """Of held-out tokens, from the report that training wrote beside the weights."""
    report = json.loads((weights.parent / "report.json").read_text(encoding="utf-8"))
    return float(report["fit"]["explained_variance"])


def text_lines(pictures: int, sae: SparseAutoencoder | None) -> list[Line]:
    """Changes of colour in the FLUX's text stream; of the shipped SAE where none is given."""
    return Measurement({} if sae is None else {TEXT_SAE: sae}).table("colour", [TEXT_ROW], pictures).lines[2:]


def embed_lines(pictures: int, sae: SparseAutoencoder | None) -> list[Line]:
    """The same of the small Kandinsky's embeddings: blended, and swapped at a fixed level."""
    return embed_table(pictures, sae, SETTINGS[BEST_SETTING : BEST_SETTING + 2]).lines[2:]


MEASURED: dict[str, Callable[[int, SparseAutoencoder | None], list[Line]]] = {
    "shapes": text_lines,
    "kandinsky": embed_lines,
}


def judge(name: str, which: str, sae: SparseAutoencoder | None, pictures: int) -> None:
    """Prints how often an SAE steers strictly; the shipped one where none is given."""
    for line in MEASURED[name](pictures, sae):
        score, random = line.score, line.random
        control = "" if random is None else f", a random direction {random.share(random.strict):.1%}"
        strict = f"strict on {score.share(score.strict):.1%} of {score.pictures} pictures"
        print(f"{name}, {which}, {line.what}: {strict}{control}", flush=True)


def _train(name: str, given: argparse.Namespace) -> Path:
    """Trains as the command does, and says what it took."""
    folder = given.folder.resolve()
    flags = ["--seed", str(given.seed), *given.flags]
    if name == "kandinsky":
        pictures = folder / "pictures" if given.data is None else given.data.resolve()
        if given.data is None:
            draw_pictures(pictures, given.drawings)
        flags += ["--data", str(pictures)]
    weights, words = train(config_of(name), folder / f"{name}-{given.seed}", flags)
    print(f"{name}: {words}", flush=True)
    return weights


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if name not in MEASURED or not path:
        raise argparse.ArgumentTypeError(f"{text!r} came; give shapes=WEIGHTS or kandinsky=WEIGHTS")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60, help="that are steered, spread over 30 changes of colour")
    parser.add_argument("--drawings", type=int, default=10, help="of each training prompt, for the Kandinsky's SAE")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only draws these pictures")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with pictures that --draw made; none are drawn")
    parser.add_argument("--only", choices=tuple(MEASURED))
    parser.add_argument("--saes", type=_named, nargs="+", metavar="NAME=WEIGHTS", help="shapes=… kandinsky=…")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--folder", type=Path, default=Path("runs/trained"), help="for what is trained, which is new")
    parser.add_argument("flags", nargs="*", help="further ones for the command, after --")
    given = parser.parse_args()
    if given.draw is not None:
        draw_pictures(given.draw, given.drawings)
        return
    if given.saes is None:
        saes = [(name, _train(name, given)) for name in MEASURED if given.only in (None, name)]
    else:
        saes = given.saes
    for name, weights in saes:
        print(f"{name}: {weights} has explained variance {explained_variance(weights):.4f}", flush=True)
        judge(name, str(weights), load(weights), given.pictures)
    for name in dict.fromkeys(name for name, _ in saes):
        judge(name, "shipped", None, given.pictures)


if __name__ == "__main__":
    main()
