"""The ways of steering embeddings that the evidence compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sae.dictionary.autoencoder import SparseAutoencoder
from sae.embeddings.editing import blend_tokens, steer_tokens
from sae.finding.features import FeatureTally, feature_list, rank_features
from sae.steering.delta import Steering
from sae.steering.edits import FeatureList, Method, Unit
from sae.steering.record import SteeringRecord

FEATURES = 8  # at most, from each side of a contrast


@dataclass(frozen=True)
class EmbedCase:
    """One change of colour: what fires for both, embeddings of both found with it, and those to be changed."""

    sae: SparseAutoencoder
    tallies: Mapping[str, FeatureTally]  # by colour
    examples: Mapping[str, Tensor]  # embeddings (seeds, 64) by colour, from which the features were found
    source: str
    target: str

    def steer(
        self, x: Tensor, method: Method, strength: float, unit: Unit = "token_norm", of_source: bool = False
    ) -> Tensor:
        """Embeddings (batch, 64), steered with the features of the target against the source, or reversed."""
        gained, lost = self._contrast(self.target, self.source), self._contrast(self.source, self.target)
        features, replaces = (lost, gained) if of_source else (gained, lost)
        steering = Steering(self.sae, features, method, strength, unit, replaces if method == "swap" else ())
        return steer_tokens(x.unsqueeze(1), steering, SteeringRecord()).squeeze(1)

    def blend(self, x: Tensor, amount: float) -> Tensor:
        """Gives x the activations that the contrast's features have in the target's first example."""
        edits = {e.feature: e for e in self._contrast(self.source, self.target)}
        edits |= {e.feature: e for e in self._contrast(self.target, self.source)}
        given = self.examples[self.target][:1].unsqueeze(1)
        record = SteeringRecord()
        return blend_tokens(x.unsqueeze(1), given, self.sae, list(edits.values()), amount, record).squeeze(1)

    def difference(self, x: Tensor, amount: float) -> Tensor:
        """No SAE: the difference of the examples' means."""
        return x + amount * (self.examples[self.target].mean(0) - self.examples[self.source].mean(0))

    def _contrast(self, here: str, there: str) -> FeatureList:
        return feature_list(rank_features(self.tallies[here], "mean", FEATURES, self.tallies[there]))


@dataclass(frozen=True)
class EmbedSetting:
    """A row of the evidence."""

    what: str
    apply: Callable[[EmbedCase, Tensor], Tensor]


def _swap(strength: float) -> EmbedSetting:
    return EmbedSetting(f"swap {strength:g}", lambda case, x: case.steer(x, "swap", strength))


def _add(strength: float, unit: Unit) -> EmbedSetting:
    return EmbedSetting(f"add {strength:g} {unit}", lambda case, x: case.steer(x, "add", strength, unit))


def _out_and_in(case: EmbedCase, x: Tensor) -> Tensor:
    return case.steer(case.steer(x, "scale", 0.0, of_source=True), "set", 1.0, "mean")


SETTINGS: tuple[EmbedSetting, ...] = (
    *(_swap(strength) for strength in (0.5, 1.0, 1.25, 1.5)),
    EmbedSetting("scale 0, then set 1 mean", _out_and_in),
    EmbedSetting("blend 1, from one example", lambda case, x: case.blend(x, 1.0)),
    _add(1.0, "mean"),
    _add(0.3, "token_norm"),
    _add(0.6, "token_norm"),
    EmbedSetting("no SAE: difference of the examples", lambda case, x: case.difference(x, 1.0)),
)
BEST = 2  # swap 1.25: what worked on a few pictures beforehand (lessons.md tells which)
