"""Run by the Python that has sae-lens: `python sae_lens_side.py FOLDER`. Imports nothing of this project.

Loads FOLDER/exports/*/ with sae-lens and encodes FOLDER/x.safetensors; saves SAEs of its own in FOLDER/written/*/.
Codes and reconstructions are in FOLDER/results, and what the loaded SAEs say of themselves is in FOLDER/told.json.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from safetensors.torch import load_file, save_file

D, F, K = 12, 40, 5
COMMON = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu"}
TOPK = {"architecture": "topk", "k": K}
OWN = {
    "standard": {"architecture": "standard"},
    "standard, uncentred": {"architecture": "standard", "apply_b_dec_to_input": False},
    "standard, layer norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "standard, constant norm": {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
    "topk": TOPK,
    "topk, rescaled": {**TOPK, "rescale_acts_by_decoder_norm": True},
    "topk, rescaled, layer norm": {
        **TOPK, "rescale_acts_by_decoder_norm": True, "normalize_activations": "layer_norm",
    },
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu, uncentred": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    "gated": {"architecture": "gated"},
}  # fmt: skip
TRAINED = {
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {}),
    "batchtopk, not rescaled": (
        BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"rescale_acts_by_decoder_norm": False},
    ),
    "matryoshka": (
        MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig, {"matryoshka_widths": [10, 20, F]},
    ),
}  # fmt: skip


def main(folder: Path) -> None:
    x = load_file(folder / "x.safetensors")["x"]
    for kind in ("exports", "written"):
        (folder / "results" / kind).mkdir(parents=True)
    told = {}
    for path in sorted((folder / "exports").iterdir()):
        sae = SAE.load_from_disk(path)
        keep(folder / "results" / "exports", path.name, sae, x)
        told[path.name] = {
            "class": type(sae).__name__,
            "dtype": str(sae.W_enc.dtype),
            "hook_name": sae.cfg.metadata.hook_name,
            "k": getattr(sae.cfg, "k", None),
        }
    results = folder / "results" / "written"
    random = torch.Generator().manual_seed(21)
    for name, config in OWN.items():
        sae = SAE.from_dict({**COMMON, **config, "metadata": {"hook_name": "transformer_blocks.2-text"}})
        fill(sae, random)
        sae.save_model(folder / "written" / name)
        keep(results, name, sae, x)
    for name, (sae_class, config_class, more) in TRAINED.items():
        sae = sae_class(config_class(**COMMON, k=K, **more))
        fill(sae, random)
        sae.topk_threshold.fill_(0.8)
        sae.save_model(folder / "written" / name)
        sae.save_inference_model(folder / "written" / f"{name}, inference")
        inference = SAE.load_from_disk(folder / "written" / f"{name}, inference")
        keep(results, name, inference, x)
        keep(results, f"{name}, inference", inference, x)
    (folder / "told.json").write_text(json.dumps({"version": version("sae-lens"), "saes": told}), encoding="utf-8")


def fill(sae: torch.nn.Module, random: torch.Generator) -> None:
    for name, parameter in sae.named_parameters():
        values = torch.randn(parameter.shape, generator=random)
        parameter.data = values.abs() if name == "threshold" else values * (1 if name == "W_enc" else 0.4)


def keep(folder: Path, name: str, sae: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        f = sae.encode(x)
        xhat = sae.decode(f)
    save_file({"f": f.float().contiguous(), "xhat": xhat.float().contiguous()}, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
