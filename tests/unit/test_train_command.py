"""python -m sae train, evaluate, compare and publish: on shards, so that no model is needed."""

import csv
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from numbered_source import IMAGE, TEXT, NumberedSource
from sae.__main__ import main
from sae.commands import publish, train, train_settings
from sae.commands.train_settings import Settings
from sae.commands.train_sources import PipelineModel
from sae.formats import load
from sae.places.site import parse_sites
from sae.training.config import TopKConfig
from sae.training.shards import KeepingSource, ShardWriter

VALUES = {
    "source": "shards", "features": 48, "k": 3, "steps": 40, "batch_tokens": 64, "rate": 0.01, "warmup_steps": 5,
    "buffer_tokens": 256, "held_out_tokens": 200, "report_every": 10, "log": "csv",
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    inner = NumberedSource()
    source = KeepingSource(inner, ShardWriter(folder, inner.sites, {TEXT: 16, IMAGE: 24}, 5120))
    for number in range(80):
        source.training(number)
    return folder


def toml(values):
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.toml").write_text(toml(VALUES | {"data": str(shards), "out": str(folder / "out")}))
    if sys.version_info < (3, 11):
        pytest.skip("TOML needs Python 3.11")
    assert main(["train", str(folder / "config.toml"), "--k", "4"]) == 0  # the flag wins
    return folder


def test_a_file_and_a_flag_train_both_sites(trained):
    for name, width in ((TEXT, 16), (IMAGE, 24)):
        folder = trained / "out" / name
        sae = load(folder)
        assert (sae.d_in, sae.d_sae, sae.architecture.k) == (width, 48, 4)
        assert sae.site == NumberedSource().sites[name] and sae.statistics.tokens == 200
        report = json.loads((folder / "report.json").read_text())
        assert report["fit"]["tokens"] == 200 and report["fit"]["l0"] <= 4
        assert report["fit"]["explained_variance"] > 0.5
        assert sum(report["densities"]) == 48 and report["prediction_recovered"] is None
        assert (report["trained"]["k"], report["trained"]["rate"]) == (4, 0.01)
        text = (folder / "README.md").read_text()
        assert f"{report['fit']['explained_variance']:.4f}" in text and "not measured" in text
        assert all((folder / picture).is_file() for picture in ("densities.png", "curve.png"))


def test_the_log_has_a_line_a_report_and_site(trained):
    with (trained / "out" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [(step, name) for step in (10, 20, 30, 40) for name in (TEXT, IMAGE)]
    assert [(int(row["step"]), row["site"]) for row in rows] == wanted
    assert int(rows[-1]["tokens"]) == 40 * 64
    assert float(rows[-1]["explained_variance"]) > float(rows[0]["explained_variance"])


def test_the_same_command_goes_on_from_the_checkpoint(trained, shards, tmp_path, capsys):
    command = ["train", "--data", str(shards), "--out", str(tmp_path), "--k", "4", "--save-every", "10"]
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in VALUES.items() if name != "k"}
    command += [part for flag in flags.items() for part in flag]

    def stop(progress):
        if progress.step == 20:
            signal.raise_signal(signal.SIGINT)
        return "on"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_told", stop)
        assert main(command) == 130
    assert "Stopped at step 20; the same command goes on from there." in capsys.readouterr().out
    assert main(command) == 0
    assert "Going on from step 20 of 40." in capsys.readouterr().out
    for name in (TEXT, IMAGE):
        whole, resumed = (load_file(out / name / "model.safetensors") for out in (trained / "out", tmp_path))
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())
    assert (tmp_path / "log.csv").read_text() == (trained / "out" / "log.csv").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("file", ["log.csv", f"{TEXT}/README.md"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(file, trained, shards, tmp_path, capsys):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).symlink_to("/dev/full")
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in VALUES.items() if name != "k"}
    command = ["train", "--data", str(shards), "--out", str(tmp_path), "--k", "4"]
    command += [part for flag in flags.items() for part in flag]
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {Path(file).name}: it cannot be written (No space left on device)")
    (tmp_path / file).unlink()
    assert main(command) == 0
    whole, resumed = (load_file(out / TEXT / "model.safetensors") for out in (trained / "out", tmp_path))
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_evaluate_says_what_train_said(trained, shards, tmp_path, capsys):
    path = trained / "out" / TEXT
    assert main(["evaluate", str(path), "--source", "shards", "--data", str(shards), "--held-out-tokens", "200",
                 "--out", str(tmp_path)]) == 0  # fmt: skip
    said = json.loads((path / "report.json").read_text())["fit"]
    again = json.loads((tmp_path / "report.json").read_text())["fit"]
    assert again == pytest.approx(said, rel=1e-4)
    assert f"{said['explained_variance']:.4f}" in capsys.readouterr().out


