"""SAEs of every kind to write in other layouts, and what they must compute, in the plain dense way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

D, F, K = 12, 40, 5


@dataclass(frozen=True)
class Case:
    """`architecture`: the fields of sae.activations.Architecture."""

    architecture: dict[str, object]
    without: tuple[str, ...] = ()  # tensors that the SAE does not have
    shared: bool = False  # what is added to the output is taken off the input
    modulated: bool = False
    targets: str = "saelens dictionary_learning"  # beside our own layout
    more: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(17)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        tensors = {"encoder": draw(F, D), "decoder": 0.5 * draw(F, D), "encoder_bias": 0.3 * draw(F)}
        tensors |= {"input_bias": 0.3 * draw(D), "output_bias": 0.3 * draw(D)}
        if self.shared:
            tensors["input_bias"] = tensors["output_bias"]
        if self.architecture["kind"] == "gated":
            tensors |= {name: 0.4 * draw(F) for name in ("gate_bias", "magnitude_bias", "r_mag")}
        if self.architecture["kind"] == "jumprelu":
            tensors["threshold"] = 2 * draw(F).abs()
        if self.architecture["kind"] == "batchtopk":
            tensors["threshold"] = torch.tensor(1.5)
        return {name: tensor for name, tensor in (tensors | self.more).items() if name not in self.without}

    def modulation(self) -> dict[str, Tensor] | None:
        random = torch.Generator().manual_seed(18)
        if not self.modulated:
            return None
        shapes = {"time_mlp.0": (8, 8), "time_mlp.2": (8, 8), "mod_linear": (2 * D, 8)}
        layers = {f"{name}.weight": torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}
        return layers | {f"{name}.bias": torch.randn(shape[0], generator=random) for name, shape in shapes.items()}

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x = scale · normalised + shift, token by token."""
        kind = self.architecture.get("normalization", "none")
        if kind == "layer_norm":
            return x.std(-1, keepdim=True), x.mean(-1, keepdim=True)
        if kind == "constant_norm":
            return x.norm(dim=-1, keepdim=True) / D**0.5, torch.zeros(len(x), 1)
        return torch.ones(len(x), 1), torch.zeros(len(x), 1)

    def codes(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """x (n, D) -> (n, F)"""
        t, a = self.tensors(), self.architecture
        scale, shift = self.scale_and_shift(x)
        y = (x - shift) / (scale + (1e-5 if a.get("normalization") == "layer_norm" else 0.0))
        if self.modulated:
            grown, moved = self._time(sigma)
            y = y * (1 + grown) + moved
        p = (y - t.get("input_bias", 0.0)) @ t["encoder"].T + t.get("encoder_bias", 0.0)
        norms = t["decoder"].norm(dim=1)
        if a.get("decoder_norm") == "before":
            p = p * norms
        f = self._activated(p, t)
        if a.get("decoder_norm") == "after":
            f = f * norms
        return self._selected(f)

    def _time(self, sigma: float) -> tuple[Tensor, Tensor]:
        m = self.modulation()
        angles = sigma * 10_000 ** -(torch.arange(4) / 3)
        hidden = torch.cat([angles.sin(), angles.cos()])
        for name in ("time_mlp.0", "time_mlp.2"):
            hidden = m[f"{name}.weight"] @ hidden + m[f"{name}.bias"]
            hidden = hidden / (1 + torch.exp(-hidden))
        out = m["mod_linear.weight"] @ hidden + m["mod_linear.bias"]
        return out[:D], out[D:]

    def _activated(self, p: Tensor, t: dict[str, Tensor]) -> Tensor:
        kind = self.architecture["kind"]
        positive = torch.where(p > 0, p, torch.zeros_like(p))
        if kind == "gated":
            magnitude = torch.exp(t["r_mag"]) * p + t["magnitude_bias"]
            return magnitude.clamp(min=0) * (p + t["gate_bias"] > 0)
        if kind == "tanh_relu":
            return torch.tanh(positive)
        kept = p if self.architecture.get("rectify") is False else positive
        return kept * (p > t["threshold"]) if "threshold" in t else kept

    def _selected(self, f: Tensor) -> Tensor:
        if self.architecture["kind"] == "topk":
            rank = f.argsort(-1, descending=True).argsort(-1)
            return f * (rank < self.architecture["k"])
        if self.architecture["kind"] == "groupmax":
            groups = f.view(len(f), self.architecture["k"], -1)
            return (groups * (groups == groups.amax(-1, keepdim=True))).view_as(f)
        return f

    def directions(self) -> Tensor:
        rows = self.tensors()["decoder"]
        if self.architecture.get("decoder_norm", "none") == "none":
            return rows
        lengths = rows.norm(dim=1, keepdim=True)
        return torch.where(lengths > 0, rows / lengths, 0.0)

    def decoded(self, f: Tensor, x: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(x)
        return (f @ self.directions() + self.tensors().get("output_bias", 0.0)) * scale + shift


def tokens(count: int = 50) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(19)) * 1.5 + 0.2


def _topk(**more: object) -> dict[str, object]:
    return {"kind": "topk", "k": K, **more}


_EVERYWHERE = "saelens reny_topk dictionary_learning"
_DEAD = {"decoder": torch.cat([torch.zeros(2, D), torch.randn(F - 2, D, generator=torch.Generator().manual_seed(20))])}

CASES = {
    "topk": Case(_topk(), targets=_EVERYWHERE),
    "topk, one bias": Case(_topk(), shared=True, targets=_EVERYWHERE),
    "topk, no biases": Case(_topk(), ("input_bias", "output_bias", "encoder_bias"), targets=_EVERYWHERE),
    "topk, rescaled": Case(_topk(decoder_norm="before"), targets=_EVERYWHERE),
    "topk, rescaled, one bias": Case(_topk(decoder_norm="before"), shared=True, targets=_EVERYWHERE),
    "topk, rescaled after": Case(_topk(decoder_norm="after"), targets=_EVERYWHERE),
    "topk, rescaled, dead": Case(_topk(decoder_norm="before"), targets=_EVERYWHERE, more=_DEAD),
    "topk, layer norm": Case(_topk(normalization="layer_norm", decoder_norm="before"), targets="saelens"),
    "topk, constant norm": Case(_topk(normalization="constant_norm"), shared=True, targets="saelens"),
    "topk, no ReLU": Case({"kind": "topk", "k": 30, "rectify": False}, targets=""),
    "relu": Case({"kind": "relu"}),
    "relu, one bias": Case({"kind": "relu"}, shared=True),
    "relu, no input bias": Case({"kind": "relu"}, ("input_bias",)),
    "relu, norm after": Case({"kind": "relu", "decoder_norm": "after"}, shared=True),
    "relu, norm before": Case({"kind": "relu", "decoder_norm": "before"}),
    "relu, norm after, dead": Case({"kind": "relu", "decoder_norm": "after"}, more=_DEAD),
    "relu, layer norm": Case({"kind": "relu", "normalization": "layer_norm"}, targets="saelens"),
    "relu, constant norm": Case({"kind": "relu", "normalization": "constant_norm"}, targets="saelens"),
    "identity": Case({"kind": "relu", "rectify": False}, targets=""),
    "jumprelu": Case({"kind": "jumprelu"}),
    "jumprelu, one bias": Case({"kind": "jumprelu"}, shared=True),
    "jumprelu, norm before": Case({"kind": "jumprelu", "decoder_norm": "before"}),
    "jumprelu, norm after": Case({"kind": "jumprelu", "decoder_norm": "after"}),
    "jumprelu, norm after, dead": Case({"kind": "jumprelu", "decoder_norm": "after"}, more=_DEAD),
    "jumprelu, no ReLU": Case({"kind": "jumprelu", "rectify": False}),
    "jumprelu, negative codes": Case(
        {"kind": "jumprelu", "rectify": False}, targets="", more={"threshold": torch.linspace(-1, 1, F)}
    ),
    "jumprelu, negative threshold": Case({"kind": "jumprelu"}, more={"threshold": torch.linspace(-1, 1, F)}),
    "jumprelu, layer norm": Case({"kind": "jumprelu", "normalization": "layer_norm"}, targets="saelens"),
    "gated": Case({"kind": "gated"}, ("encoder_bias",)),
    "gated, one bias": Case({"kind": "gated"}, ("encoder_bias",), shared=True),
    "gated, encoder bias": Case({"kind": "gated"}),
    "gated, norm after": Case({"kind": "gated", "decoder_norm": "after"}, ("encoder_bias",), shared=True),
    "gated, norm after, biases": Case({"kind": "gated", "decoder_norm": "after"}),
    "gated, norm after, dead": Case({"kind": "gated", "decoder_norm": "after"}, more=_DEAD),
    "gated, norm before": Case({"kind": "gated", "decoder_norm": "before"}),
    "gated, constant norm": Case({"kind": "gated", "normalization": "constant_norm"}, targets="saelens"),
    "batchtopk": Case({"kind": "batchtopk"}),
    "batchtopk, one bias": Case({"kind": "batchtopk"}, shared=True),
    "batchtopk, norm before": Case({"kind": "batchtopk", "decoder_norm": "before"}, shared=True),
    "batchtopk, norm after": Case({"kind": "batchtopk", "decoder_norm": "after"}),
    "batchtopk, thresholds": Case({"kind": "batchtopk"}, more={"threshold": torch.linspace(0, 3, F)}),
    "batchtopk, layer norm": Case({"kind": "batchtopk", "normalization": "layer_norm"}, targets="saelens"),
    "groupmax": Case({"kind": "groupmax", "k": K}, targets=""),
    "tanh": Case({"kind": "tanh_relu"}, targets=""),
    "modulation": Case({"kind": "relu"}, ("input_bias",), modulated=True, targets=""),
}
