"""One clone of a MODEL that is watched at several places, by whoever looks at the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor

from ...dictionary.autoencoder import SparseAutoencoder
from ...places.moment import Moment
from ...places.site import Site
from .steering import observe

See = Callable[[Tensor, Moment], None]


class Watched:
    """Shows the tokens of sites; where an SAE is named with a site, its encoder is loaded beside the model."""

    def __init__(self, model: Model, places: Sequence[tuple[Site, SparseAutoencoder | None]]) -> None:
        self._sees: Sequence[See] = ()
        self._model = model
        for number, (site, sae) in enumerate(places):
            self._model = observe(self._model, site, partial(self._show, number), sae)

    @contextmanager
    def showing(self, sees: Sequence[See]) -> Iterator[Model]:
        """The model to run; each of `sees` gets the tokens of its site, (batch, tokens, width), at every call."""
        self._sees = sees
        try:
            yield self._model
        finally:
            self._sees = ()

    def _show(self, number: int, x: Tensor, moment: Moment) -> None:
        if self._sees:
            self._sees[number](x, moment)
