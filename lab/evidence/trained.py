"""Is an SAE that one command trains as good as the one that ships? python -m lab.evidence.trained

Runs `python -m sae train` with docs/training-shapes.toml and docs/training-kandinsky.toml, and prints for each:
seconds, seconds of processors, explained variance on held-out tokens, and how often it steers strictly, by the judge,
prompts and seeds of the evidence, beside the shipped SAE. Pictures for the Kandinsky's SAE are drawn beforehand.
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

from sae.demo.files import TEXT_SAE
from sae.demo.shapes import training_prompts
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.drawing.pixels import to_image
from sae.formats import load

from ..kandinsky.losses import drawings
from ..kandinsky.settings import BEST as BEST_SETTING
from ..kandinsky.settings import SETTINGS
from .kandinsky import embed_table
from .measure import Measurement
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


def train(config: Path, out: Path, more: Sequence[str]) -> tuple[SparseAutoencoder, str]:
    """The SAE that the command makes, and what it took and measured, in words."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "sae", "train", str(config), "--out", str(out), *more]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    [report] = out.glob("*/report.json")
    explained = json.loads(report.read_text(encoding="utf-8"))["fit"]["explained_variance"]
    told = f"{seconds:.0f} s, {busy:.0f} s of processors, explained variance {explained:.4f}"
    return load(report.parent / "model.safetensors"), told


def text_lines(pictures: int, sae: SparseAutoencoder | None) -> list[Line]:
    """Changes of colour in the FLUX's text stream; of the shipped SAE where none is given."""
    return Measurement({} if sae is None else {TEXT_SAE: sae}).table("colour", [TEXT_ROW], pictures).lines[2:]


def embed_lines(pictures: int, sae: SparseAutoencoder | None) -> list[Line]:
    """The same of the small Kandinsky's embeddings: blended, and swapped at a fixed level."""
    return embed_table(pictures, sae, SETTINGS[BEST_SETTING : BEST_SETTING + 2]).lines[2:]


def told(name: str, line: Line) -> str:
    score, random = line.score, line.random
    control = "" if random is None else f", a random direction {random.share(random.strict):.1%}"
    return f"{name}, {line.what}: strict on {score.share(score.strict):.1%} of {score.pictures} pictures{control}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60, help="that are steered, spread over 30 changes of colour")
    parser.add_argument("--drawings", type=int, default=10, help="of each training prompt, for the Kandinsky's SAE")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only draws these pictures")
    parser.add_argument("--only", choices=("shapes", "kandinsky"))
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--folder", type=Path, default=Path("runs/trained"), help="for what is trained, which is new")
    parser.add_argument("flags", nargs="*", help="further ones for the command, after --")
    given = parser.parse_args()
    if given.draw is not None:
        draw_pictures(given.draw, given.drawings)
        return
    folder = given.folder.resolve()
    more = ["--seed", str(given.seed), *given.flags]
    measured: dict[str, Callable[[int, SparseAutoencoder | None], list[Line]]] = {
        "shapes": text_lines,
        "kandinsky": embed_lines,
    }
    for name, measure in measured.items():
        if given.only not in (None, name):
            continue
        flags = list(more)
        if name == "kandinsky":
            draw_pictures(folder / "pictures", given.drawings)
            flags += ["--data", str(folder / "pictures")]
        out = folder / f"{name}-{given.seed}"
        sae, words = train(ROOT / "docs" / f"training-{name}.toml", out, flags)
        print(f"{name}: {words}", flush=True)
        for which, one in (("trained", sae), ("shipped", None)):
            for line in measure(given.pictures, one):
                print(told(f"{name}, {which}", line), flush=True)


if __name__ == "__main__":
    main()
