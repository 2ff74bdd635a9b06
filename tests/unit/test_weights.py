"""Weights are read from the file when they are used, and only those."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from plain_sae import D_IN, KINDS, build, close, every_kind, tensors_for
from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.dictionary.weights import Weight, Weights
from sae.files.safetensors_file import open_safetensors


@pytest.fixture
def x() -> Tensor:
    return torch.randn((3, 7, D_IN), generator=torch.Generator().manual_seed(5)) * 2 + 0.5


def stored_sae(folder: Path, architecture: Architecture, dtype: torch.dtype = torch.float32) -> SparseAutoencoder:
    """The same SAE in a file, both matrices as (d, F)."""
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_for(architecture).items()}
    matrices = ("encoder", "decoder")
    save_file({k: (v.T if k in matrices else v).contiguous() for k, v in tensors.items()}, folder / "a.safetensors")
    source = open_safetensors(folder / "a.safetensors")[0]
    weights = {name: Weight(source, name, transposed=name in matrices) for name in tensors}
    return SparseAutoencoder(Weights(weights, architecture))


def bytes_read(sae: SparseAutoencoder) -> int:
    return sae.weights.tensors["decoder"].source.bytes_read


@every_kind
def test_directions_read_their_decoder_rows_and_nothing_else(architecture: Architecture, tmp_path: Path) -> None:
    sae = stored_sae(tmp_path, architecture)
    assert bytes_read(sae) == 0
    directions = sae.direction([5, 4])
    assert bytes_read(sae) == 2 * D_IN * 4
    assert sae.weights.materialised == ()
    close(directions, build(architecture).direction([5, 4]))
    sae.part("decoder")
    close(sae.direction([5, 4]), directions)


@pytest.mark.parametrize("name", ["relu", "relu with norm", "jumprelu", "gated", "batchtopk"])
def test_codes_of_a_feature_read_its_rows_alone(name: str, tmp_path: Path, x: Tensor) -> None:
    sae = stored_sae(tmp_path, KINDS[name])
    codes = sae.codes(x, [8])
    rows = 2 if KINDS[name].decoder_norm != "none" else 1
    assert sae.weights.materialised == ()
    assert bytes_read(sae) <= (rows * D_IN + D_IN + 3) * 4
    before = bytes_read(sae)
    close(sae.codes(x, [8]), codes)
    assert bytes_read(sae) == before, "the same rows are read once"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_gives_what_memory_gives(dtype: torch.dtype, tmp_path: Path, x: Tensor) -> None:
    architecture = KINDS["topk rescaled"]
    sae = stored_sae(tmp_path, architecture, dtype)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_for(architecture).items()}
    memory = SparseAutoencoder.from_tensors(tensors, architecture)
    close(sae.direction([3, 39, 0, 3]), memory.direction([3, 39, 0, 3]), 0)
    close(sae.encode(x), memory.encode(x))
    close(sae.reconstruct(x), memory.reconstruct(x))


def test_wide_gaps_and_merged_runs_of_columns_read_the_same(tmp_path: Path) -> None:
    matrix = torch.arange(5 * 6000, dtype=torch.float32).reshape(5, 6000)
    save_file({"m": matrix}, tmp_path / "m.safetensors")
    source = open_safetensors(tmp_path / "m.safetensors")[0]
    for ids in ([5999], [0, 1, 2], [4, 3000, 2, 5999, 4], list(range(0, 6000, 7)), []):
        assert torch.equal(source.columns("m", ids), matrix[:, ids])
        assert torch.equal(source.rows("m", [i % 5 for i in ids]), matrix[[i % 5 for i in ids]])


def test_parts_made_in_inference_mode_can_be_used_outside_it(tmp_path: Path) -> None:
    sae = stored_sae(tmp_path, KINDS["relu"])
    with torch.inference_mode():
        sae.reconstruct(torch.randn(2, D_IN))
        sae.codes(torch.randn(2, D_IN), [1])
    x = torch.randn(2, D_IN, requires_grad=True)
    sae.codes(x, [1]).sum().backward()
    assert x.grad is not None and not sae.part("encoder").weight.is_inference()


def test_not_a_number_is_found_in_what_is_read_and_nowhere_else(tmp_path: Path) -> None:
    tensors = tensors_for(Architecture("relu"))
    tensors["decoder"][9, 3] = float("nan")
    tensors["encoder"][2, 1] = float("inf")
    save_file(tensors, tmp_path / "bad.safetensors")
    source = open_safetensors(tmp_path / "bad.safetensors", "mine/bad.safetensors")[0]
    weights = Weights({name: Weight(source, name) for name in tensors}, Architecture("relu"))
    sae = SparseAutoencoder(weights)
    assert sae.direction([8, 10]).shape == (2, D_IN)
    assert sae.codes(torch.zeros(1, D_IN), [1, 3]).shape == (1, 2)
    for call in (lambda: sae.direction([9]), lambda: sae.part("decoder")):
        with pytest.raises(ValueError, match=r"mine/bad.safetensors: the tensor 'decoder' holds NaN"):
            call()
    for call in (lambda: sae.codes(torch.zeros(1, D_IN), [2]), lambda: sae.encode(torch.zeros(1, D_IN))):
        with pytest.raises(ValueError, match=r"mine/bad.safetensors: the tensor 'encoder' holds NaN"):
            call()


@pytest.mark.parametrize("read", ["part", "rows"])
def test_threads_that_come_at_once_read_once(read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 8 threads waits for all others before it asks, and each reading of the file for a while."""
    sae, threads = stored_sae(tmp_path, KINDS["relu"]), 8
    source = sae.weights.tensors["encoder"].source
    barrier = threading.Barrier(threads)

    def slow(reading: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*args: Any) -> Any:
            time.sleep(0.05)
            return reading(*args)

        return wait

    for name in ("blocks", "columns"):
        monkeypatch.setattr(source, name, slow(getattr(source, name)))

    def ask() -> object:
        barrier.wait()
        return sae.part("encoder") if read == "part" else sae.weights.rows("encoder", [5, 4])

    with ThreadPoolExecutor(threads) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(threads)]]
    assert all(one is found[0] for one in found)
    again = stored_sae(tmp_path, KINDS["relu"])
    again.part("encoder") if read == "part" else again.weights.rows("encoder", [5, 4])
    assert bytes_read(sae) == bytes_read(again) > 0
