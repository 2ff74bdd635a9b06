"""dictionary_learning itself reads what is exported to it.

It needs packages of its own, hence an environment of its own: DICTIONARY_LEARNING_PYTHON, or what
`make dictionary-learning` sets up.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from export_cases import CASES, tokens
from export_saes import build
from libraries import run_library, skip_without
from plain_sae import close
from sae.export import export
from trained_saes import TRAINED, check_trained, trained_name, write_trained

HELD = sorted(name for name, case in CASES.items() if "dictionary_learning" in case.targets.split())
CLASSES = {"topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE", "matryoshka": "BatchTopKSAE"}

skip_without("dictionary-learning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One run of dictionary_learning for all tests: importing it takes longer than everything else."""
    folder = tmp_path_factory.mktemp("dictionary_learning")
    save_file({"x": tokens()}, folder / "x.safetensors")
    for name in HELD:
        export(build(name), folder / "exports" / name, "dictionary_learning")
    write_trained(folder / "exports", "dictionary_learning")
    script = Path(__file__).with_name("dictionary_learning_side.py")
    run_library("dictionary-learning", str(script), str(folder), folder=folder)
    return folder


@pytest.mark.parametrize("name", HELD)
def test_dictionary_learning_computes_the_same_from_an_export(folder, name):
    case, x, found = CASES[name], tokens(), load_file(folder / "results" / name)
    f = case.codes(x)
    close(found["f"], f)
    close(found["xhat"], case.decoded(f, x))


@pytest.mark.parametrize("name", TRAINED)
def test_dictionary_learning_has_the_codes_of_a_trained_sae(folder, name):
    check_trained(name, load_file(folder / "results" / trained_name(name)))
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    assert told[trained_name(name)] == CLASSES[name]
