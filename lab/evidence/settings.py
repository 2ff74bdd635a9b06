"""The ways of steering that the evidence compares: sites, methods, strengths, regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from sae.demo.files import ATTENTION_SAE, IMAGE_SAE, TEXT_SAE
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.features import FeatureTally, feature_list
from sae.places.site import resolve_site
from sae.steering.delta import Steering
from sae.steering.edits import Method, Unit
from sae.steering.intervention import Intervention

from ..judge.reader import shape_masks
from ..judge.steer import contrast

FEATURES = 8  # at most, from each side of a contrast
MASK_MARGIN = 4  # pixels around the shape, for its antialiased rim

Saes = Mapping[str, SparseAutoencoder]
Tallies = Mapping[tuple[str, str], FeatureTally]  # (SAE's name, colour)


@dataclass(frozen=True)
class Case:
    """One change of colour: what fires for both, and the unsteered pictures (batch, 3, 128, 128) to be changed."""

    saes: Saes
    tallies: Tallies
    source: str
    target: str
    pictures: Tensor

    def region(self) -> Tensor:
        """The shape's own pixels with a small margin, (batch, 128, 128)."""
        width = 2 * MASK_MARGIN + 1
        return functional.max_pool2d(shape_masks(self.pictures), width, 1, MASK_MARGIN).squeeze(1)

    def steer(
        self,
        name: str,
        method: Method,
        strength: float,
        unit: Unit = "token_norm",
        region: bool = False,
        of_source: bool = False,
    ) -> Intervention:
        """Steers with the features that TopActivatingFeatures finds for the target against the source, or reversed."""
        here, there = self.tallies[name, self.target], self.tallies[name, self.source]
        gained, lost = feature_list(contrast(here, there, FEATURES)), feature_list(contrast(there, here, FEATURES))
        features, replaces = (lost, gained) if of_source else (gained, lost)
        steering = Steering(self.saes[name], features, method, strength, unit, replaces if method == "swap" else ())
        site = resolve_site("auto", "auto", self.saes[name].site)
        return Intervention(steering, site, mask=self.region() if region else None)


@dataclass(frozen=True)
class Setting:
    """A row of the evidence."""

    site: str
    what: str
    make: Callable[[Case], list[Intervention]]


def _swap(name: str, site: str, strength: float) -> Setting:
    return Setting(site, f"swap {strength:g}", lambda case: [case.steer(name, "swap", strength)])


def _add(name: str, site: str, strength: float, unit: Unit, region: bool) -> Setting:
    where = "on the shape" if region else "on every token"
    return Setting(
        site,
        f"add {strength:g} {unit}, {where}",
        lambda case: [case.steer(name, "add", strength, unit, region)],
    )


def _out_and_in(name: str, site: str, strength: float, region: bool) -> Setting:
    """`scale` 0 for what the source has, `set` for what the target has: two nodes in a row."""
    where = "on the shape" if region else "on every token"
    return Setting(
        site,
        f"scale 0, then set {strength:g} mean, {where}",
        lambda case: [
            case.steer(name, "scale", 0.0, region=region, of_source=True),
            case.steer(name, "set", strength, "mean", region=region),
        ],
    )


TEXT, ATTENTION, IMAGE = "transformer_blocks.0, text", "transformer_blocks.1.attn, image", "transformer_blocks.1, image"

SETTINGS: tuple[Setting, ...] = (
    *(_swap(TEXT_SAE, TEXT, strength) for strength in (0.5, 0.75, 1.0, 1.25, 1.5)),
    _out_and_in(TEXT_SAE, TEXT, 1.0, False),
    _add(TEXT_SAE, TEXT, 1.0, "mean", False),
    _add(TEXT_SAE, TEXT, 0.2, "token_norm", False),
    _swap(ATTENTION_SAE, ATTENTION, 1.0),
    _swap(ATTENTION_SAE, ATTENTION, 2.0),
    _out_and_in(ATTENTION_SAE, ATTENTION, 1.0, True),
    _add(ATTENTION_SAE, ATTENTION, 1.0, "mean", False),
    _add(ATTENTION_SAE, ATTENTION, 1.0, "mean", True),
    _add(ATTENTION_SAE, ATTENTION, 0.3, "token_norm", True),
    _swap(IMAGE_SAE, IMAGE, 1.0),
    _swap(IMAGE_SAE, IMAGE, 2.0),
    _out_and_in(IMAGE_SAE, IMAGE, 1.0, True),
    _add(IMAGE_SAE, IMAGE, 1.0, "mean", True),
    _add(IMAGE_SAE, IMAGE, 0.2, "token_norm", True),
    Setting(
        "text and attention",
        "swap 1 at both",
        lambda case: [case.steer(TEXT_SAE, "swap", 1.0), case.steer(ATTENTION_SAE, "swap", 1.0)],
    ),
)
BEST = 2  # swap 1 in the text stream: the setting that is told colour by colour
