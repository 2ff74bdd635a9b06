"""SAEs of text encoders: Qwen-Scope (Q), Gemma Scope (P) and its second edition, and files of numpy.savez."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from layout_checks import check_case, close
from layouts import Case, D, K, draw
from layouts_language import QWEN, gemma_scope, qwen_scope
from sae.files.npz_file import open_npz
from sae.formats import load


@pytest.mark.parametrize(
    "case",
    [
        qwen_scope(),
        qwen_scope("mine", architecture=f"qwen_scope:{K}"),
        qwen_scope(f"{QWEN}/snapshots/0a1b"),
        gemma_scope(),
        gemma_scope(second=True),
    ],
    ids=["Q", "Q with k given", "Q some folders up", "P", "P of Gemma 3"],
)
def test_codes_reconstruction_and_directions_follow_the_formula(case: Case, tmp_path: Path) -> None:
    check_case(case, tmp_path)


def test_names_of_layouts_and_hooks(tmp_path: Path) -> None:
    assert load(qwen_scope().write(tmp_path)).origin.layout == "Qwen-Scope topk"
    assert load(gemma_scope().write(tmp_path)).origin.layout == "Gemma Scope 1"
    second = load(gemma_scope(second=True).write(tmp_path)).origin
    assert (second.layout, second.hook) == ("Gemma Scope 2", "model.layers.12.output")


def _with(case: Case, **config: object) -> Case:
    return replace(case, configs={"config.json": {**case.configs["config.json"], **config}})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (qwen_scope("mine"), r"keep the folder's name, such as SAE-Res-Qwen3-8B-Base-W64K-L0_50, .*qwen_scope:50"),
        (qwen_scope(architecture="qwen_scope:7"), rf"k = 7 was given, but the folder's name has L0_{K}"),
        (qwen_scope("SAE-L0_99"), "k is 99, but must lie between 1 and the number of features, 32"),
        (_with(gemma_scope(True), type="transcoder"), "this is a transcoder, .* of a layout that is not read"),
        (_with(gemma_scope(True), architecture="relu"), "architecture = 'relu'; known is jump_relu"),
        (_with(gemma_scope(True), width=9), "says width = 9, but the tensors have 32"),
        (replace(gemma_scope(), file="gemma-scope-2b-pt-transcoders/params.npz"), "one of transcoders"),
    ],
)
def test_what_is_open_or_wrong_is_told(case: Case, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(case.write(tmp_path), architecture=case.architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_are_read_as_numpy_reads_them(packed: bool, order: str, dtype: str, tmp_path: Path) -> None:
    random = numpy.random.default_rng(5)
    arrays = {"matrix": random.standard_normal((7, 300)), "vector": random.standard_normal(9), "number": 0.5}
    arrays = {key: numpy.array(value, dtype=dtype, order=order) for key, value in arrays.items()}
    (numpy.savez_compressed if packed else numpy.savez)(tmp_path / "a.npz", **arrays)
    source = open_npz(tmp_path / "a.npz", "a.npz")
    assert source.bytes_read == 0, "nothing but headers is read at first"
    for key, array in arrays.items():
        assert torch.equal(source.whole(key), torch.from_numpy(array))
    matrix = torch.from_numpy(numpy.ascontiguousarray(arrays["matrix"]))
    assert torch.equal(source.rows("matrix", [6, 0, 1]), matrix[[6, 0, 1]])
    assert torch.equal(source.columns("matrix", [299, 4, 5]), matrix[:, [299, 4, 5]])
    assert torch.equal(torch.cat([block for _, block in source.blocks("matrix")]), matrix)
    assert source.sample("matrix", 3, 8) == b"".join(
        matrix.reshape(-1)[first : first + 8].numpy().tobytes() for first in (0, 1046, 2092)
    )


def test_an_sae_in_fortrans_order_or_compressed_is_the_same(tmp_path: Path) -> None:
    case = gemma_scope()
    x = draw(5, D)
    wanted, _ = case.expected(x)
    arrays = {key: numpy.asfortranarray(value.numpy()) for key, value in case.state.items()}
    for name, save in (("turned", numpy.savez), ("packed", numpy.savez_compressed)):
        save(tmp_path / f"{name}.npz", **arrays)
        close(load(tmp_path / f"{name}.npz").encode(x), wanted)


def test_few_rows_of_a_stored_array_cost_few_bytes(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "a.npz", matrix=numpy.zeros((4000, 64), dtype="float32"))
    source = open_npz(tmp_path / "a.npz", "a.npz")
    source.rows("matrix", [17, 3900])
    assert source.bytes_read == 2 * 64 * 4


def test_a_file_that_changes_later_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    numpy.savez_compressed(path, a=numpy.zeros(3))
    source = open_npz(path, "a.npz")
    numpy.savez_compressed(path, a=numpy.ones(400))
    with pytest.raises(ValueError, match="changed since it was loaded"):
        source.whole("a")


def test_a_damaged_member_is_told_when_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    numpy.savez_compressed(path, a=numpy.random.default_rng(1).standard_normal(4000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    source = open_npz(path, "a.npz")
    with pytest.raises(ValueError, match=r"'a.npy' is damaged"):
        source.whole("a")


def test_a_bad_address_of_a_member_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    numpy.savez(path, a=numpy.zeros(30))
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
    content = bytearray(path.read_bytes())
    content[place + 42 : place + 46] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="the archive is damaged"):
        open_npz(path, "a.npz")
