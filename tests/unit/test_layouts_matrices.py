"""Layouts with W_enc and W_dec, and overcomplete's dictionaries (F5, F6, H6, H7, J, K, L, M)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layout_checks import check_case
from layouts import Case, F, K
from layouts_matrices import batch_topk, dictionary_jumprelu, matryoshka, old, overcomplete, prisma, saedit, saev
from sae.formats import load

SCALED = {"scaling_factor": torch.linspace(0.5, 2.0, F)}
CASES = {
    "F5 batchtopk": batch_topk("batchtopk", True),
    "F5 batchtopk not rescaled": batch_topk("batchtopk", False),
    "F5 matryoshka": batch_topk("matryoshka_batchtopk", True),
    "F6 relu": old(activation_fn_str="relu", normalize_activations=None),
    "F6 topk": old("topk", activation_fn_str="topk", activation_fn_kwargs={"k": K}, normalize_activations=False),
    "F6 tanh": old("tanh", activation_fn_str="tanh-relu", activation_fn_kwargs={}),
    "F6 no input bias": old(more={"subtract": False}, activation_fn_str="relu", apply_b_dec_to_input=False),
    "F6 fine-tuned": old(extra=SCALED, activation_fn_str="relu", finetuning_scaling_factor=True),
    "F6 factor unused": old(extra=SCALED, activation_fn_str="relu", finetuning_scaling_factor=False),
    "H6": matryoshka(),
    "H7": dictionary_jumprelu(),
    **{
        f"J {kind} {normalize}": prisma(kind, normalize)
        for kind in ("relu", "tanh-relu", "topk")
        for normalize in (None, "layer_norm", "constant_norm_rescale")
    },
    "J gated": prisma("relu", "layer_norm", architecture="gated"),
    "K relu": overcomplete("relu"),
    "K topk": overcomplete("topk"),
    "K jump": overcomplete("jump"),
    "K archetypal topk": overcomplete("topk", archetypal=True),
    "K archetypal jump": overcomplete("jump", archetypal=True),
    "L": saedit(False),
    "L normalised": saedit(True),
    "M relu": saev({"cls": "Relu", "params": {}}, "relu"),
    "M topk": saev({"cls": "TopK", "params": {"top_k": 28}}, "topk"),
    "M threshold": saev({"cls": "BatchTopK", "params": {"top_k": K}}, "threshold", 0.9),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_reconstruction_and_directions_follow_the_formula(name: str, tmp_path: Path) -> None:
    check_case(CASES[name], tmp_path)


def test_a_matryoshka_sae_is_known_by_its_group_sizes(tmp_path: Path) -> None:
    check_case(replace(CASES["H6"], configs={}), tmp_path)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (replace(overcomplete("topk"), architecture="auto"), "overcomplete_topk:32 .* or overcomplete_relu"),
        (replace(dictionary_jumprelu(), configs={}), "there is no cfg.json beside it"),
        (old(activation_fn_str="relu", normalize_activations=True), "norm_scaling_factor, a positive number"),
        (old("topk", activation_fn_str="topk"), "must give k as a whole number"),
        (prisma("relu", is_transcoder=True), "this is a transcoder"),
        (prisma("relu", normalize_activations="batch"), "normalize_activations = 'batch'"),
        (saev({"cls": "Softmax"}, "relu"), "activation 'Softmax'"),
        (replace(saev({"cls": "Relu"}, "relu"), line={"schema": 5}), "with an entry cfg"),
    ],
)
def test_what_is_open_or_wrong_is_told(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(case.write(tmp_path), architecture=case.architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["nonsense", "overcomplete_topk:x", "reny_topk:", "overcomplete_topk:-4", "../x"])
def test_an_unknown_layout_is_told(asked: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^architecture: .* is not a layout; use auto or one of"):
        load(CASES["K topk"].write(tmp_path), architecture=asked)
