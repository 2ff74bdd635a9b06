"""Files that hold no sound SAE, or lie where they may not: one sentence each, and nothing runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from layouts import D, F, K, linear, matrices
from links import link
from sae.dictionary.statistics import read_statistics
from sae.formats import load

CONFIG = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": F}}


def pickled(folder: Path, content: Any, name: str = "ae.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / name


def sentence(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load(path, **options)
    text = str(caught.value)
    assert "\n" not in text and path.name.split(".")[0] in text
    return text


class Module(nn.Module):
    """A whole module, as torch.save(model) stores it."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Module(), "this is a pickled object"),
        (nn.Linear(3, 3), "this is a pickled object"),
        (torch.zeros(3), "the file holds a single tensor"),
        ([torch.zeros(3)], "the file holds a list"),
        ({}, "its tensors (none, ...) are of no SAE layout"),
        ({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}, "of no SAE layout"),
        (nn.Sequential(nn.Linear(3, 3)).state_dict(), "of no SAE layout"),
        ({**linear("bias", "encoder.bias"), "W_skip": torch.zeros(D, D)}, "this is a transcoder"),
        ({"a.lora_down.weight": torch.zeros(2, 2)}, "this is a LoRA"),
        ({**linear("bias", "encoder.bias"), "bias": torch.zeros(D).to_sparse()}, "is a pickled object"),
        ({**linear("bias", "encoder.bias"), "bias": torch.zeros(D, dtype=torch.int32)}, "floating point"),
        ({**linear("bias", "encoder.bias"), "bias": torch.zeros(D, dtype=torch.complex64)}, "floating point"),
        ({**linear("bias", "encoder.bias"), "bias": torch.zeros(D + 1)}, "bias has the shape [11]"),
        (
            {**linear("bias", "encoder.bias"), "encoder.weight": torch.zeros(1).expand(2**20, 2**16)},
            "larger than its data",
        ),
    ],
)
def test_pickles_that_hold_no_sae(content: Any, message: str, tmp_path: Path) -> None:
    assert message in sentence(pickled(tmp_path, content))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "this is a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "not a file of torch.save"),
        (b"", "not a file of torch.save"),
        (b"PK\x03\x04" + bytes(200), "the archive is damaged"),
        (b'{"schema": 5, "cfg": {}}', "not a file of torch.save"),
        (b'{"schema": 5, "cfg"', "its first line is no valid JSON"),
    ],
)
def test_other_content_under_the_name(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(data)
    assert message in sentence(tmp_path / "ae.pt")


def test_a_name_in_the_archive_that_is_no_text(tmp_path: Path) -> None:
    path = pickled(tmp_path, linear("bias", "encoder.bias"))
    content = bytearray(path.read_bytes())
    assert content[30:].split(b"/", 1)[1].startswith(b"data.pkl")  # behind the first member's own header
    content[30] = 0xF9
    path.write_bytes(content)
    assert "cannot be read (its pickle cannot be read)" in sentence(path)


def test_files_of_very_old_torch_are_refused(tmp_path: Path) -> None:
    path = pickled(tmp_path, linear("bias", "encoder.bias"), _use_new_zipfile_serialization=False)
    assert "not a file of torch.save (of torch 1.6 or newer)" in sentence(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    state = linear("bias", "encoder.bias")
    state["decoder.weight"][3, 4] = value
    sae = load(pickled(tmp_path, state))
    with pytest.raises(ValueError, match=r"ae.pt: the tensor 'decoder.weight' holds NaN or infinite values"):
        sae.direction([4])
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        sae.reconstruct(torch.zeros(1, D))
    assert sae.direction([5]).isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {key: nn.Parameter(tensor) for key, tensor in state.items()},
        lambda state: {**state, "decoder.weight": state["decoder.weight"].T.contiguous().T},
        lambda state: {**state, "encoder.weight": torch.cat([state["encoder.weight"]] * 2)[F:]},
        lambda state: {"state_dict": state, "step": 3, "note": "text"},
    ],
)
def test_unusual_but_sound_tensors_are_read(change: Callable[[Any], Any], tmp_path: Path) -> None:
    state = linear("bias", "encoder.bias")
    x = torch.randn(5, D)
    sae = load(pickled(tmp_path, change(state)))
    f = ((x - state["bias"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    torch.testing.assert_close(sae.encode(x), f, rtol=2e-5, atol=2e-5)
    back = f @ state["decoder.weight"].T + state["bias"]
    torch.testing.assert_close(sae.reconstruct(x), back, rtol=2e-5, atol=2e-5)


def split(folder: Path) -> list[Path]:
    """A RE-N-Y checkpoint in two shards with an index."""
    state = linear("bias", "encoder.bias")
    paths = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = [dict(list(state.items())[:2]), dict(list(state.items())[2:])]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    index = {key: path.name for path, part in zip(paths, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"features": D, "pages": F, "k": K, "sample": None}))
    return paths


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    first, second = split(tmp_path)
    for path in (first, second, tmp_path):
        sae = load(path, name="mine/model-00001-of-00002" if path is first else None)
        assert sae.d_sae == F and sae.reconstruct(torch.zeros(2, D)).shape == (2, D)
    assert load(first, name="mine/model-00001-of-00002").name == "mine/model"


def test_missing_extra_and_foreign_shards(tmp_path: Path) -> None:
    first, second = split(tmp_path)
    third = second.with_name("model-00003-of-00003.safetensors")
    shutil.copyfile(second, third)
    assert "model-00003-of-00003.safetensors is a shard of another split" in sentence(first)
    third.unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"bias": "../../elsewhere.safetensors"}}))
    assert "names other shards" in sentence(first)
    index.unlink()
    kept = second.read_bytes()
    second.unlink()
    assert "the shard model-00002-of-00002.safetensors is missing" in sentence(first)
    second.write_bytes(first.read_bytes())
    assert "each tensor may be in one shard only" in sentence(first)
    second.write_bytes(kept)
    assert load(first).d_in == D


