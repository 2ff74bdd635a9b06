"""The Shapes demo in a few words, for the first lines that somebody writes: a model, its SAE, and drawing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ..dictionary.autoencoder import SparseAutoencoder
from ..drawing.pictures import to_image
from .shapes import parse_prompt
from .shapes_model import ShapesDecoder, sample
from .shipped_weights import TEXT_SAE, load_decoder, load_sae, load_transformer

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Draw = Callable[["FluxTransformer2DModel"], Image.Image]


class Shapes:
    """A very small real FLUX of diffusers' class that draws coloured shapes, 128 × 128; it comes with the project.

    >>> import sae
    >>> shapes = sae.Shapes()
    >>> shapes.draws("red circle left small white", seed=1)(shapes.model).size
    (128, 128)
    """

    @cached_property
    def model(self) -> FluxTransformer2DModel:
        """The transformer, which is what FLUX pipelines have as `transformer`."""
        return load_transformer()

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The SAE of its text stream behind the first block: 256 features, 128 wide."""
        return load_sae(TEXT_SAE)

    @cached_property
    def _decoder(self) -> ShapesDecoder:
        return load_decoder()

    def draws(self, prompt: str, seed: int = 0) -> Draw:
        """A callable that draws the prompt with the model that it is given. ValueError for a word it does not know."""
        asked, decoder = parse_prompt(prompt), self._decoder

        def draw(model: FluxTransformer2DModel) -> Image.Image:
            with torch.no_grad():
                return to_image(decoder(sample(model, [asked], [seed]))[0])

        return draw
