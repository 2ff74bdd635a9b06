"""Sets of SAEs: which folders hold one, by the names in them, and what makes several SAEs one model's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.sae_set import SaeSet
from ..places.site import site_from_name
from .provenance import provenance

MARK = "/*"  # ends a set's name in a list, after its folder; no weight file can be called so


def make_set(saes: Sequence[SparseAutoencoder], name: str) -> SaeSet:
    """ValueError where the files tell of different models, and for all that `SaeSet` refuses."""
    told = [(model, sae) for sae in saes if (model := provenance(sae).get("model"))]
    for model, sae in told[1:]:
        first, other = told[0]
        if _plain(model) != _plain(first):
            raise ValueError(
                f"sae: {other.name} was trained on {first} and {sae.name} on {model}; make sets of SAEs of the same "
                "model."
            )
    return SaeSet(saes, name)


def set_folders(names: Iterable[str]) -> dict[str, list[str]]:
    """Folder -> names, of the folders among weight files' names all of whose SAEs tell distinct sites by their names.

    A folder that holds only another one is left out. Folders are written with `/` on every system.
    """
    inside: dict[str, list[str]] = {}
    for name in names:
        for above in _parts(name).parents:
            if str(above) != ".":
                inside.setdefault(str(above), []).append(name)
    found: dict[str, list[str]] = {}
    for folder, files in sorted(inside.items(), key=lambda entry: -len(entry[0])):  # inner folders first
        sites = [site_from_name(str(_parts(name).with_suffix(""))) for name in files]
        told = None not in sites and len(files) > 1 and len(set(sites)) == len(files)
        if told and sorted(files) not in found.values():
            found[folder] = sorted(files)
    return dict(sorted(found.items()))


def _parts(name: str) -> PurePosixPath:
    return PurePosixPath(PureWindowsPath(name).as_posix())


def _plain(model: str) -> str:
    """`black-forest-labs/FLUX.1-schnell` and `flux.1-schnell` are one model."""
    return model.rsplit("/", 1)[-1].strip().lower()
