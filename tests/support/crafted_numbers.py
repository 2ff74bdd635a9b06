"""Code, and numbers that are finite in the file and infinite in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crafted import MARKS, RENY, TRAINER, case, safetensors, written
from hostile_pickle import archive, reduced, saved
from layouts import D, F, K, linear, matrices

# What would run code

for _protocol in (0, 2, 4, 5):

    @case(f"code, protocol {_protocol}")
    def _code(folder: Path, protocol: int = _protocol) -> Path:
        return archive(folder / "ae.pt", reduced(folder, protocol), [])

    @case(f"code, protocol {_protocol}, as a plain pickle")
    def _code_plain(folder: Path, protocol: int = _protocol) -> Path:
        (folder / "ae.pt").write_bytes(reduced(folder, protocol))
        return folder / "ae.pt"


@case("code in the statistics' mean.pt")
def _code_beside(folder: Path) -> Path:
    archive(folder / "mean.pt", reduced(folder, 2), [])
    written(folder, "config.json", {"k": K, "d_model": D, "n_dirs_local": F})
    return saved(folder / "state_dict.pth", {"state_dict": linear("pre_bias", "latent_bias")})


# Finite in the file, infinite in use

_GATED = {
    "decoder_bias": torch.zeros(D), "encoder.weight": torch.ones(F, D), "r_mag": torch.zeros(F),
    "gate_bias": torch.zeros(F), "mag_bias": torch.zeros(F), "decoder.weight": torch.ones(D, F),
}  # fmt: skip
_OVERCOMPLETE = {
    "encoder.final_block.0.weight": torch.ones(F, D), "encoder.final_block.0.bias": torch.ones(F),
    "dictionary._weights": torch.ones(F, D), "dictionary.multiplier": torch.zeros(()),
    "thresholds": torch.zeros(F),
}  # fmt: skip
_JUMP = {**linear("bias", "encoder.bias"), "logthres": torch.full((F,), 200.0)}
_DIFFRACT = {
    "encoder.weight": torch.ones(F, D), "encoder.bias": torch.ones(F), "decoder.weight": torch.ones(D, F),
    "decoder.bias": torch.ones(D), **{f"time_mlp.{n}.weight": torch.full((4, 4), 1e7) for n in (0, 2)},
    **{f"time_mlp.{n}.bias": torch.full((4,), 1e7) for n in (0, 2)}, "mod_linear.weight": torch.full((2 * D, 4), 1e7),
    "mod_linear.bias": torch.zeros(2 * D),
}  # fmt: skip
for _name, _file, _state, _config in (
    (
        "F64 beyond float32",
        "ae.pt",
        {**linear("bias", "encoder.bias"), "bias": torch.full((D,), 1e300, dtype=torch.float64)},
        TRAINER,
    ),
    (
        "a matrix of 1e38",
        "ae.pt",
        {**linear("bias", "encoder.bias"), "encoder.weight": torch.full((F, D), 3e38)},
        TRAINER,
    ),
    ("a gate's factor e^1000", "ae.pt", {**_GATED, "r_mag": torch.full((F,), 1000.0)}, RENY),
    ("a gate's factor e^80", "ae.pt", {**_GATED, "r_mag": torch.full((F,), 80.0)}, RENY),
    ("a threshold e^200", "ae.pt", _JUMP, RENY),
    ("a multiplier e^200", "sae_overcomplete.pt", {**_OVERCOMPLETE, "dictionary.multiplier": torch.tensor(200.0)}, {}),
    (
        "a multiplier e^1e300",
        "o.pt",
        {**_OVERCOMPLETE, "dictionary.multiplier": torch.tensor(1e300, dtype=torch.float64)},
        {},
    ),
    ("layers for the noise level that overflow", "sae_img_3.pt", _DIFFRACT, {}),
):

    @case(_name)
    def _numbers(folder: Path, file: str = _file, state: dict[str, Any] = _state, config: Any = _config) -> Path:
        written(folder, "config.json", config)
        return saved(folder / file, state)


for _factor in (1e-30, 1e29, 10**400):

    @case(f"a norm's factor of {str(_factor)[:5]}, {type(_factor).__name__}")
    def _factor_of(folder: Path, factor: float = _factor) -> Path:
        config = {"architecture": "standard", "d_in": D, "d_sae": F, "norm_scaling_factor": factor}
        written(folder, "cfg.json", {**config, "normalize_activations": "expected_average_only_in"})
        return safetensors(folder / "sae_weights.safetensors", matrices())


for _name, _tensors in {
    "F64 beyond float32": {"max": torch.full((F,), 1e300, dtype=torch.float64)},
    "1e38": {"mean": torch.full((F,), 1e38)},
    "NaN": {"density": torch.full((F,), float("nan"))}, "too many": {"max": torch.ones(F, 2)},
}.items():  # fmt: skip

    @case(f"statistics with {_name}")
    def _statistics(folder: Path, tensors: dict[str, torch.Tensor] = _tensors) -> Path:
        safetensors(folder / "ae.stats.safetensors", tensors)
        written(folder, "config.json", TRAINER)
        return saved(folder / "ae.pt", linear("bias", "encoder.bias"))


@case("statistics of an owner with marks in an endless name")
def _statistics_owner(folder: Path) -> Path:
    safetensors(folder / "ae.stats.safetensors", {"max": torch.ones(F)}, {"identity": "ab" * 16, "name": MARKS * 99})
    written(folder, "config.json", TRAINER)
    return saved(folder / "ae.pt", linear("bias", "encoder.bias"))
