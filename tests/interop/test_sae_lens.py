"""sae-lens itself reads what is exported to SAELens, and what it writes is read here.

It needs a torch and transformers of its own, hence an environment of its own: SAE_LENS_PYTHON, or what `make sae-lens`
sets up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export_cases import CASES, D, F, K, tokens
from export_saes import SITE, build
from libraries import run_library, skip_without
from plain_sae import close
from sae.export import export
from sae.formats import load
from sae.places.site import parse_location
from trained_saes import TRAINED, check_trained, trained_name, write_trained

VERSION = "6.54.12"
HELD = sorted(name for name, case in CASES.items() if "saelens" in case.targets.split())
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CLASSES = {
    "topk": "TopKSAE",
    "relu": "StandardSAE",
    "jumprelu": "JumpReLUSAE",
    "gated": "GatedSAE",
    "batchtopk": "JumpReLUSAE",
}
WRITTEN = {
    "standard": "relu",
    "standard, uncentred": "relu",
    "standard, layer norm": "relu, layer norm",
    "standard, constant norm": "relu, constant norm",
    "topk": "topk k=5",
    "topk, rescaled": "topk k=5, codes times decoder norm",
    "topk, rescaled, layer norm": "topk k=5, layer norm, codes times decoder norm",
    "jumprelu": "jumprelu",
    "jumprelu, uncentred": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk, codes times decoder norm",
    "batchtopk, inference": "jumprelu",
    "batchtopk, not rescaled": "batchtopk",
    "batchtopk, not rescaled, inference": "jumprelu",
    "matryoshka": "batchtopk, codes times decoder norm",
    "matryoshka, inference": "jumprelu",
}


skip_without("sae-lens")


@dataclass
class Answers:
    folder: Path
    version: str
    saes: dict[str, dict[str, object]]

    def of(self, kind: str, name: str) -> dict[str, Tensor]:
        """f and xhat of an SAE in `exports` or `written`"""
        return load_file(self.folder / "results" / kind / f"{name}.safetensors")


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Answers:
    """One run of sae-lens for all tests: importing it takes longer than everything else."""
    folder = tmp_path_factory.mktemp("sae_lens")
    save_file({"x": tokens()}, folder / "x.safetensors")
    for name in HELD:
        export(build(name, site=SITE), folder / "exports" / name, "saelens")
    for name, dtype in HALVES.items():
        export(build("topk, one bias", dtype), folder / "exports" / name, "saelens")
    write_trained(folder / "exports", "saelens")
    run_library("sae-lens", str(Path(__file__).with_name("sae_lens_side.py")), str(folder), folder=folder)
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return Answers(folder, told["version"], told["saes"])


def test_the_version_is_the_one_that_exports_name(answers):
    assert answers.version == VERSION
    config = json.loads((answers.folder / "exports" / "topk" / "cfg.json").read_text())
    assert config["metadata"]["sae_lens_version"] == VERSION


@pytest.mark.parametrize("name", HELD)
def test_sae_lens_computes_the_same_from_an_export(answers, name):
    case, x, found = CASES[name], tokens(), answers.of("exports", name)
    f = case.codes(x)
    close(found["f"], f)
    close(found["xhat"], case.decoded(f, x))
    sae = build(name)
    close(sae.encode(x), found["f"])
    close(sae.reconstruct(x), found["xhat"])
    kind = case.architecture["kind"]
    wanted = {"class": CLASSES[kind], "dtype": "torch.float32", "hook_name": "transformer_blocks.3.attn-text"}
    assert answers.saes[name] == wanted | {"k": K if kind == "topk" else None}


@pytest.mark.parametrize("name", TRAINED)
def test_sae_lens_has_the_codes_of_a_trained_sae(answers, name):
    check_trained(name, answers.of("exports", trained_name(name)))
    assert answers.saes[trained_name(name)]["class"] == ("TopKSAE" if name == "topk" else "JumpReLUSAE")


@pytest.mark.parametrize("name", HALVES)
def test_sae_lens_takes_the_type_of_an_export(answers, name):
    assert answers.saes[name]["dtype"] == str(HALVES[name])
    found, wanted = answers.of("exports", name)["xhat"], build("topk, one bias", HALVES[name]).reconstruct(tokens())
    assert (
        found - wanted
    ).norm() < 0.1 * wanted.norm()  # it computes in 16 bits: now and then another feature is chosen


@pytest.mark.parametrize(("name", "architecture"), WRITTEN.items())
def test_what_sae_lens_wrote_is_read(answers, name, architecture):
    sae, x, wanted = load(answers.folder / "written" / name), tokens(), answers.of("written", name)
    assert str(sae.architecture) == architecture and (sae.d_in, sae.d_sae) == (D, F)
    assert 0.01 < (wanted["f"] > 0).float().mean() < 0.9
    close(sae.encode(x), wanted["f"])
    close(sae.reconstruct(x), wanted["xhat"])
    if "inference" not in name and "batchtopk" not in architecture:
        assert sae.site == parse_location("transformer_blocks.2", "text")


@pytest.mark.parametrize("name", WRITTEN)
def test_what_sae_lens_wrote_comes_back_from_an_export_unchanged(answers, name, tmp_path):
    sae = load(answers.folder / "written" / name)
    again = load(export(sae, tmp_path, "saelens"))
    close(again.encode(tokens()), answers.of("written", name)["f"])
    close(again.reconstruct(tokens()), answers.of("written", name)["xhat"])
