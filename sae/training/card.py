"""The report on a trained SAE, measured on tokens it has not seen: as JSON, and a README that says what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.statistics import FeatureStatistics
from ..finding.fit import Fit, FitTally
from .topk import TopKModel

LOWEST, HIGHEST = -6, 0  # powers of ten of the densities in the histogram


@dataclass(frozen=True)
class Card:
    """What was measured on tokens that training has not seen; None where the model was not at hand."""

    name: str
    site: str | None
    d_in: int
    d_sae: int
    architecture: str
    fit: Fit
    densities: tuple[int, ...]  # features by density: below 1e-6 (dead among them), then one number a power of ten
    prediction_recovered: float | None = None
    steerability: float | None = None
    features_tried: int = 0
    trained: Mapping[str, Any] = field(default_factory=dict)  # configuration
    source: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"fit": self.fit._asdict()}


def make_card(sae: SparseAutoencoder, name: str, fit: Fit, statistics: FeatureStatistics, **more: Any) -> Card:
    return Card(
        name,
        None if sae.site is None else str(sae.site),
        sae.d_in,
        sae.d_sae,
        str(sae.architecture),
        fit,
        density_histogram(statistics),
        **more,
    )


def density_histogram(statistics: FeatureStatistics) -> tuple[int, ...]:
    """How many features fire on less than 1e-6 of the tokens, and in each power of ten from there up to 1."""
    if statistics.density is None:
        raise ValueError("statistics: the density of the features is needed, but it was not measured.")
    powers = statistics.density.double().clamp_min(1e-12).log10().floor().clamp(LOWEST - 1, HIGHEST - 1)
    counts = torch.bincount((powers - LOWEST + 1).long(), minlength=HIGHEST - LOWEST + 1)
    return tuple(counts.tolist())


def rows_of(card: Card) -> list[tuple[str, str]]:
    """The measured numbers with what they are called, in the order in which people read them."""
    fit, trained = card.fit, card.trained
    window = f", window {trained['dead_tokens']:,} tokens in training" if "dead_tokens" in trained else ""
    recovered, steers = card.prediction_recovered, card.steerability
    return [
        ("explained variance", f"{fit.explained_variance:.4f}"),
        ("active features of a token (L0)", f"{fit.l0:.1f}"),
        (f"dead share (on {fit.tokens:,} tokens{window})", f"{fit.dead_share:.2%}"),
        ("cosine with the token", f"{fit.cosine:.4f}"),
        ("prediction recovered", "not measured" if recovered is None else f"{recovered:.4f}"),
        (
            "steerability",
            "not measured" if steers is None else f"{steers:.0%} of {card.features_tried} features (chance: 50%)",
        ),
    ]


def readme(card: Card, pictures: Mapping[str, str]) -> str:
    """A model card for people and for Hugging Face; `pictures` are files beside it by their captions."""
    lines = ["---", "library_name: sae-steering", "tags:", "- sparse-autoencoder", "- interpretability", "---", ""]
    lines += [f"# {card.name}", "", _what(card), "", "| measured on held-out tokens | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows_of(card)]
    lines += ["", MEANING, ""]
    lines += [f"![{caption}]({file})\n" for caption, file in pictures.items()]
    for title, facts in (("Training", card.trained), ("Tokens", card.source)):
        if facts:
            lines += [f"## {title}", "", *(f"- {name}: {_plain(value)}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def comparison(one: Card, other: Card) -> str:
    """Two SAEs side by side, as a table for people."""
    head = ("", one.name, other.name)
    table = [head, ("architecture", one.architecture, other.architecture)]
    table += [("features", f"{one.d_sae:,}", f"{other.d_sae:,}")]
    table += [(name, a, b) for (name, a), (_, b) in zip(rows_of(one), rows_of(other), strict=True)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


MEANING = """\
*Explained variance*: 1 − squared error / squared distance from the mean token. *Prediction recovered*: the model's
output with the reconstruction in place of the activation; 1 is the untouched output, 0 that of zeros. *Steerability*:
how many random live features, given to prompts that lack them as strongly as others have them, move the output further
along their own contrast than a random direction of the same lengths does."""


def _what(card: Card) -> str:
    place = f" of `{card.site}`" if card.site else ""
    return f"A sparse autoencoder{place}: {card.d_sae:,} features of width {card.d_in:,}, {card.architecture}."


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@torch.no_grad()
def evaluate(model: TopKModel, chunks: Iterable[Tensor]) -> tuple[Fit, FeatureStatistics]:
    """Runs chunks (n, d_in) of tokens through the SAE. Raises ValueError when there are none."""
    tally = FitTally(model.centre.detach(), model.config.d_sae)
    for chunk in chunks:
        x = chunk.to(model.bias.device, torch.float32)
        codes = model.encode(x)
        tally.add(x, codes, model.decode(codes))
    return _measured(tally)


@torch.no_grad()
def evaluate_sae(sae: SparseAutoencoder, chunks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Fit, FeatureStatistics]:
    """The same of any SAE: chunks of tokens (n, d_in) with noise levels (n,). Raises ValueError without tokens."""
    bias = sae.weights.optional_vector("output_bias")
    tally = FitTally(torch.zeros(sae.d_in) if bias is None else bias, sae.d_sae)
    for tokens, sigma in chunks:
        x = tokens.float()
        codes = sae.encode_sparse(x, sigma)
        tally.add(x, codes, sae.decode_sparse(codes, like=x))
    return _measured(tally)


def _measured(tally: FitTally) -> tuple[Fit, FeatureStatistics]:
    if tally.tokens == 0:
        raise ValueError("activations: there are no tokens to measure the SAE on; give one or more.")
    return tally.fit(), tally.features.statistics()
