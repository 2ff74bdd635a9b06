"""Where exports are written: folders that hold something, progress, memory, and the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from export_cases import CASES, D, K, tokens
from export_saes import CONFIGS, SITE, build
from plain_sae import close
from project_files import ROOT
from sae.dictionary.activations import Architecture
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.export import TARGETS, export
from sae.formats import load

every_target = pytest.mark.parametrize("target", TARGETS)


@every_target
def test_the_same_again_is_fine_and_another_is_refused(target, tmp_path):
    path = export(build("topk"), tmp_path, target)
    before = path.read_bytes()
    old = path.stat().st_mtime_ns
    assert export(build("topk"), tmp_path, target) == path
    assert path.read_bytes() == before and path.stat().st_mtime_ns == old
    with pytest.raises(ValueError) as caught:
        export(build("topk, one bias"), tmp_path, target)
    name = "cfg.json" if target == "saelens" else path.name  # which says already that biases differ
    sentence = f"folder: {tmp_path} already holds another {name}; choose another folder or remove it."
    assert str(caught.value) == sentence and path.read_bytes() == before
    export(build("topk, one bias"), tmp_path, target, replace=True)
    assert path.read_bytes() != before
    wanted = {path.name, CONFIGS.get(target)} - {None}
    assert {file.name for file in tmp_path.iterdir()} == wanted


def test_an_sae_may_be_written_where_it_was_read(tmp_path):
    path = export(build("topk"), tmp_path, "saelens")
    sae = load(path)
    export(sae, tmp_path, "saelens")
    close(sae.encode(tokens()), CASES["topk"].codes(tokens()))


@pytest.mark.parametrize("name", ["other.safetensors", "ae.pt", "cfg.json", "config.json", "model.json"])
def test_a_folder_of_something_else_is_left_alone(name, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    (tmp_path / "notes.txt").write_bytes(b"may stay")
    with pytest.raises(ValueError) as caught:
        export(build("topk"), tmp_path, "sae_steering")
    assert str(caught.value) == (
        f"folder: {tmp_path} already holds another {name}; choose another folder or remove it."
    )
    assert {file.name for file in tmp_path.iterdir()} == {name, "notes.txt"}
    (tmp_path / name).unlink()
    export(build("topk"), tmp_path, "sae_steering")


def test_other_settings_for_the_same_weights_are_refused(tmp_path):
    export(build("topk"), tmp_path, "reny_topk")
    other = SparseAutoencoder.from_tensors(CASES["topk"].tensors(), Architecture("topk", k=K + 1))
    with pytest.raises(ValueError, match=r"already holds another config\.json; choose another folder or remove it\.$"):
        export(other, tmp_path, "reny_topk")
    assert load(tmp_path).architecture.k == K


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^folder: .*file is a file; give a folder\.$"):
        export(build("topk"), tmp_path / "file", "saelens")
    with pytest.raises(ValueError, match=r"^folder: .*below cannot be written \(.+\); choose another\.$"):
        export(build("topk"), tmp_path / "file" / "below", "saelens")


class StoppedError(BaseException):
    pass


@every_target
def test_progress_counts_bytes_and_may_stop(target, tmp_path, monkeypatch):
    monkeypatch.setattr("sae.export.tensor_plan.BLOCK_BYTES", 4 * 10 * D)
    told = []
    path = export(build("topk"), tmp_path / "whole", target, progress=lambda done, total: told.append((done, total)))
    total = told[0][1]
    assert told[0][0] == 0 and told[-1] == (total, total) and len(told) > 6
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert total == sum(tensor.nbytes for tensor in stored_tensors(path))

    def stop(done, total):
        if done >= total // 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        export(build("topk"), tmp_path / "cut", target, progress=stop)
    assert list((tmp_path / "cut").iterdir()) == []


def stored_tensors(path: Path):
    return (torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)).values()


MEASURE = r"""
import re, sys
from pathlib import Path
from sae.export import export
from sae.formats import load

def memory(what):
    return 1024 * int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
for target in ("sae_steering", "saelens", "reny_topk"):
    sae = load(folder / "source")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    export(sae, folder / target, target)
    print(target, memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux tells it")
def test_writing_takes_the_memory_of_one_matrix(tmp_path):
    d_in, d_sae = 512, 40_000
    matrix = 4 * d_in * d_sae
    tensors = {"encoder": torch.rand(d_sae, d_in), "decoder": torch.rand(d_sae, d_in), "input_bias": torch.rand(d_in)}
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=8, decoder_norm="before"))
    export(sae, tmp_path / "source", "sae_steering")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    peaks = dict(line.split() for line in result.stdout.splitlines())
    assert len(peaks) == 3 and all(int(peak) < 1.75 * matrix for peak in peaks.values()), (matrix, peaks)


# The command line


def convert(*arguments):
    command = [sys.executable, "-m", "sae", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_convert_on_the_command_line(tmp_path):
    source = export(build("topk", site=SITE), tmp_path / "source", "saelens")
    result = convert(source.parent, tmp_path / "out", "--to", "reny_topk", "--dtype", "float16")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"Wrote {tmp_path / 'out' / 'model.safetensors'}: ")
    found = load(tmp_path / "out")
    assert found.site == SITE and found.weights.tensors["encoder"].whole().dtype == torch.float16
    refused = convert(source, tmp_path / "out", "--to", "dictionary_learning")
    assert refused.returncode == 1 and refused.stdout == ""
    assert re.fullmatch(r"error: folder: .*out already holds another .*\n", refused.stderr)
    asked = convert(tmp_path / "out", tmp_path / "again", "--architecture", "nothing")
    assert asked.returncode == 1 and asked.stderr.startswith("error: architecture: 'nothing' is not a layout;")
