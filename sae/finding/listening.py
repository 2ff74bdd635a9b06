"""How strongly features fire for prompts, as naming asks for it, with any host that runs a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..naming.labelling import See
from ..places.moment import Moment
from ..places.progress import OnStep, steps_of
from ..places.site import Site
from .features import FeatureReader


class Listen(Protocol):
    """Runs a prompt through a model, the same way at each call."""

    def __call__(self, prompt: str, see: Callable[[Tensor, Moment], None], on_step: OnStep) -> None:
        """Shows `see` the tokens of a site, (batch, tokens, d_in), at every call of the model."""
        ...


def mean_activations(listen: Listen, sae: SparseAutoencoder, site: Site) -> See:
    """Prompts one after the other; means over all tokens and steps on the prompt's side."""

    def see(prompts: Sequence[str], on_step: OnStep) -> Tensor:
        def on_progress(done: float, total: int, shown: Any) -> None:
            on_step(done / total, shown)

        rows = []
        for done, prompt in enumerate(prompts):
            reader = FeatureReader(sae, site)
            listen(prompt, reader, steps_of(on_progress, done, len(prompts)))
            rows.append(reader.tally.mean)
        return torch.stack(rows)

    return see
