"""What a config says is what is computed: the words that decide are read, or refused by name; all others are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from config_cases import like_saelens, llama_scope, prisma_gated, qwen_scope, saev_batch, saev_header, signed
from layout_checks import check_case
from layouts import Case, D, F, K
from sae.finding.inspection import describe
from sae.formats import load

SIZES = {"d_in": D, "d_sae": F}
TOPK = {"cls": "TopK", "params": {"top_k": K}}

CASES = {
    "SAELens: k alone": like_saelens(**SIZES, k=K),
    "SAELens: top_k alone": like_saelens(d_model=D, d_sae=F, top_k=K),
    "SAELens: activation": like_saelens(**SIZES, k=K, activation="topk"),
    "SAELens: sae_type": like_saelens(**SIZES, top_k=K, sae_type="topk"),
    "SAELens: act_fn in another spelling": like_saelens(**SIZES, k=K, act_fn="TopK"),
    "SAELens: standard, k in the arguments": like_saelens(
        **SIZES, architecture="standard", activation_fn="topk", activation_fn_kwargs={"k": K}
    ),
    "SAELens: no word at all": like_saelens("relu", **SIZES),
    "sparsify: signed": signed(),
    "sparsify: signed, num_latents 0": signed(num_latents=0),
    "saev: schema 1 by class": saev_header({"schema": 1, "cls": "TopK", "cfg": {"d_vit": D, "top_k": K}}),
    "saev: schema 1 with an activation": saev_header(
        {"schema": 1, "cls": "SparseAutoencoderConfig", "cfg": {"d_vit": D, "activation": TOPK}}
    ),
    "saev: schema 1 ReLU": saev_header({"schema": 1, "cls": "Relu", "cfg": {"d_vit": D, "seed": 3}}, "relu"),
    "saev: without a schema": saev_header(
        {"d_vit": D, "sparsity_coeff": 4e-4, "n_reinit_samples": 8, "ghost_grads": False, "seed": 1}, "relu"
    ),
    "saev: a threshold of 0": saev_batch(0.0),
    "saev: a threshold below 0": saev_batch(-0.5),
    "Llama Scope": llama_scope(),
    "Llama Scope: no norms in the threshold": llama_scope(sparsity_include_decoder_norm=False),
    "Llama Scope: folded": llama_scope(norm_activation="inference"),
    "Llama Scope: each token": llama_scope(norm_activation="token-wise"),
    "Llama Scope: ReLU": llama_scope(act_fn="relu"),
    "Qwen-Scope: k in the config": qwen_scope("mine", model_type="topk_sae", k=K, d_model=D, d_sae=F),
    "Qwen-Scope: top_k, against the folder's name": qwen_scope("SAE-Res-Qwen3-8B-Base-W64K-L0_7", top_k=K),
    "Prisma: gates behind the k largest": prisma_gated("prisma_gated_topk"),
    "Prisma: gates with ReLU": prisma_gated("prisma_gated_relu"),
    "Prisma: gates with ReLU for tanh": prisma_gated("prisma_gated_relu", "tanh-relu"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_config_decides_the_formula(name: str, tmp_path: Path) -> None:
    check_case(CASES[name], tmp_path, sites=False)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (like_saelens(**SIZES, k=K, top_k=9), "gives k as 4 and as 9"),
        (like_saelens(**SIZES, architecture="jumprelu", activation="topk", k=K), "architecture = 'jumprelu' and act"),
        (like_saelens(**SIZES, architecture="standard", k=K), "has k = 4, which may change what is computed"),
        (like_saelens(**SIZES, architecture="standard", signed=True), "has signed = True, which may change"),
        (like_saelens(**SIZES, activation_name="tanh"), "has activation_name = 'tanh', which may change"),
        (signed(activation="groupmax"), "signed = True with activation = 'groupmax'"),
        (saev_header({"schema": 9, "cfg": {"d_model": D}}), "schema = 9; known are 1 to 5"),
        (saev_header({"schema": 5, "cfg": {"d_model": D}}), "names no activation; known are Relu"),
        (saev_header({"schema": 1, "cls": "Gated", "cfg": {"d_vit": D}}), "has cls = 'Gated'"),
        (saev_header({"d_vit": D, "exp_factor": 9}), f"exp_factor = 9, but the tensors have {F}"),
        (llama_scope(act_fn="topk"), "act_fn = 'topk'; known are jumprelu and relu"),
        (llama_scope(use_glu_encoder=True), "use_glu_encoder = True; only SAEs without"),
        (llama_scope(apply_decoder_bias_to_pre_encoder=True), "apply_decoder_bias_to_pre_encoder = True"),
        (llama_scope(norm_activation="batch-wise"), "norm_activation = 'batch-wise'; known are dataset-wise"),
        (llama_scope(jump_relu_threshold="high"), "must give jump_relu_threshold as a number"),
        (
            llama_scope(hook_point_out="blocks.17.hook_mlp_out"),
            "another place than hook_point_in: this is a transcoder",
        ),
        (llama_scope(dataset_average_activation_norm={"in": -1, "out": 1}), "dataset_average_activation_norm with in"),
        (replace(llama_scope(), architecture="dictionary_learning_new"), "hyperparams.json .* Llama Scope"),
        (qwen_scope("mine", model_type="batch_topk_sae", k=K), "model_type = 'batch_topk_sae'; known is topk_sae"),
        (qwen_scope("mine", k=K, d_model=9), "says d_model = 9"),
        (prisma_gated("auto"), "prisma_gated_topk where the k largest .* or prisma_gated_relu"),
        (prisma_gated("auto", "tanh-relu"), "name the meaning in the input architecture: prisma_gated_relu where"),
    ],
)
def test_what_contradicts_or_is_not_known_is_refused_by_name(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(case.write(tmp_path), architecture=case.architecture)
    assert "\n" not in str(caught.value)


def test_llama_scope_without_its_config_is_named_among_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Llama Scope, whose hyperparams.json lies one folder above"):
        load(replace(llama_scope(), configs={}).write(tmp_path))


def test_what_was_not_looked_at_is_told_and_inspected(tmp_path: Path) -> None:
    sae = load(like_saelens(**SIZES, k=K, colour="blue", l1_coefficient=0.1, wandb_id="x").write(tmp_path))
    [note] = sae.origin.notes
    assert note == "cfg.json has words that are not known of SAELens and were not looked at: colour."
    assert describe(sae)["told"] == note


def test_a_folder_that_says_another_k_is_told(tmp_path: Path) -> None:
    sae = load(qwen_scope("SAE-Res-Qwen3-8B-Base-W64K-L0_7", k=K).write(tmp_path))
    assert sae.origin.notes == ("the folder's name has L0_7, but config.json has k = 4, which was taken.",)


def test_a_config_without_an_activation_function_is_told(tmp_path: Path) -> None:
    [note] = load(like_saelens("relu", **SIZES).write(tmp_path)).origin.notes
    assert note.startswith("cfg.json names no activation function; read with ReLU")
