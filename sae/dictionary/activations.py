"""From pre-activations to codes: the activation functions, the normalisations of the input, and sparse codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..files.quote import quoted

Kind = Literal[
    "topk", "signed_topk", "relu", "jumprelu", "gated", "gated_topk", "batchtopk", "groupmax", "tanh_relu",
    "matching_pursuit",
]  # fmt: skip
Normalization = Literal["none", "layer_norm", "constant_norm"]
DecoderNorm = Literal["none", "before", "after"]

LAYER_NORM_EPSILON = 1e-5  # added to the standard deviation, not to the variance


@dataclass(frozen=True)
class Architecture:
    """How an SAE computes its codes from x."""

    kind: Kind
    # Features kept per token: the k largest (topk), the k largest by size with their signs (signed_topk), the k
    # largest magnitudes, of which the gate then takes some off (gated_topk), one of each of k groups (groupmax), or the
    # one that fits best what the earlier ones left, k times (matching_pursuit).
    k: int | None = None
    rectify: bool = True  # whether a ReLU is part of the activation function; gated and tanh_relu always have theirs
    normalization: Normalization = "none"  # of each token, undone after decoding
    # Codes carry the norm of their decoder row, and directions have unit length: pre-activations are multiplied by
    # it before the activation function, or codes after it.
    decoder_norm: DecoderNorm = "none"

    def __post_init__(self) -> None:
        if self.kind not in VECTORS:
            raise ValueError(f"architecture: {quoted(self.kind)} is not known; use one of {', '.join(VECTORS)}.")
        if (self.k is None) == (self.kind in COMPETING):
            raise ValueError(
                f"k: a {self.kind} SAE {'needs' if self.k is None else 'has no'} k, but k is {quoted(self.k)}."
            )

    def __str__(self) -> str:
        words = [f"{self.kind} k={self.k}" if self.k is not None else self.kind]
        if not self.rectify:
            words.append("no ReLU")
        if self.normalization != "none":
            words.append(self.normalization.replace("_", " "))
        if self.decoder_norm != "none":
            words.append("codes times decoder norm")
        return ", ".join(words)


class SparseCodes(NamedTuple):
    """Codes of the active features only. Unused places have the value 0 and the index of any feature."""

    values: Tensor  # (..., n) float32
    indices: Tensor  # (..., n) int64

    def to_dense(self, d_sae: int) -> Tensor:
        """(..., d_sae) float32."""
        dense = self.values.new_zeros((*self.values.shape[:-1], d_sae))
        return dense.scatter_add_(-1, self.indices, self.values)

    def pick(self, ids: Tensor) -> Tensor:
        """(..., len(ids)): the codes of the features `ids` (n,), 0 where a feature is not active."""
        if not len(ids):
            return self.values.new_zeros((*self.values.shape[:-1], 0))
        wanted, places = (to_device(part, self.values.device) for part in ids.unique(return_inverse=True))
        found = torch.searchsorted(wanted, self.indices).clamp_max(len(wanted) - 1)
        values = torch.where(wanted[found] == self.indices, self.values, 0.0)
        picked = self.values.new_zeros((*self.values.shape[:-1], len(wanted)))
        return picked.scatter_add_(-1, found, values)[..., places]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor there, without waiting until a GPU has done what was asked of it before."""
    return tensor.to(device, non_blocking=device.type not in ("cpu", "mps"))


def merged(codes: SparseCodes) -> SparseCodes:
    """The same codes (tokens, n) with each feature once a token: the first place has the sum, later ones 0."""
    same = codes.indices.unsqueeze(2) == codes.indices.unsqueeze(1)
    first = same.int().argmax(dim=2)
    return SparseCodes(torch.zeros_like(codes.values).scatter_add_(1, first, codes.values), codes.indices)


class TokenFrame(NamedTuple):
    """The normalisation of each token: x = scale · normalised + shift."""

    scale: Tensor  # (..., 1)
    shift: Tensor  # (..., 1)


def normalize(x: Tensor, normalization: Normalization) -> Tensor:
    """x (..., d_in) float32, each token normalised on its own."""
    if normalization == "none":
        return x
    scale, shift = token_frame(x, normalization)
    if normalization == "layer_norm":
        return (x - shift) / (scale + LAYER_NORM_EPSILON)
    return torch.where(scale > 0, x / scale, 0.0)


def token_frame(x: Tensor, normalization: Normalization) -> TokenFrame:
    """What undoes `normalize` after decoding, for x (..., d_in)."""
    zeros = torch.zeros_like(x[..., :1], dtype=torch.float32)
    if normalization == "none":
        return TokenFrame(zeros + 1, zeros)
    x = x.float()
    if normalization == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().sum(-1, keepdim=True) / max(1, x.shape[-1] - 1)  # the unbiased one
        return TokenFrame(variance.sqrt(), mean)
    return TokenFrame(x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5, zeros)


