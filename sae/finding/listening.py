"""How strongly features fire for prompts, as naming asks for it, with any host that runs a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from ..dictionary.sae_set import Member
from ..places.moment import Moment, OnStep, steps_of
from .features import FeatureReader, Together
from .labelling import See
from .peaks import PeakTally


class Listen(Protocol):
    """Runs prompts through a model, the same way at each call."""

    def parts(self, prompts: Sequence[str]) -> Iterable[Sequence[str]]:
        """The prompts in their order, cut into parts that can run together."""
        ...

    def __call__(
        self, prompts: Sequence[str], sees: Sequence[Callable[[Tensor, Moment], None]], on_step: OnStep
    ) -> Tensor:
        """Shows each of `sees` the tokens of its site, (batch, tokens, d_in), at every call of the model.

        The prompts stand one behind the other, with as many rows each. Returns the latents that came out, (batch,
        channels, height, width).
        """
        ...


OnRun = Callable[[str, Tensor, Sequence[FeatureReader]], None]  # of a prompt, its latent, and readers with peaks


def mean_activations(listen: Listen, members: Sequence[Member], on_run: OnRun | None = None) -> See:
    """Means over all tokens and steps on the prompt's side, members' features in a row.

    `on_run` hears of each prompt when it is done, such as to keep its pictures.
    """

    def see(prompts: Sequence[str], on_step: OnStep) -> Tensor:
        def on_progress(done: float, total: int, shown: Any) -> None:
            on_step(done / total, shown)

        rows = list[Tensor]()
        for part in listen.parts(prompts):
            readers = [[FeatureReader(member.sae, member.site) for _ in part] for member in members]
            for reader in chain(*readers) if on_run is not None else ():
                reader.peaks = PeakTally(reader.sae.d_sae, reader.site.stream)
            steps = steps_of(on_progress, len(rows), len(prompts), len(part))
            latents = listen(part, [Together(own) for own in readers], steps)
            for number, prompt in enumerate(part):
                own = [of_member[number] for of_member in readers]
                if on_run is not None:
                    on_run(prompt, latents.chunk(len(part))[number], own)
                rows.append(torch.cat([reader.tally.mean for reader in own]))
        return torch.stack(rows)

    return see
