"""Layouts with W_enc and W_dec, and overcomplete's dictionaries (F5, F6, H6, H7, J, K, L, M)."""

from __future__ import annotations

from typing import Any

import torch

from layouts import Case, D, F, K, above, draw, gated, matrices, pre_matrices, top, unit

WHERE = {"hook_name": "transformer_blocks.3.ff_context"}
SITE = "transformer_blocks.3.ff_context (text)"


def saelens(config: dict[str, Any], kind: str = "relu", extra: dict[str, Any] | None = None, **more: Any) -> Case:
    """`kind` is what the config must come to."""
    t = matrices() | (extra or {})
    lengths = t["W_dec"].norm(dim=1) if more.pop("rescaled", False) else torch.ones(F)
    pre = pre_matrices(t, more.pop("subtract", True))
    factor = t["scaling_factor"] if config.get("finetuning_scaling_factor") else torch.ones(F)
    codes = {
        "relu": lambda x: pre(x).relu(),
        "tanh": lambda x: pre(x).relu().tanh(),
        "topk": lambda x: top(pre(x) * lengths).relu(),
        "threshold": lambda x: above((pre(x) * lengths).relu(), t["topk_threshold"]),
    }[kind]
    rows = t["W_dec"] / lengths[:, None] * factor[:, None]
    configs = {"cfg.json": {"d_in": D, "d_sae": F, "dtype": "torch.float32", **config}}
    return Case("sae_weights.safetensors", t, codes, rows, t["b_dec"], configs, **more)


def batch_topk(architecture: str, rescaled: bool) -> Case:
    config = {"architecture": architecture, "k": K, "metadata": WHERE, "normalize_activations": "none"}
    config |= {} if rescaled else {"rescale_acts_by_decoder_norm": False}
    return saelens(config, "threshold", {"topk_threshold": torch.tensor(1.2)}, rescaled=rescaled, site=SITE)


def old(
    kind: str = "relu", extra: dict[str, Any] | None = None, more: dict[str, Any] | None = None, **config: Any
) -> Case:
    base = {"hook_point": "transformer_blocks.3.ff_context", "hook_point_layer": 3, "model_name": "flux"}
    return saelens({**base, **config}, kind, extra, site=SITE, **(more or {}))


def matryoshka() -> Case:
    t = matrices()
    pre = pre_matrices(t)
    sizes = {"k": torch.tensor(K), "group_sizes": torch.tensor([8, 24]), "threshold": torch.tensor(0.8)}
    config = {"trainer": {"dict_class": "MatryoshkaBatchTopKSAE", "activation_dim": D, "dict_size": F, "k": K}}
    codes = lambda x: above(pre(x).relu(), 0.8)  # noqa: E731
    return Case("ae.pt", {**t, **sizes}, codes, t["W_dec"], t["b_dec"], {"config.json": config})


def dictionary_jumprelu() -> Case:
    t = matrices() | {"threshold": draw(F).abs()}
    pre = pre_matrices(t, subtract=False)
    config = {"trainer": {"dict_class": "JumpReluAutoEncoder", "activation_dim": D, "dict_size": F}}
    codes = lambda x: above(pre(x), t["threshold"]).relu()  # noqa: E731
    return Case("ae.pt", t, codes, t["W_dec"], t["b_dec"], {"config.json": config})


def prisma(kind: str, normalize: str | None = None, **config: Any) -> Case:
    t = matrices()
    pre = pre_matrices(t)
    base = {"d_in": D, "d_sae": F, "expansion_factor": 3, "architecture": "standard", "is_transcoder": False}
    base |= {"activation_fn_str": kind, "activation_fn_kwargs": {"k": K} if kind == "topk" else {}}
    base |= {"normalize_activations": normalize, "hook_point_layer": 3, "layer_subtype": "hook_resid_post"}
    codes = {
        "relu": lambda x: pre(x).relu(),
        "tanh-relu": lambda x: pre(x).relu().tanh(),
        "topk": lambda x: top(pre(x)).relu(),
    }[kind]
    if config.get("architecture") == "gated":
        t |= {"b_gate": draw(F), "b_mag": draw(F), "r_mag": draw(F, scale=0.5)}
        codes = gated(t, pre_matrices(t, biased=False), "b_gate", "b_mag")
    normalised = {"constant_norm_rescale": "constant_norm"}.get(str(normalize), normalize)
    configs = {"config.json": {**base, **config}}
    return Case("n_images_2600058.pt", t, codes, t["W_dec"], t["b_dec"], configs, normalised=normalised)


def saedit(normalised: bool) -> Case:
    t = matrices() | {"threshold": torch.tensor(0.7)}
    pre = pre_matrices(t, biased=False)
    config = {"act_size": D, "dict_size": F, "top_k": K, "group_sizes": [8, 24], "input_unit_norm": normalised}
    codes = lambda x: above(pre(x).relu(), 0.7)  # noqa: E731
    kind = "layer_norm" if normalised else None
    return Case("pytorch_model.bin", t, codes, t["W_dec"], t["b_dec"], {"config.json": config}, normalised=kind)


def saev(activation: Any, kind: str, threshold: float | None = None) -> Case:
    t = matrices() | ({} if threshold is None else {"activation.threshold": torch.tensor(threshold)})
    pre = pre_matrices(t, subtract=False)
    codes = {
        "relu": lambda x: pre(x).relu(),
        "topk": lambda x: top(pre(x), 28),  # so many that negative ones are kept
        "threshold": lambda x: above(pre(x), threshold or 0.0),
    }[kind]
    line = {"schema": 5, "cfg": {"d_model": D, "d_sae": F, "activation": activation}, "commit": "x"}
    return Case("sae.pt", t, codes, t["W_dec"], t["b_dec"], line=line)


def overcomplete(kind: str, archetypal: bool = False) -> Case:
    torch.manual_seed(9)
    t: dict[str, Any] = {
        "encoder.final_block.0.weight": draw(F, D),
        "encoder.final_block.0.bias": draw(F),
        "dictionary.multiplier": torch.tensor(0.4),
    }
    if archetypal:
        relax = draw(F, D, scale=0.4)  # rows around 1.26 long, so that many are cut to 1
        t |= {"dictionary.C": draw(12, D), "dictionary.W": draw(F, 12), "dictionary.Relax": relax}
        mixture = t["dictionary.W"].relu()
        lengths = relax.norm(dim=1, keepdim=True)
        assert (lengths > 1).any() and (lengths < 1).any()
        rest = torch.where(lengths > 1, relax / lengths, relax)
        rows = (mixture / mixture.sum(1, keepdim=True) @ t["dictionary.C"] + rest) * torch.tensor(0.4).exp()
    else:
        t["dictionary._weights"] = draw(F, D)
        rows = unit(t["dictionary._weights"]) * torch.tensor(0.4).exp()
    if kind == "jump":
        t["thresholds"] = draw(F)
    pre = lambda x: (x @ t["encoder.final_block.0.weight"].T + t["encoder.final_block.0.bias"]).relu()  # noqa: E731
    codes = {
        "relu": pre,
        "topk": lambda x: top(pre(x)),
        "jump": lambda x: pre(x) * (pre(x) >= t.get("thresholds", torch.zeros(F)).exp()),
    }[kind]
    name = {"relu": "overcomplete_relu", "topk": f"overcomplete_topk:{K}", "jump": "auto"}[kind]
    return Case("state_dict.pt", t, codes, rows, torch.zeros(D), architecture=name)