def test_folders_with_no_or_several_weight_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the folder has no weight file"):
        load(tmp_path)
    pickled(tmp_path, linear("bias", "encoder.bias"))
    assert load(tmp_path).d_sae == F
    pickled(tmp_path, matrices(), "ae_2.pt")
    with pytest.raises(ValueError, match=r"several weight files \(ae.pt, ae_2.pt\); give the path of one"):
        load(tmp_path)


@pytest.mark.parametrize("linked", ["ae.pt", "config.json", "ae.stats.safetensors"])
def test_links_that_lead_out_are_not_followed(linked: str, tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    models.mkdir()
    outside.mkdir()
    path = pickled(models, linear("bias", "encoder.bias"))
    save_file({name: torch.ones(F) for name in ("mean", "max", "density")}, models / "ae.stats.safetensors")
    assert load(path, within=[models]).statistics is not None
    shutil.move(models / linked, outside / linked)
    link(models / linked, outside / linked)
    assert f"{linked} is a link that leads out of the model folders" in sentence(path, within=[models])
    assert load(path, within=[models, outside]).d_sae == F
    assert load(path).d_sae == F, "the library by itself follows links, as the Hub's cache needs"


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"mean": torch.ones(3), "max": torch.ones(4)}, {}, "vectors of one length"),
        ({"other": torch.ones(3)}, {}, "needs one of the tensors mean, max and density"),
        ({"mean": torch.ones(3)}, {"tokens": "many"}, "a whole number of tokens"),
    ],
)
def test_broken_statistics(tensors: Any, metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "x.stats.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        read_statistics(tmp_path / "x.stats.safetensors")


def test_statistics_of_other_projects(tmp_path: Path) -> None:
    """SAELens: log10(density + 1e-10). sdxl-unbox: the mean activation, for its own layout only."""
    cfg = {"architecture": "standard", "d_in": D, "d_sae": F}
    save_file(matrices(), tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    density = torch.linspace(0, 0.5, F)
    save_file({"sparsity": torch.log10(density + 1e-10)}, tmp_path / "sparsity.safetensors")
    torch.save(torch.arange(F) * 1.0, tmp_path / "mean.pt")
    statistics = load(tmp_path / "sae_weights.safetensors").statistics
    assert statistics is not None and statistics.mean is None and statistics.density is not None
    torch.testing.assert_close(statistics.density, density, rtol=1e-4, atol=1e-7)
    assert statistics.dead.tolist() == [True] + [False] * (F - 1)
    (tmp_path / "sparsity.safetensors").unlink()
    assert load(tmp_path / "sae_weights.safetensors").statistics is None
    state = linear("pre_bias", "latent_bias")
    torch.save({"state_dict": state}, tmp_path / "state_dict.pth")
    (tmp_path / "state_dict.json").write_text(json.dumps({"k": K, "d_model": D, "n_dirs_local": F}))
    statistics = load(tmp_path / "state_dict.pth").statistics
    assert statistics is not None and statistics.density is None
    assert statistics.mean is not None and float(statistics.mean[7]) == 7
