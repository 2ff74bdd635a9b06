"""A gallery: small pictures on which each feature of an SAE fires most, and where on them.

Features share their pictures, so that a few hundred serve tens of thousands of features. One safetensors file: the
pictures as they are encoded, one after the other, and for each feature that has any their numbers, how strongly the
feature fires there, and the spot. Format 1; the metadata tells format, version, owner and the pictures' prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..dictionary.owner import Owner
from ..files.quote import quoted
from ..files.safetensors_file import write_whole
from ..files.whole import locked
from .labels import Label, search

FORMAT, VERSION = "sae-steering gallery", "1"
SUFFIX = ".gallery.safetensors"  # beside a checkpoint
EACH = 3  # pictures of a feature
MOST_PICTURES = 400
MOST_BYTES = 20_000  # of one encoded picture
LONGEST_PROMPT = 200
MOST_FILE = 64 * 2**20
_TYPES = {
    **dict.fromkeys(("features", "which"), torch.int32),
    "strength": torch.float32,
    "spot": torch.float16,
    "pictures": torch.uint8,
    "ends": torch.int64,
}
_SHAPES = {"which": (EACH,), "strength": (EACH,), "spot": (EACH, 2)}


class Shown(NamedTuple):
    """One picture of a feature."""

    picture: int
    strength: float
    spot: tuple[float, float] | None  # down and across, as fractions of the picture


@dataclass
class Gallery:
    """Pictures (WebP) with their prompts, and of each feature those on which it fires most, the best first."""

    d_sae: int
    pictures: list[bytes] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    which: Tensor = field(init=False)  # (d_sae, EACH) int64, -1 for none
    strength: Tensor = field(init=False)  # (d_sae, EACH)
    spot: Tensor = field(init=False)  # (d_sae, EACH, 2), NaN where it is not known

    def __post_init__(self) -> None:
        self.which = torch.full((self.d_sae, EACH), -1)
        self.strength = torch.zeros(self.d_sae, EACH)
        self.spot = torch.full((self.d_sae, EACH, 2), torch.nan)

    def add(self, pictures: Sequence[bytes], prompts: Sequence[str], strength: Tensor, spot: Tensor) -> None:
        """Takes pictures with how strongly (batch, d_sae) and where (batch, d_sae, 2) features fire on them.

        A picture that is there already is not taken twice. Beyond MOST_PICTURES those go that the fewest need.
        """
        if strength.shape != (len(pictures), self.d_sae) or spot.shape != (*strength.shape, 2):
            raise ValueError(
                f"gallery: activations {tuple(strength.shape)} came with {len(pictures)} pictures; "
                f"({len(pictures)}, {self.d_sae}) are needed."
            )
        for picture, prompt, values, places in zip(pictures, prompts, strength, spot, strict=True):
            if picture not in self.pictures and len(picture) <= MOST_BYTES:
                self.pictures.append(picture)
                self.prompts.append(prompt[:LONGEST_PROMPT])
                self._rank(len(self.pictures) - 1, values, places)
        self._shrink()

    def _rank(self, number: int, strength: Tensor, spot: Tensor) -> None:
        which = torch.cat([self.which, torch.full((self.d_sae, 1), number)], dim=1)
        values = torch.cat([self.strength, strength.unsqueeze(1)], dim=1)
        spots = torch.cat([self.spot, spot.unsqueeze(1)], dim=1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :EACH]
        self.strength = values.gather(1, order)
        self.which = torch.where(self.strength > 0, which.gather(1, order), -1)
        self.spot = spots.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))

    def _shrink(self) -> None:
        """Drops pictures that no feature shows, then those that the fewest features show."""
        uses = torch.bincount(self.which[self.which >= 0], minlength=len(self.pictures))
        kept = uses.argsort(descending=True, stable=True)[: min(MOST_PICTURES, int((uses > 0).sum()))].sort().values
        if len(kept) == len(self.pictures):
            return
        renamed = torch.full((len(self.pictures) + 1,), -1)  # the last for those that are none
        renamed[kept] = torch.arange(len(kept))
        self.which = renamed[self.which]
        self.strength = torch.where(self.which >= 0, self.strength, 0.0)
        order = self.strength.argsort(dim=1, descending=True, stable=True)
        self.which, self.strength = self.which.gather(1, order), self.strength.gather(1, order)
        self.spot = self.spot.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
        self.pictures = [self.pictures[number] for number in kept.tolist()]
        self.prompts = [self.prompts[number] for number in kept.tolist()]

    def of(self, feature: int) -> list[Shown]:
        """The pictures of a feature, the strongest first."""
        rows = zip(self.which[feature].tolist(), self.strength[feature].tolist(), self.spot[feature], strict=True)
        return [
            Shown(number, strength, None if spot.isnan().any() else (float(spot[0]), float(spot[1])))
            for number, strength, spot in rows
            if number >= 0
        ]


def write_gallery(path: Path, gallery: Gallery, owner: Owner) -> None:
    """Replaces the file in one go; UnwritableError where the system does not let us."""
    features = (gallery.which >= 0).any(dim=1).nonzero().squeeze(1)
    tensors = {
        "features": features.int(),
        "which": gallery.which[features].int(),
        "strength": gallery.strength[features].float(),
        "spot": gallery.spot[features].half(),
        "pictures": torch.frombuffer(bytearray(b"".join(gallery.pictures)), dtype=torch.uint8),
        "ends": torch.tensor([len(picture) for picture in gallery.pictures], dtype=torch.int64).cumsum(0),
    }
    told = {"identity": owner.identity, "name": owner.name, "d_sae": str(gallery.d_sae)}
    metadata = {"format": FORMAT, "version": VERSION, "prompts": json.dumps(gallery.prompts), **told}
    write_whole(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)


def read_gallery(path: Path, owner: Owner) -> Gallery:
    """The gallery in a file; ValueError where it is broken or another SAE's."""
    metadata, found = _read(path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise ValueError(f"{path.name}: it is no gallery of features, or one of a newer pack; make it again.")
    if metadata.get("identity") != owner.identity:
        raise ValueError(f"{path.name}: its pictures belong to another SAE than {owner}; make them again.")
    broken = ValueError(f"{path.name}: its parts do not fit each other; make the gallery again.")
    try:
        prompts, d_sae = json.loads(metadata["prompts"]), int(metadata["d_sae"][:9])
    except (KeyError, ValueError, RecursionError) as error:
        raise broken from error
    if {name: tensor.dtype for name, tensor in found.items()} != _TYPES:
        raise broken
    features, ends, data = found["features"].long(), found["ends"].tolist(), found["pictures"].numpy().tobytes()
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if (
        any(found[name].shape != (len(features), *rest) for name, rest in _SHAPES.items())
        or len(ends) > MOST_PICTURES
        or any(not 0 < size <= MOST_BYTES for size in sizes)
        or sum(sizes) != len(data)
        or not isinstance(prompts, list)
        or [isinstance(prompt, str) for prompt in prompts] != [True] * len(ends)
        or _beyond(features, d_sae - 1)
        or _beyond(found["which"] + 1, len(ends))
    ):
        raise broken
    gallery = Gallery(d_sae)
    gallery.which[features] = found["which"].long()
    gallery.strength[features] = found["strength"].float()
    gallery.spot[features] = found["spot"].float()
    gallery.pictures = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    gallery.prompts = [prompt[:LONGEST_PROMPT] for prompt in prompts]
    return gallery


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        if path.stat().st_size > MOST_FILE:
            raise ValueError(f"{path.name}: it is larger than {MOST_FILE >> 20} MB, which no gallery is.")
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name}: this gallery cannot be read ({error}); make it again.") from error


