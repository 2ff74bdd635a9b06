"""Layouts whose files are state dicts of linear layers (A5, B, C, D, E, G, H1-H5, I, N)."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers.models.embeddings import get_timestep_embedding

from layouts import Case, D, F, K, above, draw, gated, linear, pre_linear, top

SITE = "transformer_blocks.3.ff (image)"
INFO = torch.zeros(F, dtype=torch.int64)


def jayhsu() -> Case:
    t = linear("pre_bias", "latent_bias")
    pre = pre_linear(t, "pre_bias", "latent_bias")
    config = {"features": D, "pages": F, "k": K, "auxk": 0.03, "dead_steps_threshold": 100, "sample": None}
    state = {**t, "stats_last_nonzero": INFO}
    rows, bias = t["decoder.weight"].T, t["pre_bias"]
    return Case("model.safetensors", state, lambda x: top(pre(x)).relu(), rows, bias, {"config.json": config})


def sdxl_unbox() -> Case:
    case = jayhsu()
    config = {"n_dirs_local": F, "d_model": D, "k": K, "auxk": 4, "dead_steps_threshold": 100}
    return replace(case, file="state_dict.pth", state={"state_dict": case.state}, configs={"config.json": config})


def concept_steerers() -> Case:
    case = sdxl_unbox()
    return replace(case, configs={"config.json": {**case.configs["config.json"], "auxk_coef": 0.03}})


def gytis() -> Case:
    t = linear("dec_bias", "enc_bias")
    pre = pre_linear(t, None, "enc_bias")
    return Case("sparse_autoencoder_128.pth", t, lambda x: pre(x).relu(), t["decoder.weight"].T, t["dec_bias"])


def eleuther(file_config: dict[str, object], normalised: str | None = None, name: str = "W_dec") -> Case:
    t = linear("b_dec", "encoder.bias")
    pre = pre_linear(t, "b_dec", "encoder.bias")
    rows = t.pop("decoder.weight").T.contiguous()
    state = {**t, name: rows}
    config = {"expansion_factor": 3, "normalize_decoder": True, "k": K, "multi_topk": False, "d_in": D, **file_config}

    def codes(x: torch.Tensor) -> torch.Tensor:
        p = pre(x).relu()
        if file_config.get("activation") == "groupmax":
            groups = p.view(len(p), K, F // K)
            return (groups * (groups == groups.max(-1, keepdim=True).values)).view(len(p), F)
        return top(p)

    return Case("sae.safetensors", state, codes, rows, t["b_dec"], {"cfg.json": config}, normalised=normalised)


def lucas(config: dict[str, object]) -> Case:
    t = linear("pre_bias", "encoder.bias")
    pre = pre_linear(t, "pre_bias", "encoder.bias")
    whole = {"layer": 5, "timestep": 14, "input_dim": D, "hidden_dim": F, "normalize_data": False, **config}
    state = {"epoch": 3, "model_state_dict": t, "optimizer_state_dict": {"state": {0: {"m": draw(3)}}}, "config": whole}
    codes = (lambda x: top(pre(x).relu())) if config["use_topk"] else (lambda x: pre(x).relu())
    rows, bias = t["decoder.weight"].T, t["pre_bias"]
    return Case("sae_best.pt", state, codes, rows, bias, site="transformer_blocks.5.ff (image)")


def trainer(name: str, **more: object) -> dict[str, object]:
    described = {"dict_class": name, "activation_dim": D, "dict_size": F, "submodule_name": "transformer_blocks.3.ff"}
    return {"config.json": {"trainer": {**described, **more}, "buffer": {"d_submodule": D}}}


def dictionary(name: str, bias: str, **extra: object) -> Case:
    """H1, H4 and H5."""
    t = linear(bias, "encoder.bias")
    pre = pre_linear(t, bias, "encoder.bias")
    threshold = float(extra.get("threshold", -1.0))
    codes = {
        "AutoEncoder": lambda x: pre(x).relu(),
        "AutoEncoderTopK": lambda x: top(pre(x).relu()),
        "BatchTopKSAE": lambda x: above(pre(x).relu(), threshold),
    }[name]
    numbers = {} if name == "AutoEncoder" else {"k": torch.tensor(K, dtype=torch.int32)}
    numbers |= {} if name == "AutoEncoder" else {"threshold": torch.tensor(threshold)}
    rows, state = t["decoder.weight"].T, {**t, **numbers}
    return Case("ae.pt", state, codes, rows, t[bias], trainer(name, **({"k": K} if numbers else {})), site=SITE)


def dictionary_new() -> Case:
    t = linear("decoder.bias", "encoder.bias")
    pre = pre_linear(t, None, "encoder.bias")
    rows, bias = t["decoder.weight"].T, t["decoder.bias"]
    return Case("ae.pt", t, lambda x: pre(x).relu(), rows, bias, trainer("AutoEncoderNew"), site=SITE)


def dictionary_gated() -> Case:
    t = linear("decoder_bias", "r_mag") | {"gate_bias": draw(F), "mag_bias": draw(F)}
    codes = gated(t, lambda x: (x - t["decoder_bias"]) @ t["encoder.weight"].T, "gate_bias", "mag_bias")
    rows, bias = t["decoder.weight"].T, t["decoder_bias"]
    return Case("ae.pt", t, codes, rows, bias, trainer("GatedAutoEncoder"), site=SITE)


def openai(activation: str, postact: str = "ReLU", tied: bool = False) -> Case:
    t = linear("pre_bias", "latent_bias")
    pre = pre_linear(t, "pre_bias", "latent_bias")
    rows = t["encoder.weight"].clone() if tied else t["decoder.weight"].T
    if tied:
        t["decoder.linear.weight"] = t["encoder.weight"]
        del t["decoder.weight"]
    after = torch.relu if postact == "ReLU" else lambda f: f
    codes = {
        "TopK": lambda x: after(top(pre(x), K if postact == "ReLU" else F - 2)),
        "ReLU": lambda x: pre(x).relu(),
        "Identity": pre,
    }[activation]
    k = K if postact == "ReLU" else F - 2
    extra = {"activation": activation, "stats_last_nonzero": INFO, "latents_activation_frequency": draw(F)}
    if activation == "TopK":
        extra |= {"activation.k": k, "activation.postact_fn": postact}
        extra |= {"activation_state_dict": {"k": k, "postact_fn": postact}}
    normalised = "layer_norm" if activation == "TopK" else None
    return Case("autoencoder.pt", {**t, **extra}, codes, rows, t["pre_bias"], normalised=normalised)


def diffract(name: str = "sae_txt_12.pt", site: str | None = "transformer_blocks.12.ff_context (text)") -> Case:
    t, e, sigma = linear("decoder.bias", "encoder.bias"), 12, 0.37
    for layer, shape in (("time_mlp.0", (e, e)), ("time_mlp.2", (e, e)), ("mod_linear", (2 * D, e))):
        t |= {f"{layer}.weight": draw(*shape, scale=0.5), f"{layer}.bias": draw(shape[0], scale=0.5)}

    def codes(x: torch.Tensor) -> torch.Tensor:
        hidden = get_timestep_embedding(torch.tensor([sigma]), e)
        for layer in ("time_mlp.0", "time_mlp.2"):
            hidden = hidden @ t[f"{layer}.weight"].T + t[f"{layer}.bias"]
            hidden = hidden * torch.sigmoid(hidden)
        mod = (hidden @ t["mod_linear.weight"].T + t["mod_linear.bias"])[0]
        return pre_linear(t, None, "encoder.bias")(x * (1 + mod[:D]) + mod[D:]).relu()

    return Case(name, t, codes, t["decoder.weight"].T, t["decoder.bias"], sigma=sigma, site=site)
