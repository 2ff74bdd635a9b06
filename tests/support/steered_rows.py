"""Rows of a run's calls with the share by which each token was steered, held against a mask in pixels.

A crop's place is found by its content in the noise, not by its prompt. For the tests inside ComfyUI's Python.
"""

import torch
from comfy.patcher_extension import WrappersMP

import nodes as core
from tiny_flux import Watch, conditioning, sample

BLOCK = ("transformer_blocks.0", "image")
JOINT = ("single_transformer_blocks.0", "joint")
STRENGTH = 0.2


def area(seed, height, width, top, left, strength=1.0):
    """A prompt for a part of the picture, in latent cells, as ConditioningSetArea makes it."""
    return core.ConditioningSetArea().append(conditioning(seed), 8 * width, 8 * height, 8 * left, 8 * top, strength)[0]


def left_half(height, width):
    mask = torch.zeros(1, 8 * height, 8 * width)
    mask[:, :, : 4 * width] = 1
    return mask


def speckled(height, width, count=1):
    """Another value for each latent cell."""
    cells = torch.rand(count, height, width, generator=torch.Generator().manual_seed(6))
    return cells.repeat_interleave(8, 1).repeat_interleave(8, 2)


class Calls(Watch):
    """Beside the tokens of each call, the latents that the model was given."""

    def __init__(self, kind):
        super().__init__(kind)
        self.latents = []

    def on(self, model):
        watched = super().on(model)
        watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "calls", self._see)
        return watched

    def _see(self, executor, x, *args, **kwargs):
        self.latents.append(x.clone())
        return executor(x, *args, **kwargs)


def compared(model, steered, kind="double", **run):
    """Each row of each call of one step: (its latent, share of the token norm by which each token was moved)."""
    plain, changed = Calls(kind), Calls(kind)
    sample(plain.on(model), steps=1, **run)
    sample(changed.on(steered), steps=1, **run)
    assert len(plain.latents) == len(changed.latents) == len(plain.tokens)
    rows = []
    for latent, after, before in zip(plain.latents, changed.tokens, plain.tokens, strict=True):
        share = (after - before).norm(dim=-1) / before.norm(dim=-1)
        rows += [(one, moved) for one, moved in zip(latent, share, strict=True)]
    return rows


def places_of(latent, size, batch=1, seed=7):
    """(picture, top, left) at which this crop lies in the noise that sampling starts from."""
    noise = torch.randn((batch, 16, *size), generator=torch.manual_seed(seed))
    height, width = latent.shape[-2:]
    found = [
        (number, top, left)
        for number, picture in enumerate(noise)
        for top in range(size[0] - height + 1)
        for left in range(size[1] - width + 1)
        if torch.allclose(picture[:, top : top + height, left : left + width], latent, atol=1e-6)
    ]
    assert len(found) == 1
    return found[0]


def pixel_means(mask, top, left, height, width):
    """Mean of the mask under each token of a crop: a token has up to 2 × 2 cells, a cell 8 × 8 pixels."""
    crop = mask[8 * top : 8 * (top + height), 8 * left : 8 * (left + width)]
    rows = [[cells.mean() for cells in band.split(16, dim=1)] for band in crop.split(16, dim=0)]
    return torch.tensor(rows).flatten()


def check(rows, mask, size, batch=1):
    """Every row was steered by the mask's mean under its own tokens; returns the places that were seen."""
    places = []
    for latent, share in rows:
        picture, top, left = places_of(latent, size, batch)
        expected = STRENGTH * pixel_means(mask[picture if len(mask) > 1 else 0], top, left, *latent.shape[-2:])
        assert torch.allclose(share[-len(expected) :], expected, atol=1e-5)
        places.append((top, left, *latent.shape[-2:]))
    return places
