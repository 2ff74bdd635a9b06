"""Layouts without biases of their own kind: state dicts of linear layers (A5, B, C, D, E, G, H1-H5, I, N)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layout_checks import check_case
from layouts import Case, D, F, K, draw
from layouts_linear import (
    concept_steerers,
    dictionary,
    dictionary_gated,
    dictionary_new,
    diffract,
    eleuther,
    gytis,
    jayhsu,
    lucas,
    openai,
    sdxl_unbox,
    trainer,
)
from sae.formats import load

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
        (diffract("model.pt"), "this name tells neither"),
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
