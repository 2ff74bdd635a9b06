"""`--trainer sae-lens` trains with SAELens itself what is not trained here, and the result is read here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from libraries import run_library, skip_without
from numbered_source import TEXT, NumberedSource
from plain_sae import close
from project_files import ROOT
from sae.formats import load
from sae.formats.provenance import provenance
from sae.training.shards import KeepingSource, ShardWriter

KINDS = {
    "standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "matching_pursuit": "matching_pursuit k=3",
}  # fmt: skip
SPARSITY = {"standard": "0.5", "jumprelu": "0.05", "gated": "0.5", "matching_pursuit": "0"}
FLAGS = (
    "--source shards --features 48 --k 3 --steps 300 --batch-tokens 64 --rate 0.01 --warmup-steps 5 "
    "--buffer-tokens 256 --held-out-tokens 200"
).split()

skip_without("sae-lens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One run of sae-lens for all tests: importing it takes longer than everything else."""
    folder, inner = tmp_path_factory.mktemp("sae_lens_training"), NumberedSource()
    inner.sites = {TEXT: inner.sites[TEXT]}
    source = KeepingSource(inner, ShardWriter(folder / "shards", inner.sites, {TEXT: 16}, 5120))
    for number in range(80):
        source.training(number)
    save_file({"x": inner.held_out(0)[TEXT].tokens}, folder / "x.safetensors")
    flags = {name: [*FLAGS, "--sparsity", SPARSITY[name]] for name in KINDS}
    (folder / "flags.json").write_text(json.dumps(flags), encoding="utf-8")
    script = Path(__file__).with_name("sae_lens_training_side.py")
    run_library("sae-lens", str(script), str(folder), str(ROOT), folder=folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_what_sae_lens_trained_is_read_with_equal_codes(folder, name):
    sae, x = load(folder / name / TEXT), load_file(folder / "x.safetensors")["x"]
    wanted = load_file(folder / f"{name}.safetensors")
    assert str(sae.architecture) == KINDS[name] and (sae.d_in, sae.d_sae) == (16, 48)
    assert 0.01 < (wanted["f"] > 0).float().mean() < 0.9
    close(sae.encode(x), wanted["f"])
    close(sae.reconstruct(x), wanted["xhat"])


@pytest.mark.parametrize("name", KINDS)
def test_site_statistics_and_report_are_written_beside(folder, name):
    sae = load(folder / name / TEXT)
    assert sae.site == NumberedSource().sites[TEXT]
    assert sae.statistics.tokens == 200 and sae.statistics.owner == sae.owner
    report = json.loads((folder / name / TEXT / "report.json").read_text(encoding="utf-8"))
    assert report["fit"]["explained_variance"] > 0.5 and report["fit"]["l0"] < 40
    assert (report["trained"]["trainer"], report["trained"]["steps"]) == ("sae-lens", 300)
    assert provenance(sae).get("model") is None  # these tokens are of no model


def test_ctrl_c_ends_it_after_the_step_and_what_was_done_is_written(folder):
    assert json.loads((folder / "stopped.json").read_text(encoding="utf-8")) == 130
    report = json.loads((folder / "stopped" / TEXT / "report.json").read_text(encoding="utf-8"))
    assert report["trained"]["steps"] == 21  # of 300: batch 31 was trained on, the first ten only told the norm
    assert report["fit"]["tokens"] == 200
    assert load(folder / "stopped" / TEXT).d_sae == 48
