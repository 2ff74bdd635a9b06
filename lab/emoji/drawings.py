"""The drawings: what each is called, in which style, and how it looks: python -m lab.emoji.drawings --folder F.

Draws the SVGs that lab.emoji.fetch brought, once, at 128 px on white. Needs the package resvg-py.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .emoji_words import SKIN_TONES, split_words
from .fetch import NAMES, PACKAGES, package_folder

SIZE = 128  # pixels, both sides
HELD_OUT = 12  # one in so many combinations of name and style
FLAGS, COMPONENTS = "flags", "component"  # groups that are left out
LETTERS = ("keycap", "alphanum")  # subgroups that are left out
COUNTED = "family:"  # names that say how many of a kind, which a bag of words does not; left out


@dataclass(frozen=True)
class Drawing:
    """One picture's name. `base` is the name without its skin tone, `words` the name's, without the style."""

    style: str
    name: str
    base: str
    group: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    tone: str | None

    @property
    def gender(self) -> str | None:
        """The first of man, woman, person in the name."""
        return next((word for word in self.words if word in ("man", "woman", "person")), None)

    @property
    def held_out(self) -> bool:
        """True for the combinations of name and style that training never sees."""
        digest = hashlib.sha256(f"{self.name}, {self.style}".encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT == 0


def read_names(folder: Path) -> dict[str, dict[str, Any]]:
    """By code points, without flags, letters, components and names of two skin tones: fields of Drawing, but style."""
    english = package_folder(folder, NAMES) / "en"
    messages = json.loads((english / "messages.json").read_text(encoding="utf-8"))
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    letters = {part["order"] for part in messages["subgroups"] if part["key"] in LETTERS}
    names: dict[str, dict[str, Any]] = {}
    for entry in json.loads((english / "data.json").read_text(encoding="utf-8")):
        group = groups.get(entry.get("group"), COMPONENTS)
        if group in (FLAGS, COMPONENTS) or entry.get("subgroup") in letters or entry["label"].startswith(COUNTED):
            continue
        tags = tuple(dict.fromkeys(word for tag in entry.get("tags", []) for word in split_words(tag)))
        for variant in (entry, *entry.get("skins", [])):
            tone = variant.get("tone")
            if isinstance(tone, list):
                continue
            names[_code(variant["hexcode"])] = {
                "name": variant["label"],
                "base": entry["label"],
                "group": group,
                "words": tuple(split_words(variant["label"])),
                "tags": tags,
                "tone": None if tone is None else SKIN_TONES[tone - 1],
            }
    return names


def _code(points: str) -> str:
    """Code points as both packages may write them, without the mark that asks for a coloured picture."""
    return "-".join(point.zfill(4).upper() for point in points.split("-") if point.upper() != "FE0F")


def read_svgs(folder: Path) -> Iterator[tuple[Drawing, str]]:
    names = read_names(folder)
    for style, package in PACKAGES.items():
        source = package_folder(folder, package)
        icons = json.loads((source / "icons.json").read_text(encoding="utf-8"))
        codes = json.loads((source / "chars.json").read_text(encoding="utf-8"))
        seen: set[str] = set()
        for code, icon in codes.items():
            fields, drawn = names.get(_code(code)), icons["icons"].get(icon)
            if fields is None or drawn is None or fields["name"] in seen:
                continue
            seen.add(fields["name"])
            box = [drawn.get(key, icons.get(key, 0)) for key in ("left", "top", "width", "height")]
            yield Drawing(style=style, **fields), _svg(drawn["body"], box)


def _svg(body: str, box: list[float]) -> str:
    view = " ".join(map(str, box))
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} viewBox="{view}" width="{SIZE}" height="{SIZE}">{body}</svg>'


def rasterize(svg: str) -> np.ndarray:
    """(128, 128, 3) uint8, on white."""
    import resvg_py

    encoded = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white"))
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(
        picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS) if picture.size != (SIZE, SIZE) else picture
    )


def write_drawings(folder: Path) -> int:
    """Draws everything into `folder`/drawings.npy and .json; returns how many."""
    found = list(read_svgs(folder))
    pictures = np.stack([rasterize(svg) for _, svg in tqdm(found, desc="Drawing")])
    np.save(folder / "drawings.npy", pictures)
    rows = [asdict(drawing) for drawing, _ in found]
    (folder / "drawings.json").write_text(json.dumps(rows), encoding="utf-8")
    return len(found)


def load_drawings(folder: Path) -> tuple[list[Drawing], Tensor]:
    """Drawings and their pixels (n, 128, 128, 3) uint8."""
    rows = json.loads((folder / "drawings.json").read_text(encoding="utf-8"))
    drawings = [Drawing(**row | {key: tuple(row[key]) for key in ("words", "tags")}) for row in rows]
    return drawings, torch.from_numpy(np.load(folder / "drawings.npy"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the folder of lab.emoji.fetch")
    print(write_drawings(parser.parse_args().folder), "drawings")


if __name__ == "__main__":
    main()
