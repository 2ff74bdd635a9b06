"""Pictures of features for the browser: from the gallery that was made here, else from the one beside an SAE."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.drawing.pictures import thumbnail
from ...sae.finding.features import FeatureReader
from ...sae.finding.peaks import Peaks
from ...sae.formats.named_tensors import AllowedFolders
from ...sae.hosts.comfyui.finding_features import Run
from ...sae.known.gallery import SUFFIX, Gallery, add_pictures, read_gallery

log = logging.getLogger(__name__)

AT_ONCE = 16  # prompts whose pictures are written together, since each writing writes the whole gallery


def gallery_path(sae: SparseAutoencoder) -> Path:
    """Where the pictures that are made here are kept."""
    folder = Path(folder_paths.get_user_directory()) / "default" / "sae_steering" / "galleries"
    return folder / f"{sae.owner.identity}{SUFFIX}"


def gallery_of(sae: SparseAutoencoder) -> Gallery | None:
    """The pictures of an SAE's features, if there are any. A broken file is told in the log, and shows nothing."""
    for path, allowed in _galleries(sae):
        if path.is_file():
            try:
                allowed.check(path, path.name)
                return read_gallery(path, sae.owner)
            except ValueError as error:
                log.warning("%s", error)
    return None


def gallery_files(sae: SparseAutoencoder) -> list[Path]:
    """Where the pictures of an SAE's features may be, the first that is there counting."""
    return [path for path, _ in _galleries(sae)]


def _galleries(sae: SparseAutoencoder) -> list[tuple[Path, AllowedFolders]]:
    """The one that was made here, and the one beside the weights; and where each may lead as a link."""
    made = (gallery_path(sae), AllowedFolders())
    if sae.origin is None:
        return [made]
    weights = sae.origin.files[0]
    return [made, (weights.with_name(weights.stem + SUFFIX), AllowedFolders(sae.origin.within))]


def gallery_input() -> io.Vae.Input:
    return io.Vae.Input(
        "gallery",
        optional=True,
        tooltip="A VAE: the pictures of the short sampling are kept in the SAE's gallery, and tables show on which of "
        "them a feature fires most, and where.",
    )


class PictureKeeper:
    """Decodes what prompts draw and adds it to the galleries of the SAEs that listened, a few prompts at once.

    It is what `mean_activations` tells of its runs; `close` writes what is left, and is called after Cancel too.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self._waiting: list[_Drawn] = []
        self._galleries: dict[str, Gallery] = {}  # by owner, as they are written

    def __call__(self, prompt: str, latent: Tensor, readers: Sequence[FeatureReader]) -> None:
        peaks = [(reader.sae, reader.peaks.peaks()) for reader in readers if reader.peaks is not None]
        if any(not len(found.strength) for _, found in peaks):
            return  # every call of the model saw noise, or a part of the picture
        pictures = self.vae.decode(latent)[..., :3].float().cpu()  # (batch, height, width, 3)
        encoded = [thumbnail(picture) for picture in pictures.movedim(-1, 1)]
        self._waiting.append(_Drawn(prompt, encoded, peaks))
        if len(self._waiting) == AT_ONCE:
            self._write()

    def close(self) -> str:
        """A line that tells what there is now."""
        self._write()
        found = list(self._galleries.values())
        if not found:
            return "No picture was kept: a mask hid a part, or all steps saw mostly noise; use no mask, or more steps."
        if len(found) > 1:
            return f"Pictures were added to the galleries of {len(found)} SAEs."
        shown = int((found[0].which >= 0).any(dim=1).sum())
        return f"{len(found[0].pictures)} pictures show {shown} of {found[0].d_sae} features."

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        pictures = [picture for drawn in waiting for picture in drawn.pictures]
        prompts = [drawn.prompt for drawn in waiting for _ in drawn.pictures]
        for number, (sae, _) in enumerate(waiting[0].peaks):
            strength, spot = (
                torch.cat(parts) for parts in zip(*(drawn.peaks[number][1] for drawn in waiting), strict=True)
            )
            gallery = add_pictures(gallery_path(sae), sae.owner, sae.d_sae, pictures, prompts, strength, spot)
            self._galleries[sae.owner.identity] = gallery


class _Drawn(NamedTuple):
    """The pictures of one prompt, encoded, and where the features of each SAE fire on them."""

    prompt: str
    pictures: list[bytes]
    peaks: list[tuple[SparseAutoencoder, Peaks]]


def keep_run(run: Run, vae: Any) -> str:
    """Keeps the pictures of one prompt; a line that tells of it."""
    keeper = PictureKeeper(vae)
    keeper("", run.latent, run.readers)
    return keeper.close()


Galleries = Callable[[SparseAutoencoder], Gallery | None]


def pictures_payload(
    sae: AnySae, features: Iterable[int], galleries: Galleries = gallery_of
) -> tuple[dict[str, str], dict[int, list[Any]]]:
    """The pictures by number, as data URLs, and of each feature that has some [number, strength, spot] each."""
    if not isinstance(sae, SaeSet):
        return _pictures(galleries(sae), features, "")
    urls: dict[str, str] = {}
    rows: dict[int, list[Any]] = {}
    wanted = list(features)
    for place, member in enumerate(sae.members):
        own = [feature - member.first for feature in wanted if feature in member]
        found, shown = _pictures(galleries(member.sae), own, f"{place}-") if own else ({}, {})
        urls |= found
        rows |= {member.first + feature: pictures for feature, pictures in shown.items()}
    return urls, rows


def _pictures(
    gallery: Gallery | None, features: Iterable[int], prefix: str
) -> tuple[dict[str, str], dict[int, list[Any]]]:  # fmt: skip
    if gallery is None:
        return {}, {}
    shown = {feature: gallery.of(feature) for feature in features if feature < gallery.d_sae}
    numbers = {one.picture for each in shown.values() for one in each}
    urls = {f"{prefix}{number}": _url(gallery.pictures[number]) for number in sorted(numbers)}
    rows = {
        feature: [[f"{prefix}{one.picture}", one.strength, one.spot] for one in each]
        for feature, each in shown.items()
        if each
    }
    return urls, rows


def _url(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
