"""Layouts whose configs were once misread, or that came later, each with the formula that it publishes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layouts import Case, D, F, K, above, draw, linear, matrices, pre_linear, pre_matrices, top


def largest(pre: Tensor, k: int = K) -> Tensor:
    """The k largest of each row by size, with their signs."""
    return torch.where(pre.abs() >= pre.abs().sort(-1).values[:, -k, None], pre, 0.0)


def like_saelens(kind: str = "topk", extra: dict[str, Any] | None = None, **config: Any) -> Case:
    """A `cfg.json` beside W_enc and W_dec, in whatever words."""
    t = matrices() | (extra or {})
    pre = pre_matrices(t)
    codes = {"topk": lambda x: top(pre(x)).relu(), "relu": lambda x: pre(x).relu()}[kind]
    return Case("sae_weights.safetensors", t, codes, t["W_dec"], t["b_dec"], {"cfg.json": config})


def signed(**config: Any) -> Case:
    t = linear("b_dec", "encoder.bias")
    pre = pre_linear(t, "b_dec", "encoder.bias")
    rows = t.pop("decoder.weight").T.contiguous()
    whole = {"expansion_factor": 4, "normalize_decoder": True, "num_latents": F, "k": K, "signed": True, "d_in": D}
    configs = {"cfg.json": whole | config}
    return Case("sae.safetensors", {**t, "W_dec": rows}, lambda x: largest(pre(x)), rows, t["b_dec"], configs)


def saev_header(line: dict[str, Any], kind: str = "topk") -> Case:
    t = matrices()
    pre = pre_matrices(t, subtract=False)
    codes = {"topk": lambda x: top(pre(x)), "relu": lambda x: pre(x).relu()}[kind]
    return Case("sae.pt", t, codes, t["W_dec"], t["b_dec"], line=line)


def llama_scope(**config: Any) -> Case:
    """p = x · √d / norm_in · Wᵀ + b; f = p where p · ‖row‖ > threshold; x̂ = (W f + b) · norm_out / √d."""
    t = linear("decoder.bias", "encoder.bias")
    whole: dict[str, Any] = {
        "act_fn": "jumprelu", "jump_relu_threshold": 0.6, "norm_activation": "dataset-wise", "d_model": D, "d_sae": F,
        "dataset_average_activation_norm": {"in": 5.0, "out": 6.0}, "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False, "use_decoder_bias": True, "use_glu_encoder": False,
        "hook_point_in": "blocks.17.hook_resid_post", "hook_point_out": "blocks.17.hook_resid_post", "top_k": 50,
        "expansion_factor": 8, "dtype": "torch.bfloat16", "lp": 1, "strict_loading": True, "ignore_token_ids": None,
    }  # fmt: skip
    whole |= config
    into, out = 1.0, 1.0
    if whole["norm_activation"] == "dataset-wise":
        into, out = (D**0.5 / whole["dataset_average_activation_norm"][side] for side in ("in", "out"))
    norms = t["decoder.weight"].norm(dim=0) if whole["sparsity_include_decoder_norm"] else torch.ones(F)

    def codes(x: Tensor) -> Tensor:
        p = x * into @ t["encoder.weight"].T + t["encoder.bias"]
        if whole["act_fn"] == "relu":
            return p.relu()
        return (p * (p * norms > whole["jump_relu_threshold"])).relu()

    normalised = "constant_norm" if whole["norm_activation"] == "token-wise" else None
    rows, bias = t["decoder.weight"].T / out, t["decoder.bias"] / out
    configs = {"hyperparams.json": whole}
    return Case("checkpoints/final.safetensors", t, codes, rows, bias, configs, normalised=normalised)


def qwen_scope(folder: str = f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}", **config: Any) -> Case:
    t = matrices()
    pre = pre_matrices(t, subtract=False)
    state = {**t, "W_enc": t["W_enc"].T.contiguous(), "W_dec": t["W_dec"].T.contiguous()}
    configs = {f"{folder}/config.json": config} if config else {}
    return Case(f"{folder}/layer17.sae.pt", state, lambda x: top(pre(x)), t["W_dec"], t["b_dec"], configs)


def prisma_gated(architecture: str, activation: str = "topk") -> Case:
    """f = 1[gate > 0] · relu(m), of which, where the activation function is applied, m is its k largest."""
    t = matrices() | {"b_gate": draw(F), "b_mag": draw(F), "r_mag": draw(F, scale=0.5)}

    def codes(x: Tensor) -> Tensor:
        p = (x - t["b_dec"]) @ t["W_enc"]
        magnitude = p * t["r_mag"].exp() + t["b_mag"]
        if architecture.startswith("prisma_gated_topk"):
            magnitude = top(magnitude)
        return (p + t["b_gate"] > 0) * magnitude.relu()

    config = {"d_in": D, "d_sae": F, "architecture": "gated", "activation_fn_str": activation}
    config |= {
        "activation_fn_kwargs": {"k": K} if activation == "topk" else {},
        "hook_point_layer": 3,
        "layer_subtype": "hook_resid_post",
    }
    configs = {"config.json": config}
    return Case("weights.pt", t, codes, t["W_dec"], t["b_dec"], configs, architecture=architecture)


def saev_batch(threshold: float) -> Case:
    t = matrices() | {"activation.threshold": torch.tensor(threshold)}
    pre = pre_matrices(t, subtract=False)
    line = {"schema": 5, "cfg": {"d_model": D, "d_sae": F, "activation": {"cls": "BatchTopK", "params": {"top_k": K}}}}
    return Case("sae.pt", t, lambda x: above(pre(x), max(threshold, 0.0)), t["W_dec"], t["b_dec"], line=line)


def topk_sae(kind: str = "topk_sae", decoder: str = "W_dec", **config: Any) -> Case:
    t = linear("b_dec", "encoder.bias")
    pre = pre_linear(t, "b_dec", "encoder.bias")
    rows = t.pop("decoder.weight").T.contiguous()
    whole = {"model_type": kind, "hidden_size": D, "latent_size": F, "k": K, "normalize_decoder": True}
    state = {**t, decoder: rows.T.contiguous() if decoder == "decoder.weight" else rows}
    configs = {"config.json": whole | config}
    return Case("model.safetensors", state, lambda x: top(pre(x).relu()), rows, t["b_dec"], configs)


# Words that other projects use for what is computed, and one that nobody does.
ADDED: dict[str, Any] = {
    "signed": True, "k": 9, "top_k": 9, "activation": "tanh", "activation_fn_str": "softmax", "act_fn": "gelu",
    "threshold": 0.7, "jump_relu_threshold": 0.7, "normalize_activations": "sqrt_d", "norm_activation": "batch-wise",
    "input_unit_norm": True, "apply_b_dec_to_input": False, "sae_type": "gated", "architecture": "gated_jump",
    "model_type": "l1_sae", "use_encoder_bias": False, "rescale_acts_by_decoder_norm": True, "is_transcoder": True,
    "transcode": True, "sample": "gumbel", "groupmax": True, "postact_fn": "Identity", "unheard_of": 7,
}  # fmt: skip
