"""Layouts of the Hugging Face Hub: the topk_sae family of transformers' models, and SAELens files in one zip."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from config_cases import like_saelens, topk_sae
from layout_checks import check_case, close
from layouts import Case, D, F, K, draw
from sae.formats import load


@pytest.mark.parametrize(
    "case",
    [
        topk_sae(),
        topk_sae(decoder="decoder.weight"),
        topk_sae("batch_topk_sae", use_batch_topk_in_eval=True),
        topk_sae("matryoshka_sae", group_sizes=[8, 24], active_groups=2, latent_size=0),
        topk_sae("vl_topk_sae", vl_split_ratio=[1, 2, 1]),
        replace(topk_sae(), configs={}, architecture=f"hf_topk:{K}"),
    ],
)
def test_the_family_of_topk_sae_follows_its_formula(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path)


def test_its_members_are_told_apart(tmp_path: Path) -> None:
    sae = load(topk_sae("batch_topk_sae").write(tmp_path))
    assert sae.origin.layout == "Hugging Face's topk_sae (batch_topk_sae)"
    assert "read as its encode does, k for each token" in sae.origin.notes[0]
    assert load(topk_sae().write(tmp_path)).origin.notes == ()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (topk_sae(latent_size=9), "says latent_size = 9"),
        (topk_sae("matryoshka_sae", group_sizes=[8, 24], active_groups=1), "active_groups = 1"),
        (topk_sae(signed=True), "signed = True, which may change"),
        (topk_sae(k=None), "must give k as a whole number"),
    ],
)
def test_what_is_not_read_is_refused(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(case.write(tmp_path))


LENS = like_saelens(d_in=D, d_sae=F, k=K, architecture="topk")


def zipped(folder: Path, method: int, inside: str = "sae/", extra: dict[str, bytes] | None = None) -> Path:
    weights = save({key: value.contiguous() for key, value in LENS.state.items()})
    files = {"sae_weights.safetensors": weights, "cfg.json": json.dumps(LENS.configs["cfg.json"]).encode()}
    files |= {"sparsity.safetensors": save({"sparsity": torch.zeros(F)})} | (extra or {})
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "weights.zip", "w", method) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return folder / "weights.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "compressed"])
@pytest.mark.parametrize("inside", ["", "layer_18/"])
def test_saelens_files_in_one_zip(method: int, inside: str, tmp_path: Path) -> None:
    sae = load(zipped(tmp_path, method, inside))
    x = draw(12, D)
    f, back = LENS.expected(x)
    close(sae.encode(x), f)
    close(sae.reconstruct(x), back)
    assert sae.origin.layout == "SAELens topk" and sae.owner == load(zipped(tmp_path / "b", method, inside)).owner
    few = load(zipped(tmp_path, zipfile.ZIP_STORED))
    close(few.direction([3, 7]), LENS.rows[[3, 7]])
    assert few.weights.tensors["decoder"].source.bytes_read == 2 * 4 * D


def test_a_zip_of_several_or_of_none_is_told(tmp_path: Path) -> None:
    two = zipped(tmp_path, zipfile.ZIP_STORED, extra={"other.safetensors": b"x"})
    with pytest.raises(ValueError, match=r"holds sae/sae_weights.safetensors, sae/other.safetensors; unpack it"):
        load(two)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(ValueError, match="but this one holds none"):
        load(tmp_path / "none.zip")


def test_a_broken_or_hostile_zip_is_told(tmp_path: Path) -> None:
    path = zipped(tmp_path, zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="this zip archive is damaged or not complete"):
        load(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.safetensors", bytes(200 * 2**20))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="unpacks to far more than weights do"):
        load(path)
    shutil.copyfile(zipped(tmp_path, zipfile.ZIP_DEFLATED), tmp_path / "c.zip")
    damaged = bytearray((tmp_path / "c.zip").read_bytes())
    damaged[len(damaged) // 3] ^= 255
    (tmp_path / "c.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        load(tmp_path / "c.zip").encode(draw(2, D))
