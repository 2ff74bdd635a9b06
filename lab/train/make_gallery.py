"""Makes the galleries that ship with the Shapes SAEs: python -m lab.train.make_gallery.

Draws training prompts while all SAEs listen, and keeps for each feature the pictures on which it fires most.
"""

from __future__ import annotations

import random
from contextlib import ExitStack

import torch
from tqdm import tqdm

from sae.demo.shapes import training_prompts
from sae.demo.shapes_model import sample
from sae.demo.shipped_weights import SAE_NAMES, WEIGHTS, load_decoder, load_sae, load_transformer
from sae.drawing.pictures import thumbnail
from sae.finding.features import FeatureReader, PeakTally
from sae.hosts.diffusers import capture
from sae.known.gallery import SUFFIX, Gallery, write_gallery
from sae.places.site import resolve_site

PICTURES, BATCH, STEPS, SEED = 240, 40, 8, 5


def main() -> None:
    transformer, decoder = load_transformer(), load_decoder()
    saes = {name: load_sae(name) for name in SAE_NAMES}
    galleries = {name: Gallery(sae.d_sae) for name, sae in saes.items()}
    prompts = random.Random(SEED).sample(training_prompts(), PICTURES)
    for first in tqdm(range(0, PICTURES, BATCH), desc="Drawing"):
        part = prompts[first : first + BATCH]
        with ExitStack() as stack:
            peaks = {}
            for name, sae in saes.items():
                site = resolve_site("auto", "auto", sae.site)
                reader = FeatureReader(sae, site)
                reader.peaks = peaks[name] = PeakTally(sae.d_sae, site.stream)
                stack.enter_context(capture(transformer, site, reader))
            latents = sample(transformer, part, range(first, first + len(part)), STEPS)
        with torch.no_grad():
            encoded = [thumbnail(picture) for picture in decoder(latents)]
        for name, gallery in galleries.items():
            gallery.add(encoded, [str(prompt) for prompt in part], *peaks[name].peaks())
    for name, gallery in galleries.items():
        path = WEIGHTS / name / f"model{SUFFIX}"
        write_gallery(path, gallery, saes[name].owner)
        shown = int((gallery.which >= 0).any(dim=1).sum())
        size = path.stat().st_size / 1024
        print(f"{name}: {len(gallery.pictures)} pictures, {shown} of {gallery.d_sae} features, {size:.0f} KB")


if __name__ == "__main__":
    main()
