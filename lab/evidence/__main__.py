"""python -m lab.evidence: measures steering on the Shapes models against its controls; writes docs/evidence.md.

Features come from TopActivatingFeatures' way of finding them, with one prompt of each word against one of another word
as baseline, and from nothing else. Pictures are judged by rule (reader.py), prompts are held out. What each part found
is kept in a folder as soon as it is there: with --only the other parts are those of the last run.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sae.demo.shapes import COLOURS, SLOTS
from sae.demo.shipped_weights import ATTENTION_SAE, IMAGE_SAE, TEXT_SAE

from .calibrate import Bench
from .contrast_rows import contrast_section
from .heat import measure_heat
from .measure import Measurement, embed_table
from .name_features import measure_names, name_features
from .report import calibration_section, heat_section, names_section, write_report
from .rows import COLOUR_ROWS, KIND_ROWS
from .tables import Table

log = logging.getLogger(__name__)
Part = Callable[[int], Any]  # takes the pictures of a row; gives what JSON can hold


@cache
def _model() -> Measurement:
    return Measurement()


def _kind(slot: str) -> Part:
    rows = COLOUR_ROWS if slot == "colour" else KIND_ROWS
    return lambda pictures: _model().table(slot, rows, pictures).content()


def _heat() -> str:
    model = _model()
    return heat_section(
        {name: measure_heat(model.transformer, model.saes[name]) for name in (IMAGE_SAE, ATTENTION_SAE)}
    )


def _names() -> str:
    model = _model()
    saes = list(model.saes.values())
    named = name_features(model.transformer, saes)
    return names_section(dict(zip(model.saes, measure_names(model.transformer, saes, named), strict=True)))


def _calibrated() -> str:
    model = _model()
    tallies = {colour: model.found("colour")[colour, 1][TEXT_SAE].tally for colour in COLOURS}
    return calibration_section(Bench(model.transformer, model.decoder, model.saes[TEXT_SAE], tallies).run())


def _contrasts(pictures: int) -> str:
    return contrast_section(_model(), pictures)


PARTS: Mapping[str, Part] = {
    **{slot: _kind(slot) for slot in SLOTS},
    "contrast": _contrasts,
    "kandinsky": lambda pictures: embed_table(pictures).content(),
    "heat": lambda _: _heat(),
    "names": lambda _: _names(),
    "calibrated": lambda _: _calibrated(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300, help="a row, spread over all changes of a kind")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"), help="keeps what each part found")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence.md"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given.folder.mkdir(parents=True, exist_ok=True)
    for part in given.only:
        begun = time.monotonic()
        found = PARTS[part](given.pictures)
        (given.folder / f"{part}.json").write_text(json.dumps(found), encoding="utf-8")
        log.info("%s: %.0f s", part, time.monotonic() - begun)
    missing = [part for part in PARTS if not (given.folder / f"{part}.json").exists()]
    if missing:
        parser.exit(0, f"{given.out} is written once these are measured, too: {', '.join(missing)}.\n")
    found = {part: json.loads((given.folder / f"{part}.json").read_text(encoding="utf-8")) for part in PARTS}
    tables = {part: Table.read(content) for part, content in found.items() if isinstance(content, dict)}
    write_report(tables, [content for content in found.values() if isinstance(content, str)], given.out)
    print(f"Written: {given.out}")


if __name__ == "__main__":
    main()
