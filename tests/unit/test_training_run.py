"""A run of several SAEs: killed and carried on to the same bits, outliers set aside, memory flat, bad input."""

import gc
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import psutil
import pytest
import torch

from numbered_source import IMAGE, TEXT, NumberedSource
from project_files import ROOT
from sae.training import run as run_module
from sae.training.config import TopKConfig
from sae.training.run import RunSettings, TrainingRun, memory_of
from sae.training.source import Chunk
from training_worker import STEPS, run_in

CONFIG = TopKConfig(d_in=16, d_sae=48, k=3, steps=20, batch_tokens=32, dead_tokens=500, warmup_steps=5)
CONFIGS = {TEXT: CONFIG, IMAGE: replace(CONFIG, d_in=24)}
SETTINGS = RunSettings(buffer_tokens=256, report_every=5, save_every=7)


def weights(run):
    return {
        f"{name} {key}": value for name, model in run.results().items() for key, value in model.state_dict().items()
    }


def assert_equal(one, other):
    assert set(one) == set(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """kill -9 of a real process, between and after checkpoints; then the same again."""
    whole = run_in(tmp_path / "whole")
    for _ in whole.go():
        pass
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    command = [sys.executable, str(ROOT / "tests/support/training_worker.py"), str(tmp_path / "killed")]
    stopped = []
    for last in (17, 41):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
            for line in worker.stdout:
                if int(line) >= last:
                    worker.kill()
                    break
        assert worker.returncode != 0
        stopped.append(run_in(tmp_path / "killed").step)
    assert stopped == [14, 35]
    carried_on = run_in(tmp_path / "killed")
    for _ in carried_on.go():
        pass
    assert carried_on.step == STEPS
    assert_equal(weights(whole), weights(carried_on))
    assert not list((tmp_path / "killed").glob("*.tmp"))


def test_an_iteration_that_is_left_saves_and_goes_on(tmp_path):
    whole = TrainingRun(NumberedSource(), CONFIGS, settings=SETTINGS)
    for _ in whole.go():
        pass
    first = TrainingRun(NumberedSource(), CONFIGS, tmp_path / "training.pt", SETTINGS)
    with closing(first.go()) as progress:
        next(progress)  # 5 steps, as a node that is cancelled
    source = NumberedSource()
    second = TrainingRun(source, CONFIGS, tmp_path / "training.pt", SETTINGS)
    assert second.step == 5
    for _ in second.go():
        pass
    assert_equal(weights(whole), weights(second))
    assert min(source.asked) == first.call  # nothing is collected twice


def test_an_interrupt_in_the_middle_of_a_step_leaves_the_last_whole_state(tmp_path):
    """Ctrl-C may come between two lines: here the first site has made its step and the second has not."""
    whole = TrainingRun(NumberedSource(), CONFIGS, settings=SETTINGS)
    list(whole.go())
    first = TrainingRun(NumberedSource(), CONFIGS, tmp_path / "training.pt", SETTINGS)
    second_site, made = first.trainers[IMAGE], []

    def interrupted(batch):
        made.append(batch)
        if len(made) == 10:
            raise KeyboardInterrupt
        return type(second_site).train_step(second_site, batch)

    second_site.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(first.go())
    carried_on = TrainingRun(NumberedSource(), CONFIGS, tmp_path / "training.pt", SETTINGS)
    assert carried_on.step == 7
    list(carried_on.go())
    assert_equal(weights(whole), weights(carried_on))


class Interrupted(NumberedSource):
    def training(self, number):
        if number == 7:
            raise InterruptedError
        return super().training(number)


def test_a_source_that_is_cancelled_loses_nothing(tmp_path):
    """As ComfyUI's Cancel, which is raised inside a run of the model."""
    whole = TrainingRun(NumberedSource(), CONFIGS, settings=SETTINGS)
    list(whole.go())
    file = tmp_path / "training.pt"
    with pytest.raises(InterruptedError):
        list(TrainingRun(Interrupted(), CONFIGS, file, SETTINGS).go())
    source = NumberedSource()
    carried_on = TrainingRun(source, CONFIGS, file, SETTINGS)
    list(carried_on.go())
    assert min(source.asked) == 7
    assert_equal(weights(whole), weights(carried_on))


def test_sites_beside_each_other_are_trained_as_alone():
    configs = {name: replace(config, rate=1e-2, steps=100) for name, config in CONFIGS.items()}
    together = TrainingRun(NumberedSource(), configs, settings=SETTINGS)
    alone = TrainingRun(NumberedSource(), {IMAGE: configs[IMAGE]}, settings=SETTINGS)
    reports = list(together.go())
    list(alone.go())
    assert_equal(weights(alone), {name: value for name, value in weights(together).items() if name.startswith(IMAGE)})
    assert [report.step for report in reports] == list(range(5, 101, 5))
    assert reports[-1].tokens == 100 * 32 and set(reports[-1].sites) == {TEXT, IMAGE}
    assert reports[-1].sites[TEXT].explained_variance > reports[0].sites[TEXT].explained_variance + 0.2


def test_outliers_are_set_aside_and_counted():
    plain, loud = NumberedSource(), NumberedSource(loud=3)
    runs = [TrainingRun(source, {TEXT: CONFIG}, settings=SETTINGS) for source in (plain, loud)]
    reports = [list(run.go())[-1] for run in runs]
    assert reports[0].set_aside == 0
    assert reports[1].set_aside == 3 * len(loud.asked)
    assert float(runs[1].buffers[TEXT].rows.float().norm(dim=1).max()) < 100


def live_tensors():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_memory_stays_flat():
    config = TopKConfig(d_in=16, d_sae=48, k=3, steps=3_000, batch_tokens=8, dead_tokens=500)
    run = TrainingRun(NumberedSource(), {TEXT: config}, settings=RunSettings(buffer_tokens=256, report_every=300))
    process = psutil.Process()
    used = [(process.memory_info().rss / 2**20, live_tensors()) for _ in run.go()]
    sizes, tensors = zip(*used, strict=True)
    assert len(sizes) == 10
    assert max(tensors) - min(tensors) <= 1  # the buffer's drawn rows may be a part of others
    assert max(sizes[1:]) - sizes[1] < 3  # MB


def test_the_memory_that_is_told_is_that_of_the_tensors(tmp_path):
    config = replace(CONFIG, average=0.9)
    run = TrainingRun(NumberedSource(), {TEXT: config}, settings=SETTINGS)
    list(run.go())
    trainer = run.trainers[TEXT]
    held = [*trainer.model.parameters(), *trainer.averages, *(p.grad for p in trainer.model.parameters())]
    held += [value for state in trainer.optimizer.state.values() for value in state.values()]
    held.append(run.buffers[TEXT].rows)
    total = sum(tensor.nbytes for tensor in held)
    told = memory_of(config, SETTINGS) - 2 * 32 * 48 * 4
    assert told == pytest.approx(total, rel=0.1)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    file = tmp_path / "training.pt"
    with closing(TrainingRun(NumberedSource(), CONFIGS, file, SETTINGS).go()) as progress:
        next(progress)
    others = [
        ((NumberedSource(), {name: replace(one, k=4) for name, one in CONFIGS.items()}), "k = 3, but this run has 4"),
        ((NumberedSource(seed=1), CONFIGS), "seed = 0, but this run has 1"),
        ((NumberedSource(), {TEXT: CONFIG}), "sites = "),
    ]
    for (source, configs), message in others:
        with pytest.raises(ValueError, match=rf"training\.pt: .*{message}"):
            TrainingRun(source, configs, file, SETTINGS)
    with pytest.raises(ValueError, match="buffer: "):
        TrainingRun(NumberedSource(), CONFIGS, file, replace(SETTINGS, buffer_tokens=512))
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot be read; remove it"):
        TrainingRun(NumberedSource(), CONFIGS, file, SETTINGS)


class Spoiled(NumberedSource):
    def training(self, number):
        chunks = super().training(number)
        if number == 6:
            chunks[TEXT].tokens[3, 2] = float("nan")
        return chunks


class Empty(NumberedSource):
    def training(self, number):
        return {name: Chunk(*(part[:0] for part in chunk)) for name, chunk in super().training(number).items()}


def test_bad_activations_and_sources_without_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "EMPTY_CALLS", 20)
    with pytest.raises(ValueError, match=f"activations: 1 of 64 tokens at {TEXT} are not finite"):
        list(TrainingRun(Spoiled(), CONFIGS, tmp_path / "training.pt", SETTINGS).go())
    assert TrainingRun(NumberedSource(), CONFIGS, tmp_path / "training.pt", SETTINGS).step > 0  # nothing is lost
    with pytest.raises(ValueError, match="source: 20 calls gave no tokens"):
        list(TrainingRun(Empty(), CONFIGS, settings=SETTINGS).go())
    with pytest.raises(ValueError, match=r"sites: the source gives .*, but elsewhere is to be trained"):
        TrainingRun(NumberedSource(), {"elsewhere": CONFIG})
    with pytest.raises(ValueError, match="steps: SAEs that train side by side"):
        TrainingRun(NumberedSource(), {TEXT: CONFIG, IMAGE: replace(CONFIGS[IMAGE], steps=21)})
