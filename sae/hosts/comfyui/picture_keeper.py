"""What prompts draw, kept in the galleries of the SAEs that listened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...drawing.pictures import thumbnail
from ...finding.features import FeatureReader
from ...finding.peaks import Peaks
from ...known.gallery import Gallery
from ...known.notebook import Notebooks
from .finding_features import Run

AT_ONCE = 16  # prompts whose pictures are written together, since each writing writes the whole gallery


class PictureKeeper:
    """Decodes what prompts draw and adds it to the galleries of the SAEs that listened, a few prompts at once.

    It is what `mean_activations` tells of its runs; `close` writes what is left, and is called after Cancel too.
    """

    def __init__(self, vae: Any, notebooks: Notebooks) -> None:
        self.vae, self._notebooks = vae, notebooks
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
            gallery = self._notebooks.of(sae).add_pictures(pictures, prompts, strength, spot)
            self._galleries[sae.owner.identity] = gallery


class _Drawn(NamedTuple):
    """The pictures of one prompt, encoded, and where the features of each SAE fire on them."""

    prompt: str
    pictures: list[bytes]
    peaks: list[tuple[SparseAutoencoder, Peaks]]


def keep_run(run: Run, vae: Any, notebooks: Notebooks) -> str:
    """Keeps the pictures of one prompt; a line that tells of it."""
    keeper = PictureKeeper(vae, notebooks)
    keeper("", run.latent, run.readers)
    return keeper.close()