def test_compare_puts_two_side_by_side(trained, shards, capsys):
    path = trained / "out" / TEXT
    same = ["--source", "shards", "--data", str(shards), "--held-out-tokens", "200"]
    assert main(["compare", str(path), str(path), *same]) == 0
    lines = capsys.readouterr().out.splitlines()
    explained = next(line for line in lines if line.startswith("explained variance")).split()
    assert explained[-1] == explained[-2] and 0.5 < float(explained[-1]) < 1
    assert main(["compare", str(path), str(trained / "out" / IMAGE), *same]) == 0  # each at its own place


def test_publish_says_what_it_would_send_and_asks(trained, capsys, monkeypatch):
    folder, sent = trained / "out" / TEXT, []
    monkeypatch.setattr(publish, "_send", lambda *given: sent.append(given) or "there")
    assert main(["publish", str(folder), "me/an-sae", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "README.md" in told and "model.safetensors" in told and "Nothing was sent." in told
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["publish", str(folder), "me/an-sae"]) == 0 and sent == []
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["publish", str(folder), "me/an-sae", "--private"]) == 0
    assert sent == [(folder, "me/an-sae", True)]


def test_publish_leaves_checkpoints_and_hidden_files(tmp_path):
    for name in ("model.safetensors", "training.pt", "log.csv", ".token", "x.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    assert [file.name for file in publish.files_of(tmp_path)] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "out: the result needs a folder"),
        (["--out", "x", "--source", "elsewhere"], "source: 'elsewhere' is not known; use one of shapes"),
        (["--out", "x", "--source", "texts"], "prompts: it is needed for this source"),
        (["--out", "x", "--source", "shards", "--data", "absent"], "index.json: this index of shards cannot be read"),
        (["--out", "x", "--source", "pictures", "--data", "absent"], "data: absent is no folder with pictures"),
        (["--out", "x", "--dtype", "int8"], "dtype: 'int8' is not known"),
        (["--out", "x", "--trainer", "muon"], "trainer: 'muon' is not known; use one of own, sae-lens"),
        (
            ["--out", "x", "--trainer", "sae-lens"],
            "architecture: 'topk' is not trained with SAELens here; use standard",
        ),
        (
            ["--out", "x", "--architecture", "gated"],
            "architecture: gated is trained by SAELens; give --trainer sae-lens",
        ),
        (["absent.toml"], "config: absent.toml cannot be read"),
    ],
)
def test_what_is_wrong_is_one_sentence(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_without_sae_lens_the_sentence_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    assert main(["train", "--out", "x", "--trainer", "sae-lens", "--architecture", "jumprelu"]) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("error: trainer: it needs sae_lens, which is not installed: run ") and error.count("\n") == 1
    )
    assert "-m pip install sae_lens" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 49}, "k: 49 of 48 features cannot be active"),
        ({"log": "paper"}, "log: 'paper' is not known"),
        ({"stepz": 3}, "has 'stepz', which is no value of training; did you mean steps?"),
        ({"k": "many"}, "has k = 'many', but int is needed"),
        ({"sites": "transformer_blocks.0"}, "but a list of str is needed"),
    ],
)
def test_wrong_values_in_a_file_are_one_sentence(change, message, shards, tmp_path, capsys):
    pytest.importorskip("tomllib")
    (tmp_path / "c.toml").write_text(toml(VALUES | {"data": str(shards), "out": str(tmp_path / "out")} | change))
    assert main(["train", str(tmp_path / "c.toml")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_tomllib_the_sentence_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert main(["train", str(tmp_path / "c.toml")]) == 1
    assert "needs Python 3.11 or newer; give its values as flags instead" in capsys.readouterr().err


def test_settings_have_the_trainers_defaults():
    config = Settings(features=48, k=3, steps=40).config(16)
    assert config == TopKConfig(d_in=16, d_sae=48, k=3, steps=40)
    assert set(train_settings.SOURCES) >= {"shapes", "shards"}


def test_sites_are_named_after_their_place():
    sites = parse_sites(["transformer_blocks.0:text", "transformer_blocks.1.attn:image", "single_transformer_blocks.3"])
    assert list(sites) == [
        "transformer_blocks.0-text", "transformer_blocks.1.attn-image", "single_transformer_blocks.3-joint",
    ]  # fmt: skip


class FakePipeline:
    transformer = None

    def __init__(self):
        self.calls = []

    def __call__(self, **given):
        self.calls.append(given | {"noise": torch.randn(2, generator=given["generator"]).tolist()})


def test_a_pipeline_draws_its_prompts_in_turn_each_time_from_another_noise():
    pipeline = FakePipeline()
    model = PipelineModel(pipeline, ["a cat", "a dog"], 4, 64, "flux")
    assert [list(model.run(number, 0)) for number in range(3)] == [[0], [1], [0]]
    model.run(2, 0)
    assert [call["prompt"] for call in pipeline.calls] == ["a cat", "a dog", "a cat", "a cat"]
    assert pipeline.calls[0]["noise"] != pipeline.calls[2]["noise"] == pipeline.calls[3]["noise"]
