"""python -m sae train --trainer sae-lens, stopped: what is kept and said. SAELens itself is played here."""

import json
import signal

import pytest
import torch

from numbered_source import IMAGE, TEXT, NumberedSource
from sae.__main__ import main
from sae.commands import train, train_sae_lens
from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.export import export
from sae.formats import load
from sae.training.shards import KeepingSource, ShardWriter

STEPS, STOPPED_AT = 40, 7
FLAGS = (
    f"--trainer sae-lens --architecture standard --source shards --features 48 --steps {STEPS} --batch-tokens 64 "
    "--buffer-tokens 256 --held-out-tokens 200"
).split()


class PlayedRun:
    """What `SaeLensRun` promises, with weights that do not change: it reads batches and ends when it is to stop."""

    def __init__(self, config, batches):
        self.config, self.batches = config, batches
        self.stopping, self.step = False, 0

    def train(self):
        while self.step < self.config.steps and not self.stopping:
            assert next(self.batches).shape == (64, self.config.d_in)
            self.step += 1
            if self.step == STOPPED_AT:
                self.interrupt()

    def interrupt(self):
        signal.raise_signal(signal.SIGINT)

    def write(self, folder, metadata):
        tensors = {
            "encoder": torch.eye(48, self.config.d_in), "decoder": torch.eye(48, self.config.d_in),
            "encoder_bias": torch.zeros(48), "input_bias": torch.zeros(self.config.d_in),
            "output_bias": torch.zeros(self.config.d_in),
        }  # fmt: skip
        return export(SparseAutoencoder.from_tensors(tensors, Architecture("relu")), folder, "saelens")


class TwiceInterrupted(PlayedRun):
    def interrupt(self):
        super().interrupt()
        super().interrupt()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on tokens of two sites, with SAELens played."""
    inner = NumberedSource()
    source = KeepingSource(inner, ShardWriter(tmp_path / "shards", inner.sites, {TEXT: 16, IMAGE: 24}, 2560))
    for number in range(40):
        source.training(number)
    monkeypatch.setattr(train, "check_trainable", lambda settings, processes: None)
    monkeypatch.setattr(train_sae_lens, "SaeLensRun", PlayedRun)
    return ["train", *FLAGS, "--data", str(tmp_path / "shards"), "--out", str(tmp_path / "out")]


def test_ctrl_c_ends_after_the_step_and_keeps_what_was_done(command, tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    assert main(command) == 130
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"Stopped at step {STOPPED_AT}; what is written is what it was then."
    assert told.err.splitlines() == ["stopped"]
    report = json.loads((tmp_path / "out" / TEXT / "report.json").read_text(encoding="utf-8"))
    assert report["trained"]["steps"] == STOPPED_AT and report["fit"]["tokens"] == 200
    assert load(tmp_path / "out" / TEXT).statistics.tokens == 200
    assert not (tmp_path / "out" / IMAGE).exists()  # the second site had not begun
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_sae_lens, "SaeLensRun", TwiceInterrupted)
    assert main(command) == 130
    assert capsys.readouterr().err.splitlines() == ["stopped"]
    assert not (tmp_path / "out" / TEXT).exists()


def test_undisturbed_it_trains_both_sites_to_the_end(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PlayedRun, "interrupt", lambda self: None)
    assert main(command) == 0
    assert "Stopped" not in capsys.readouterr().out
    for name in (TEXT, IMAGE):
        report = json.loads((tmp_path / "out" / name / "report.json").read_text(encoding="utf-8"))
        assert report["trained"]["steps"] == STEPS
