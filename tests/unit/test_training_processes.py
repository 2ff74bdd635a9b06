"""Two processes of accelerate learn what one does with twice the batch; each takes its own part of the calls."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from launched_worker import trained
from numbered_source import TEXT, NumberedSource
from project_files import ROOT
from sae.hosts.accelerate import launched_processes
from sae.training.config import TopKConfig
from sae.training.run import RunSettings, TrainingRun

CONFIG = TopKConfig(d_in=16, d_sae=48, k=3, steps=10, batch_tokens=32)


def test_two_processes_learn_as_one_with_twice_the_batch(tmp_path):
    pytest.importorskip("accelerate")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    worker = str(ROOT / "tests/support/launched_worker.py")
    # accelerate launch starts processes on GPUs with this program, and on processors with MPI only
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run([*launch, worker, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    alone = trained(2, None, 0)
    assert torch.equal(first["decoder"], second["decoder"]) and torch.equal(first["told"], second["told"])
    assert (alone["told"] - first["told"]).abs().max() < 1e-4
    assert alone["told"][-1, 0] < alone["told"][0, 0] - 0.1  # they learned
    assert alone["told"][:, 1].max() > 0  # and some were dead for a while


class SecondOfTwo:
    count, rank = 2, 1

    def mean(self, values):
        return values

    def any(self, flags):
        return flags

    def gather(self, rows):
        return rows


def test_each_process_takes_its_own_calls_and_its_own_checkpoint(tmp_path):
    source, settings = NumberedSource(), RunSettings(buffer_tokens=128, report_every=5)
    lead = TrainingRun(NumberedSource(), {TEXT: CONFIG}, tmp_path / "training.pt", settings)
    second = TrainingRun(source, {TEXT: CONFIG}, tmp_path / "training.pt", settings, peers=SecondOfTwo())
    reports = list(second.go())
    assert source.asked and all(number % 2 == 1 for number in source.asked)
    assert reports[-1].tokens == 2 * 10 * 32
    assert [file.name for file in tmp_path.iterdir()] == ["training.1.pt"]
    list(lead.go())
    with pytest.raises(ValueError, match="processes = 2"):
        other = replace(CONFIG, steps=10)
        (tmp_path / "training.1.pt").rename(tmp_path / "training.pt")
        TrainingRun(NumberedSource(), {TEXT: other}, tmp_path / "training.pt", settings)


def test_a_program_by_itself_has_no_other_processes(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched_processes("cpu") as peers:
        assert peers is None
