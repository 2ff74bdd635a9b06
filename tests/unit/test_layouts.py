"""Layouts without biases of their own kind: state dicts of linear layers (A5, B, C, D, E, G, H1-H5, I, N)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from layout_checks import check_case
from layouts import Case, D, F, K, above, draw, gated, linear, pre_linear, top
from sae.formats import load

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


CASES = {
    "A5": jayhsu(),
    "B": gytis(),
    "C": sdxl_unbox(),
    "C2": concept_steerers(),
    "D": eleuther({"num_latents": 0, "batch_topk": True, "sample_topk": False, "input_unit_norm": False}),
    "D normalised": eleuther({"batch_topk": False, "input_unit_norm": True}, "layer_norm"),
    "D very old": eleuther({"batch_topk": False, "num_latents": F}, name="decoder.weight"),
    "E topk": lucas({"use_topk": True, "topk_k": K}),
    "E L1": lucas({"use_topk": False, "topk_k": K, "l1_coeff": 0.001}),
    "G topk": eleuther({"activation": "topk", "num_latents": 0, "skip_connection": False, "transcode": False}),
    "G groupmax": eleuther({"activation": "groupmax", "num_latents": F, "transcode": False}),
    "H1": dictionary("AutoEncoder", "bias"),
    "H2": dictionary_new(),
    "H3": dictionary_gated(),
    "H4": dictionary("AutoEncoderTopK", "b_dec"),
    "H5 relu": dictionary("BatchTopKSAE", "b_dec"),
    "H5": dictionary("BatchTopKSAE", "b_dec", threshold=1.5),
    "I TopK": openai("TopK"),
    "I TopK identity": openai("TopK", "Identity"),
    "I ReLU": openai("ReLU"),
    "I Identity": openai("Identity"),
    "I tied": openai("TopK", tied=True),
    "N": diffract(),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_reconstruction_and_directions_follow_the_formula(name: str, tmp_path: Path) -> None:
    check_case(CASES[name], tmp_path)


def test_an_intermediate_sae_finds_its_config_one_folder_up(tmp_path: Path) -> None:
    check_case(replace(CASES["H4"], file="checkpoints/ae_1000.pt"), tmp_path)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (lucas({"use_topk": True, "topk_k": K, "normalize_data": True}), "normalised by a mean and a deviation"),
        (diffract("transcoder_img_18.pt"), "this is a transcoder"),
        (diffract("model.pt"), "this name tells neither"),
        (eleuther({"transcode": True}), "this is a transcoder"),
        (eleuther({"activation": "softmax"}), "activation = 'softmax'"),
        (replace(sdxl_unbox(), configs={}), "sdxl_unbox:10 or openai:32"),
        (
            replace(dictionary("AutoEncoderTopK", "b_dec"), configs={}),
            r"dictionary_learning_standard \(or _new, _gated, _topk",
        ),
        (replace(dictionary("AutoEncoder", "bias"), configs={}), "reny_topk:16 or reny_standard"),
        (replace(dictionary_gated(), configs={}), "reny_gated or dictionary_learning_gated"),
        (replace(eleuther({}), configs={}), "sparsify:32 or saeuron:32"),
        (replace(dictionary("BatchTopKSAE", "b_dec"), configs=trainer("Other")), "dict_class = 'Other'"),
    ],
)
def test_what_is_open_or_wrong_is_told(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(case.write(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("C", f"sdxl_unbox:{K}"),
        ("H1", "dictionary_learning_standard"),
        ("H2", "dictionary_learning_new"),
        ("H3", "dictionary_learning_gated"),
        ("H4", "dictionary_learning_topk"),
        ("H5", "dictionary_learning_batch_topk"),
        ("G topk", f"sparsify:{K}"),
        ("A5", f"jayhsu_topk:{K}"),
        ("N", "diffract"),
    ],
)
def test_the_layout_can_be_given_where_there_is_no_config(name: str, architecture: str, tmp_path: Path) -> None:
    check_case(replace(CASES[name], configs={}, architecture=architecture, site=None), tmp_path, sites=False)


def test_the_noise_level_must_be_given_and_may_differ_by_row(tmp_path: Path) -> None:
    case = CASES["N"]
    sae, x = load(case.write(tmp_path)), draw(2, 3, D)
    with pytest.raises(ValueError, match=r"^sigma: the codes of .* depend on the noise level"):
        sae.encode(x)
    both = sae.encode(x, torch.tensor([0.37, 0.9]))
    torch.testing.assert_close(both[0], case.expected(x[0])[0], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(both[1], sae.encode(x[1], 0.9), rtol=2e-5, atol=2e-5)
    assert not torch.allclose(both[1], sae.encode(x[1], 0.37))