def _relu(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    return pre.relu() if rectify else pre


def _same(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    return pre


def _threshold(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    return _relu(pre, vectors, rectify) * (pre > vectors["threshold"])


def _tanh_relu(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    return pre.relu().tanh()


def _gated(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    magnitude = (pre * vectors["r_mag"].exp() + vectors["magnitude_bias"]).relu()
    return magnitude * (pre + vectors["gate_bias"] > 0)


def _magnitudes(pre: Tensor, vectors: Mapping[str, Tensor], rectify: bool) -> Tensor:
    """Behind a closed gate they are negative: chosen by size, the k largest of all are found, and ReLU ends those."""
    magnitude = (pre * vectors["r_mag"].exp() + vectors["magnitude_bias"]).relu()
    return torch.where(pre + vectors["gate_bias"] > 0, magnitude, -magnitude)


_FUNCTIONS: dict[Kind, Callable[[Tensor, Mapping[str, Tensor], bool], Tensor]] = {
    "topk": _relu,
    "signed_topk": _same,
    "relu": _relu,
    "jumprelu": _threshold,
    "gated": _gated,
    "gated_topk": _magnitudes,
    "batchtopk": _threshold,  # the threshold stands in for the selection over the training batch
    "groupmax": _relu,
    "tanh_relu": _tanh_relu,
    "matching_pursuit": _relu,
}
COMPETING: tuple[Kind, ...] = (
    "topk",
    "signed_topk",
    "gated_topk",
    "groupmax",
    "matching_pursuit",
)  # every feature has to be computed to know one
# The per-feature vectors that each kind reads besides its optional encoder bias.
VECTORS: dict[Kind, tuple[str, ...]] = {
    "topk": (),
    "signed_topk": (),
    "relu": (),
    "jumprelu": ("threshold",),
    "gated": ("gate_bias", "magnitude_bias", "r_mag"),
    "gated_topk": ("gate_bias", "magnitude_bias", "r_mag"),
    "batchtopk": ("threshold",),
    "groupmax": (),
    "tanh_relu": (),
    "matching_pursuit": (),
}


def activate(pre: Tensor, vectors: Mapping[str, Tensor], architecture: Architecture) -> Tensor:
    """Codes (tokens, n) of n features from pre-activations (tokens, n), before topk's or groupmax's selection.

    `vectors` holds what `VECTORS` lists, each (n,), and `decoder_norm` (n,) where the architecture uses it.
    """
    if architecture.decoder_norm == "before":
        pre = pre * vectors["decoder_norm"]
    codes = _FUNCTIONS[architecture.kind](pre, vectors, architecture.rectify)
    if architecture.decoder_norm == "after":
        codes = codes * vectors["decoder_norm"]
    return codes


class RunningTopK:
    """The k largest codes of each token, over chunks of features; with `signed` the largest by size."""

    def __init__(self, tokens: int, k: int, device: torch.device, signed: bool = False) -> None:
        self.signed = signed
        self.values = torch.full((tokens, k), 0.0 if signed else -torch.inf, device=device)
        self.indices = torch.zeros((tokens, k), dtype=torch.int64, device=device)

    def add(self, first_feature: int, tokens: slice, codes: Tensor) -> None:
        """Takes codes (tokens, n) of the features from `first_feature` on."""
        k = self.values.shape[1]
        order = self._sizes(codes).topk(min(k, codes.shape[1]), dim=1, sorted=False).indices
        values = torch.cat([self.values[tokens], codes.gather(1, order)], dim=1)
        indices = torch.cat([self.indices[tokens], order + first_feature], dim=1)
        order = self._sizes(values).topk(k, dim=1).indices
        self.values[tokens] = values.gather(1, order)
        self.indices[tokens] = indices.gather(1, order)

    def _sizes(self, codes: Tensor) -> Tensor:
        return codes.abs() if self.signed else codes


class RunningGroupMax:
    """The largest code of each token in each of k contiguous groups, over chunks of features. Ties: the first."""

    def __init__(self, tokens: int, k: int, d_sae: int, device: torch.device) -> None:
        self.size = d_sae // k
        self.values = torch.full((tokens, k), -torch.inf, device=device)
        self.indices = torch.zeros((tokens, k), dtype=torch.int64, device=device)

    def add(self, first_feature: int, tokens: slice, codes: Tensor) -> None:
        """Takes codes (tokens, n) of the features from `first_feature` on."""
        stop = first_feature + codes.shape[1]
        for group in range(first_feature // self.size, -(-stop // self.size)):
            begin = max(group * self.size, first_feature)
            part = codes[:, begin - first_feature : min((group + 1) * self.size, stop) - first_feature]
            values, places = part.max(dim=1)
            better = values > self.values[tokens, group]
            self.values[tokens, group] = torch.where(better, values, self.values[tokens, group])
            self.indices[tokens, group] = torch.where(better, places + begin, self.indices[tokens, group])


class ActiveList:
    """All non-zero codes of each token, over chunks of features."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self._tokens = tokens
        self._found: list[tuple[Tensor, Tensor, Tensor]] = [
            (
                torch.empty(0, dtype=torch.int64, device=device),
                torch.empty(0, dtype=torch.int64, device=device),
                torch.empty(0, device=device),
            )
        ]

    def add(self, first_feature: int, tokens: slice, codes: Tensor) -> None:
        """Takes codes (tokens, n) of the features from `first_feature` on."""
        rows, columns = codes.nonzero(as_tuple=True)
        self._found.append((rows + tokens.start, columns + first_feature, codes[rows, columns]))

    def pack(self) -> SparseCodes:
        """(tokens, n) with n the largest number of active features of a token; features in ascending order."""
        rows, columns, values = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        order = rows.argsort(stable=True)
        rows, columns, values = rows[order], columns[order], values[order]
        counts = torch.bincount(rows, minlength=self._tokens)
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(rows), device=rows.device) - starts[rows]
        width = int(counts.max()) if self._tokens else 0
        packed = SparseCodes(values.new_zeros((self._tokens, width)), columns.new_zeros((self._tokens, width)))
        packed.values[rows, place] = values
        packed.indices[rows, place] = columns
        return packed
