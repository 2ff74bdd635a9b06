"""The ways of steering embeddings that the evidence compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from sae.demo.shapes import Prompt
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.embeddings.editing import blend_tokens, steer_tokens
from sae.finding.features import FeatureTally, feature_list, rank_features, tally_tokens
from sae.steering.delta import Steering
from sae.steering.edits import Edit, FeatureList, Method, Unit
from sae.steering.methods import METHODS
from sae.steering.record import SteeringRecord

FEATURES = 8  # at most, from each side of a contrast
# What else is on the pictures that features are found from; each is a training prompt in every colour.
OTHER_CONTEXTS = (
    Prompt("red", "circle", "left", "big", "white"),
    Prompt("red", "circle", "right", "small", "black"),
    Prompt("red", "square", "bottom", "small", "white"),
    Prompt("red", "triangle", "top", "big", "black"),
    Prompt("red", "triangle", "right", "small", "grey"),
    Prompt("red", "cross", "center", "small", "black"),
    Prompt("red", "cross", "right", "big", "white"),
)


@dataclass(frozen=True)
class EmbedCase:
    """One change of colour: what fires for both, embeddings of both found with it, and those to be changed."""

    sae: SparseAutoencoder
    tallies: Mapping[str, FeatureTally]  # by colour
    examples: Mapping[str, Tensor]  # embeddings (seeds, 64) by colour, from which the features were found
    source: str
    target: str

    @classmethod
    def of(cls, sae: SparseAutoencoder, examples: Mapping[str, Tensor], source: str, target: str) -> EmbedCase:
        tallies = {colour: tally_tokens(sae, rows.unsqueeze(1)) for colour, rows in examples.items()}
        return cls(sae, tallies, examples, source, target)

    def steer(
        self, x: Tensor, method: Method, strength: float, unit: Unit = "token_norm", of_source: bool = False
    ) -> Tensor:
        """Embeddings (batch, 64), steered with the features of the target against the source, or reversed."""
        gained, lost = self._contrast(self.target, self.source), self._contrast(self.source, self.target)
        features, replaces = (lost, gained) if of_source else (gained, lost)
        steering = Steering(
            self.sae, features, method, strength, unit, replaces if METHODS[method].needs_replaces else ()
        )
        return steer_tokens(x.unsqueeze(1), steering, SteeringRecord()).squeeze(1)

    def blend(self, x: Tensor, amount: float, examples: int | None = 1) -> Tensor:
        """Gives x the activations that the contrast's features have in the target's first examples, on average."""
        edits = {e.feature: e for e in self._contrast(self.source, self.target)}
        edits |= {e.feature: e for e in self._contrast(self.target, self.source)}
        given = self.examples[self.target][:examples].unsqueeze(1)
        record = SteeringRecord()
        return blend_tokens(x.unsqueeze(1), given, self.sae, list(edits.values()), amount, record).squeeze(1)

    def exchange(self, x: Tensor) -> Tensor:
        """`swap` at a fixed level: what is inserted does not depend on how strongly the source fires in x."""
        gained, lost = self._contrast(self.target, self.source), self._contrast(self.source, self.target)
        kept = [replace(edit, strength=1 - edit.strength) for edit in lost]  # takes out the specific share
        mean = self.tallies[self.target].mean
        natural = [Edit(edit.feature, edit.strength * float(mean[edit.feature])) for edit in gained]
        delta = Steering(self.sae, kept, "scale").delta(x) + Steering(self.sae, natural, "add", unit="raw").delta(x)
        return x + delta

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
    contexts: bool = False  # whether features are found from OTHER_CONTEXTS too
    random: bool = False  # whether a random direction is measured beside it


def _swap(strength: float) -> EmbedSetting:
    return EmbedSetting(f"swap {strength:g}", lambda case, x: case.steer(x, "swap", strength))


def _add(strength: float, unit: Unit) -> EmbedSetting:
    return EmbedSetting(f"add {strength:g} {unit}", lambda case, x: case.steer(x, "add", strength, unit))


def _out_and_in(case: EmbedCase, x: Tensor) -> Tensor:
    return case.steer(case.steer(x, "scale", 0.0, of_source=True), "set", 1.0, "mean")


ONE: tuple[EmbedSetting, ...] = (
    *(_swap(strength) for strength in (0.5, 1.0, 1.25, 1.5)),
    EmbedSetting("scale 0, then set 1 mean", _out_and_in),
    EmbedSetting("blend 1, from one example", lambda case, x: case.blend(x, 1.0)),
    _add(1.0, "mean"),
    _add(0.3, "token_norm"),
    _add(0.6, "token_norm"),
    EmbedSetting("no SAE: difference of the examples", lambda case, x: case.difference(x, 1.0)),
)
EIGHT: tuple[EmbedSetting, ...] = (
    _swap(1.0),
    _swap(1.15),
    EmbedSetting(
        "blend 1, from the mean of the examples", lambda case, x: case.blend(x, 1.0, examples=None), random=True
    ),
    EmbedSetting("swap 1 at a fixed level", lambda case, x: case.exchange(x)),
    EmbedSetting("no SAE: difference of the examples", lambda case, x: case.difference(x, 1.0)),
)
SETTINGS: tuple[EmbedSetting, ...] = (
    *ONE,
    *(replace(setting, what=f"eight prompts: {setting.what}", contexts=True) for setting in EIGHT),
)
BEST = len(ONE) + 2  # what worked best on training prompts beforehand (lessons.md tells how)
