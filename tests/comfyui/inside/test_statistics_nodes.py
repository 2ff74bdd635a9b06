"""TopActivatingFeatures writes statistics that LoadSAE finds and steering can use."""

from __future__ import annotations

import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_steering_pack.sae.demo.shipped_weights import TEXT_SAE, WEIGHTS
from sae_steering_pack.sae.dictionary.statistics import FeatureStatistics, read_statistics, write_statistics
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.steering.delta import Steering
from sae_steering_pack.sae.steering.edits import Edit
from tiny_flux import run_node

NAME = f"{TEXT_SAE}/model.safetensors"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """models/sae with the text SAE and no statistics, and an empty output folder."""
    models, output = tmp_path / "sae", tmp_path / "output"
    shutil.copytree(WEIGHTS / TEXT_SAE, models / TEXT_SAE)
    for file in models.rglob("*.stats.safetensors"):
        file.unlink()
    output.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(models)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    return output


def test_what_is_measured_is_found_again(folders, node_classes):
    def load():
        return run_node(node_classes["LoadSAE"], sae_name=NAME, location="auto", stream="auto").result[0]

    sae = load()
    assert sae.statistics is None
    with pytest.raises(ValueError, match="unit: 'mean' needs the activation of feature 3"):
        Steering(sae, [Edit(3)], "add", 1.0, "mean")
    before = node_classes["LoadSAE"].fingerprint_inputs(NAME, "auto", "auto")
    model = run_node(node_classes["LoadShapesDemo"]).result[0]
    prompt = node_classes["ShapesPrompt"].execute("red square left big white").result[0]
    inputs = {
        "model": model, "sae": sae, "positive": prompt, "latent_image": {"samples": torch.zeros(1, 16, 16, 16)},
        "seed": 1, "steps": 4, "count": 5, "rank_by": "mean", "location": "auto", "stream": "auto",
    }  # fmt: skip
    plain = run_node(node_classes["TopActivatingFeatures"], **inputs)
    assert list(folders.rglob("*")) == [] and len(plain.ui["text"]) == 1
    saved = run_node(node_classes["TopActivatingFeatures"], **inputs, save_statistics=True)
    name = f"model-{sae.owner.identity[:8]}.stats.safetensors"
    path = folders / "sae" / TEXT_SAE / name
    assert saved.ui["text"][1] == f"Statistics over 20 tokens are in {Path('sae', TEXT_SAE, name)}."
    statistics = read_statistics(path)
    assert statistics.tokens == 20 and float(statistics.density.sum()) == pytest.approx(16, rel=1e-3)  # k = 16
    again = load()
    assert torch.equal(again.statistics.mean, statistics.mean)
    assert node_classes["LoadSAE"].fingerprint_inputs(NAME, "auto", "auto") != before
    Steering(again, [Edit(3)], "add", 1.0, "mean")


def test_an_sae_trained_anew_under_the_same_name_has_no_statistics_of_the_old_one(folders, node_classes, caplog):
    def load():
        return run_node(node_classes["LoadSAE"], sae_name=NAME, location="auto", stream="auto").result[0]

    old = load()
    measured = FeatureStatistics(None, torch.full((old.d_sae,), 4.0), None, 10)
    folder = folders / "sae" / TEXT_SAE
    folder.mkdir(parents=True)
    write_statistics(measured, folder / f"model-{old.owner.identity[:8]}.stats.safetensors", old.owner)
    assert float(load().statistics.max[0]) == 4.0
    weights = Path(folder_paths.get_full_path("sae", NAME))
    trained = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(trained, weights)
    assert load().owner != old.owner and load().statistics is None
    assert caplog.records == []
    write_statistics(measured, folder / "model.stats.safetensors")  # version 0.1 did not say whose they are
    assert float(load().statistics.max[0]) == 4.0
    assert "does not say on which weights it was measured" in caplog.records[-1].getMessage()


def test_statistics_beside_the_checkpoint_come_first(folders, node_classes):
    beside = Path(folder_paths.get_full_path("sae", NAME)).with_name("model.stats.safetensors")
    shutil.copyfile(WEIGHTS / TEXT_SAE / "model.stats.safetensors", beside)
    other = folders / "sae" / TEXT_SAE / "model.stats.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"not read")
    sae = run_node(node_classes["LoadSAE"], sae_name=NAME, location="auto", stream="auto").result[0]
    assert sae.statistics.tokens == 50_000


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_a_name_that_leads_out_of_the_output_folder_is_refused(folders, name):

    with pytest.raises(ValueError, match="leads out of output/sae"):
        notebooks().statistics_path(name)
