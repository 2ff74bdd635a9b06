"""What is known of an SAE, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.directions import check_reconstructs
from ..dictionary.fingerprint import Progress, fingerprint
from ..dictionary.sae_set import SaeSet
from ..embeddings.spot import ALL, home_of, tensor_name
from ..formats.provenance import provenance
from ..places.depth import Depth
from ..places.moment import Moment
from ..places.site import Site, points_of
from .fit import Fit, FitTally

FITTING_VARIANCE = 0.5  # an SAE that explains less than this share is of no use there
BETTER_BY = 0.05  # explained variance by which another site must win to be named as the right one
RIVAL_TOKENS = 32  # of each call are looked at elsewhere


class SelfTest:
    """Measures an SAE at one site, call by call: the `see` of an Observer."""

    def __init__(self, sae: SparseAutoencoder, limit: int | None = None) -> None:
        """`limit` is the number of tokens of a call that count, evenly spread; all when None."""
        check_reconstructs(sae)
        self.sae = sae
        self.limit = limit
        self.broken = 0  # tokens with NaN or infinite entries, which are left out
        self._tally: FitTally | None = None  # made where the first activations lie

    def __call__(self, x: Tensor, moment: Moment) -> None:
        self.add(x, moment.sigma)

    @torch.no_grad()
    def add(self, x: Tensor, sigma: float) -> None:
        """Activations x (..., d_in) at one noise level."""
        tokens = x.reshape(-1, x.shape[-1])
        if self.limit is not None:
            tokens = tokens[:: -(-len(tokens) // self.limit)]
        tokens = tokens.float()
        sound = tokens.isfinite().all(dim=1)
        self.broken += int((~sound).sum())
        tokens = tokens[sound]
        if not len(tokens):
            return
        if self._tally is None:
            self._tally = FitTally(self._centre(tokens), self.sae.d_sae)
        codes = self.sae.encode_sparse(tokens, sigma)
        self._tally.add(tokens, codes, self.sae.decode_sparse(codes, like=tokens))

    def _centre(self, tokens: Tensor) -> Tensor:
        """Where cosines are taken from: the output bias, which is no fixed point of an SAE that normalises tokens."""
        bias = self.sae.weights.optional_vector("output_bias")
        if bias is None or self.sae.architecture.normalization != "none":
            return tokens.new_zeros(tokens.shape[-1])
        return bias.to(tokens.device)

    @property
    def fit(self) -> Fit | None:
        """What was measured; None before the first sound token."""
        return None if self._tally is None else self._tally.fit()


def rival_sites(site: Site, depth: Depth) -> list[Site]:
    """Where an SAE of another place may belong: the same point in every other block, other points, the other stream."""
    if len(site.blocks) != 1:
        return []
    places = [replace(site, blocks=(number,)) for number in range(depth.of(site.kind))]
    if site.stream != "joint" and site.point != "mlp":  # what all kinds of blocks have
        others = [kind for kind in depth.kinds if kind != site.kind]
        places += [replace(site, kind=kind, blocks=(number,)) for kind in others for number in range(depth.of(kind))]
    measured = [point for point in points_of(site.kind) if point != "transcoder"]
    places += [replace(site, point=point) for point in measured]
    if site.kind == "double":
        places.append(replace(site, stream="text" if site.stream == "image" else "image"))
    return [place for place in places if place != site]


@dataclass(frozen=True)
class Verdict:
    """Whether an SAE fits, and one sentence that says why."""

    fits: bool
    sentence: str


def judge(sae: SparseAutoencoder, site: Site, fit: Fit | None, rivals: Mapping[Site, Fit | None]) -> Verdict:
    """Weighs what was measured at the site against what was measured elsewhere."""
    wrong = f"This SAE does not fit this model at {site}: "
    if fit is None:
        return Verdict(False, wrong + "the model's activations there are not finite.")
    here = f"{fit.explained_variance:.1%} of the variance"
    if fit.l0 == 0:
        return Verdict(False, wrong + "none of its features fires.")
    seen = {place: found for place, found in rivals.items() if found is not None and found.l0}
    best = max(seen, key=lambda place: seen[place].explained_variance, default=None)
    if best is not None and seen[best].explained_variance > max(fit.explained_variance + BETTER_BY, FITTING_VARIANCE):
        there = f"{seen[best].explained_variance:.1%} at {best}"
        return Verdict(False, wrong + f"it explains {here} there, but {there}; use that location.")
    if not fit.explained_variance >= FITTING_VARIANCE:
        return Verdict(False, wrong + f"it explains {here}, and half of it is the least that is of use.")
    features = f"{fit.l0:.1f} of {sae.d_sae} features active per token"
    return Verdict(True, f"This SAE fits this model at {site}: it explains {here} with {features}.")


_NORMALIZATIONS = {
    "none": "none",
    "layer_norm": "each token to mean 0 and deviation 1, undone after decoding",
    "constant_norm": "each token to the length √d_in, undone after decoding",
}


def describe(sae: SparseAutoencoder, progress: Progress | None = None) -> dict[str, str]:
    """Lines of a report as {heading: text}. Reads the whole file once, for the fingerprint."""
    origin = sae.origin
    architecture = sae.architecture
    facts = {
        "name": sae.name,
        "layout": origin.layout if origin else "made in memory",
        "architecture": str(architecture),
        "width (d_in)": str(sae.d_in),
        "features (d_sae)": str(sae.d_sae),
        "selection": _selection(sae),
        "normalisation": _NORMALIZATIONS[architecture.normalization],
        "noise level": "codes depend on it" if sae.modulation is not None else "codes do not depend on it",
        "site": _place(sae),
        "type": _types(sae),
        "statistics": _statistics(sae),
        "model": "not told",
        "licence": "not told",
        "source": "not told",
        **provenance(sae),
        "fingerprint (SHA-256)": fingerprint(sae, progress),
    }
    if origin and origin.hook:
        facts["hook in the config"] = origin.hook
    for number, note in enumerate(origin.notes if origin else ()):
        facts["told" if number == 0 else f"told ({number + 1})"] = note
    return facts


def describe_set(sae: SaeSet, progress: Progress | None = None) -> dict[str, str]:
    """As `describe`, of a set: a line for each SAE, headed by the numbers of its features in the set."""
    facts = {
        "name": sae.name,
        "set of": f"{len(sae.members)} SAEs",
        "width (d_in)": str(sae.d_in),
        "features (d_sae)": str(sae.d_sae),
        "fingerprint of the set": fingerprint(sae, progress),
    }
    for member in sae.members:
        numbers = f"features {member.first} to {member.first + member.sae.d_sae - 1}"
        mark = fingerprint(member.sae)[:12]
        facts[numbers] = f"{member.site}: {member.sae.name}, {member.sae.architecture}, fingerprint {mark}…"
    return facts


def report(facts: Mapping[str, str], fit: Fit | None = None, verdict: Verdict | None = None) -> str:
    """The facts as aligned lines, then what the self-test measured, then its verdict."""
    rows = dict(facts)
    if fit is not None:
        rows["explained variance"] = f"{fit.explained_variance:.1%}"
        rows["L0 (features per token)"] = f"{fit.l0:.1f}"
        rows["cosine"] = f"{fit.cosine:.3f}"
        rows["dead features"] = f"{fit.dead_share:.1%} fired on none of the {fit.tokens} tokens of this test"
    width = max(map(len, rows))
    lines = [f"{heading:<{width}}  {text}" for heading, text in rows.items()]
    return "\n".join([*lines, *(["", verdict.sentence] if verdict else [])])


def _place(sae: SparseAutoencoder) -> str:
    if sae.site:
        return str(sae.site)
    home = home_of(sae)
    if home is None:
        return "not told by the file; give a location, or a target where it is an SAE of embeddings"
    target, tokens = home
    return f"before the generator: {tensor_name(target, sae.d_in)}" + ("" if tokens == ALL else f", token {tokens}")


def _selection(sae: SparseAutoencoder) -> str:
    kind, k = sae.architecture.kind, sae.architecture.k
    if kind == "groupmax":
        return f"the largest of each of {k} groups"
    if kind == "gated_topk":
        return f"the k = {k} largest magnitudes of each token, where their gate is open"
    if kind == "signed_topk":
        return f"the k = {k} largest of each token by size, with their signs"
    if kind == "matching_pursuit":
        return f"{k} times the one that fits best what is left"
    if k is not None:
        return f"the k = {k} largest of each token"
    threshold = sae.weights.optional_vector("threshold")
    if threshold is None:
        return "a gate for each feature" if kind == "gated" else "what is positive"
    if threshold.numel() == 1:
        return f"above the threshold {float(threshold):.4g}"
    return f"above each feature's threshold, {float(threshold.min()):.4g} to {float(threshold.max()):.4g}"


def _types(sae: SparseAutoencoder) -> str:
    sources = {weight.source.infos[weight.key].dtype for weight in sae.weights.tensors.values()}
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in sources))
    if sae.origin is None:
        return names
    size = sum(file.stat().st_size for file in sae.origin.files) / 1e6
    return f"{names}, {size:.1f} MB in {len(sae.origin.files)} file{'s' if len(sae.origin.files) > 1 else ''}"


def _statistics(sae: SparseAutoencoder) -> str:
    statistics = sae.statistics
    if statistics is None:
        return "none"
    present = [name for name in ("mean", "max", "density") if getattr(statistics, name) is not None]
    text = ", ".join(present) + (f" over {statistics.tokens} tokens" if statistics.tokens else "")
    if statistics.density is None:
        return text
    return f"{text}; L0 {float(statistics.density.sum()):.1f}, dead {float(statistics.dead.float().mean()):.1%}"