def _beyond(numbers: Tensor, largest: int) -> bool:
    return bool(((numbers < 0) | (numbers > largest)).any())


def add_pictures(
    path: Path, owner: Owner, d_sae: int, pictures: Sequence[bytes], prompts: Sequence[str], strength: Tensor,
    spot: Tensor,
) -> Gallery:  # fmt: skip
    """Adds to the gallery in a file while nobody else does; one that is broken or another SAE's is begun anew."""
    with locked(path):
        try:
            gallery = read_gallery(path, owner)
        except ValueError:
            gallery = Gallery(d_sae)
        gallery.add(pictures, prompts, strength, spot)
        write_gallery(path, gallery, owner)
    return gallery


SORTS = ("number", "name", "density", "rarity")


def browse(
    count: int, labels: Mapping[int, Label], density: Tensor | None, words: str = "", sort: str = "number"
) -> list[int]:
    """The features 0 to `count` − 1 that `words` mean, in the order of `sort`; without words all of them.

    Words are looked for as `search` does, in its order where `sort` is number. A number means the feature of that
    number, which comes first, and names that have its digits. Names go from A to Z, those without one last. `density`
    sorts those that fire most often first, `rarity` those that fire least often, and the dead last. Features that are
    equal stay in the order of their numbers.
    ValueError for another `sort`, or where the densities (count,) are not known.
    """
    if sort not in SORTS:
        raise ValueError(f"sort: {quoted(sort, 40)} came; use one of {', '.join(SORTS)}.")
    found = _meant(words.strip(), count, labels)
    if sort == "name":
        found.sort(key=lambda k: (k not in labels, labels[k].name.lower() if k in labels else ""))
    elif sort != "number":
        if density is None:
            raise ValueError(
                f"sort: {sort} needs to know how often each feature fires; measure it with TopActivatingFeatures and "
                "its input save_statistics."
            )
        often = density.tolist()
        found.sort(key=lambda k: -often[k] if sort == "density" else (often[k] or float("inf")))
    if _is_number(words):
        found.sort(key=lambda k: k != int(words))
    return found


def _meant(words: str, count: int, labels: Mapping[int, Label]) -> list[int]:
    if not words:
        return list(range(count))
    if not _is_number(words):
        return [k for k in search(labels, words) if k < count]  # the nearest first
    named = {k for k, label in labels.items() if words in label.name}  # notes are full of digits
    return sorted(k for k in named | {int(words)} if k < count)


def _is_number(words: str) -> bool:
    text = words.strip()
    return text.isascii() and text.isdecimal() and len(text) <= 9
