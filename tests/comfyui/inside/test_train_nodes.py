"""The nodes that train and measure SAEs of a model: right tokens, the same result after Cancel, an SAE that steers."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import torch
from safetensors.torch import load_file

import tiny_families
from family_runs import tiny
from sae_steering_pack.sae.demo.shapes import training_prompts
from sae_steering_pack.sae.hosts.comfyui.model import identity_of
from sae_steering_pack.sae.hosts.comfyui.model_at_work import Activity
from sae_steering_pack.sae.hosts.comfyui.own_folders import output_folder
from sae_steering_pack.sae.places.moment import unheard
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.training.collect import Collection
from sae_steering_pack.sae.training.run import TrainingRun
from sae_steering_pack.sae.training.shards import ShardSource
from sae_steering_pack.sae.training.source import ModelSource
from tiny_families import CASES
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(4, 16, 16, 16)}
PROMPTS = [" ".join(prompt.words) for prompt in training_prompts()[:40]]
FEW = PROMPTS[:3]  # too few to try whether features steer, which takes long
TEXT = parse_location("transformer_blocks.0", "text")


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def train(node_classes, shapes):
    def run(**more):
        inputs = {
            "model": shapes[0], "clip": shapes[5], "latent_image": LATENT, "prompts": "\n\n".join(FEW),
            "location": "transformer_blocks.0", "stream": "text", "preset": "try it (5 minutes)", "name": "tiny",
            "d_sae": 64, "k": 8, "tokens": 2048, "steps": 60, "sampling_steps": 4,
        }  # fmt: skip
        return run_node(node_classes["TrainSAE"], **{**inputs, **more}).result

    yield run
    shutil.rmtree(models(), ignore_errors=True)
    shutil.rmtree(output_folder() / "training", ignore_errors=True)


def models() -> Path:
    return Path(folder_paths.models_dir) / "sae"


def activity(shapes, prompts=PROMPTS, steps=4):
    return Activity(shapes[0], shapes[5], prompts, LATENT, steps, unheard)


@contextmanager
def plain_hook(block, pick):
    """What core's own module gives at every call, (batch, tokens, width)."""
    seen = []
    handle = block.register_forward_hook(lambda module, args, output: seen.append(pick(output).clone()))
    try:
        yield seen
    finally:
        handle.remove()


def test_tokens_are_those_of_plain_hooks_at_two_sites_in_one_forward(shapes) -> None:
    sites = {"text": TEXT, "image": parse_location("transformer_blocks.1", "image")}
    source = ModelSource(activity(shapes), sites, {"text": 1.0, "image": 0.25}, seed=3)
    blocks = shapes[0].model.diffusion_model.double_blocks
    with plain_hook(blocks[0], lambda output: output[1]) as text, plain_hook(blocks[1], lambda output: output[0]) as im:
        chunks = source.training(7)
    assert len(text) == len(im) == 4  # calls of the model
    for name, seen, count in (("text", text, 4 * 4 * 5), ("image", im, 4 * 4 * 16)):
        flat = torch.cat([call.flatten(0, 1) for call in seen])
        found = chunks[name].tokens
        distance = torch.cdist(found.double(), flat.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        assert found.shape == (count, 128) and float(distance.max()) == 0
    assert torch.equal(chunks["text"].tokens.sort(dim=0)[0], torch.cat([t.flatten(0, 1) for t in text]).sort(dim=0)[0])
    assert set(chunks["text"].prompt.tolist()) == {7}
    assert torch.equal(source.training(7)["text"].tokens, chunks["text"].tokens)
    assert not torch.equal(source.held_out(7)["text"].tokens, chunks["text"].tokens)


def test_noise_levels_are_drawn_evenly(shapes) -> None:
    runs = torch.tensor([activity(shapes, steps=8).levels(seed) for seed in range(200)])
    sampling = shapes[0].get_model_object("model_sampling")
    assert torch.equal(runs[:, 0], torch.ones(200)) and torch.equal(runs[:, 8], torch.zeros(200))
    for part in range(1, 8):
        low, high = sampling.percent_to_sigma((part + 1) / 8), sampling.percent_to_sigma(part / 8)
        drawn = runs[:, part]
        assert low - 1e-6 <= float(drawn.min()) and float(drawn.max()) <= high + 1e-6
        assert float(drawn.max() - drawn.min()) > 0.9 * (high - low)


def test_cancelled_twice_and_queued_again_it_ends_bit_identical(train, shapes, monkeypatch) -> None:
    whole = train(name="whole")[0]
    calls, go = [], TrainingRun.go

    def stopping_while_collecting(self, number):
        calls.append(number)
        if len(calls) == 12:
            comfy.model_management.interrupt_current_processing(True)
        return training_of(self, number)

    def stopping_while_training(self):
        for progress in go(self):
            if progress.step == 37:
                comfy.model_management.interrupt_current_processing(True)
            yield progress

    training_of = ModelSource.training
    monkeypatch.setattr(ModelSource, "training", stopping_while_collecting)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(name="cancelled")
    monkeypatch.setattr(ModelSource, "training", training_of)
    [work] = (output_folder() / "training").iterdir()
    assert len(list((work / "tokens").glob("shard-*"))) == 2 and not (work / "training.pt").exists()
    monkeypatch.setattr(TrainingRun, "go", stopping_while_training)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(name="cancelled")
    monkeypatch.setattr(TrainingRun, "go", go)
    assert torch.load(work / "training.pt", weights_only=True)["step"] == 37 and not (models() / "cancelled").exists()
    resumed = train(name="cancelled")[0]
    one, other = (load_file(models() / name / "model.safetensors") for name in ("whole", "cancelled"))
    assert set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)
    assert whole.owner == resumed.owner and not work.exists()


def test_the_result_is_listed_loads_and_steers(train, node_classes, shapes) -> None:
    prompts = "\n".join(PROMPTS)
    sae, report = train(steps=200, prompts=prompts)
    assert "explained variance" in report and "takes about" in report
    load = node_classes["LoadSAE"]
    listed = next(one for one in load.define_schema().inputs if one.id == "sae_name").options
    assert "tiny/model.safetensors" in listed
    loaded = run_node(load, sae_name="tiny/model.safetensors", location="auto", stream="auto").result[0]
    assert loaded.site == TEXT and loaded.owner == sae.owner == loaded.statistics.owner
    assert (loaded.d_in, loaded.d_sae, loaded.architecture.k) == (128, 64, 8)
    assert (loaded.trained_on.family, loaded.trained_on.identity) == ("FLUX.1", identity_of(shapes[0]))
    told = json.loads((models() / "tiny" / "report.json").read_text())
    assert told["fit"]["explained_variance"] > 0.5 and told["prediction_recovered"] > 0.5 and told["features_tried"]
    feature = int(loaded.statistics.density.argmax())
    features = run_node(node_classes["SAEFeature"], feature=feature, strength=1.0).result[0]
    steered = run_node(
        node_classes["FluxActivationSteer"], model=shapes[0], sae=loaded, method="add", strength=1.0,
        unit="token_norm", location="auto", stream="auto", start_percent=0.0, end_percent=1.0, apply_to="cond",
        features=features,
    ).result[0]  # fmt: skip
    plain, other = (Activity(m, shapes[5], PROMPTS[:2], LATENT, 2, unheard).outputs(()) for m in (shapes[0], steered))
    assert float((other - plain).norm() / plain.norm()) > 0.01
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collection, "into", lambda *given: runs.append(1))
        assert train(steps=200, prompts=prompts)[0].owner == sae.owner and not runs  # done before: nothing is trained


SITES = "transformer_blocks.0:text\ntransformer_blocks.1:image"
IMAGE = parse_location("transformer_blocks.1", "image")


@pytest.fixture
def collect(node_classes, shapes):
    def run(**more):
        inputs = {
            "model": shapes[0], "clip": shapes[5], "latent_image": LATENT, "prompts": "\n".join(PROMPTS),
            "sites": SITES, "tokens": 1024, "name": "kept", "sampling_steps": 4,
        }  # fmt: skip
        return run_node(node_classes["CollectActivations"], **{**inputs, **more}).result

    yield run
    shutil.rmtree(output_folder() / "tokens", ignore_errors=True)


def shards_in(folder):
    return [load_file(file) for file in sorted(folder.glob("shard-*"))]


def test_cancelled_and_queued_again_the_shards_are_those_of_the_source(collect, shapes, monkeypatch) -> None:
    calls, training_of = [], ModelSource.training

    def stopping(self, number):
        calls.append(number)
        if len(calls) == 12:
            comfy.model_management.interrupt_current_processing(True)
        return training_of(self, number)

    monkeypatch.setattr(ModelSource, "training", stopping)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        collect()
    folder = output_folder() / "tokens" / "kept"
    assert len(shards_in(folder)) == len(ShardSource(folder).index["shards"]) == 2
    assert collect()[0] == folder and folder.name in collect()[1]
    assert calls[12:] == list(range(10, 20))  # behind the last whole shard, and no more when there is enough
    shares = {TEXT.name: 1024 / 20 / (4 * 4 * 5), IMAGE.name: 1024 / 20 / (4 * 4 * 64)}  # of a run's tokens
    source = ModelSource(activity(shapes), {site.name: site for site in (TEXT, IMAGE)}, shares)
    monkeypatch.undo()
    given = [source.training(number) for number in range(20)]
    for site in (TEXT, IMAGE):
        for key in ("tokens", "sigma", "prompt"):
            kept = torch.cat([shard[f"{site.name}.{key}"] for shard in shards_in(folder)])
            wanted = torch.cat([getattr(chunks[site.name], key) for chunks in given])
            assert torch.equal(kept, wanted.to(kept.dtype)) and len(kept) >= 1024


def test_tokens_of_shards_train_the_same_sae_as_collected_ones(collect, train, shapes, node_classes) -> None:
    folder = collect(sites="transformer_blocks.0:text", name="one", prompts="\n".join(FEW))[0]
    given = {"tokens": 1024, "steps": 20}
    own, kept = train(name="own", **given)[0], train(name="kept", shards=folder, **given)[0]
    assert own.owner == kept.owner and kept.trained_on == own.trained_on and kept.site == TEXT
    assert len(shards_in(folder)) == 4  # they stay
    listed = next(one for one in node_classes["LoadSAE"].define_schema().inputs if one.id == "sae_name").options
    assert not [name for name in listed if "shard-" in name]
    with pytest.raises(
        ValueError, match=r"^location: the shards have tokens of transformer_blocks\.0 \(text\), but none"
    ):
        train(name="other", shards=folder, location="transformer_blocks.1")
    other = shapes[0].clone()
    other.add_patches({"diffusion_model.img_in.weight": (torch.ones(128, 64),)}, 1.0)
    with pytest.raises(ValueError, match=r"^shards: they were collected from Flux-\w+, but model is Flux-"):
        train(name="other", shards=folder, model=other)
    with pytest.raises(ValueError, match=r"^name: .* has tokens with digest of prompts = .*; choose another folder"):
        collect(sites="transformer_blocks.0:text", name="one", prompts="\n".join(PROMPTS[3:6]))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sites": " "}, r"^sites: there is none to collect tokens at"),
        ({"sites": "transformer_blocks.0-1:text"}, r"^location: one SAE is trained at one block"),
        ({"sites": "transformer_blocks.9"}, r"^location: transformer_blocks\.9 names block 9"),
        ({"prompts": ""}, r"^prompts: there are none to draw"),
        ({"name": "../out"}, r"^name: '\.\./out' is not the name of a folder"),
        ({"tokens": 10**14}, r"^name: 100,000,000,000,000 tokens of each site need .* GB more in .*; keep fewer"),
    ],
)
def test_what_cannot_be_collected_is_told_before_anything_is_written(collect, wrong, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        collect(**wrong)
    assert not list((output_folder() / "tokens").rglob("*.*"))


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_other_architectures(train, architecture) -> None:
    sae = train(name=architecture, architecture=architecture, steps=20, tokens=1024)[0]
    assert sae.architecture.kind == "batchtopk" and sae.site == TEXT


def test_another_training_of_the_same_name_is_refused(train) -> None:
    train(steps=5, tokens=1024)
    with pytest.raises(ValueError, match=r"^name: models/sae/tiny is there already, and is another SAE"):
        train(steps=6, tokens=1024)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prompts": " \n "}, r"^prompts: there are none to draw; give a prompt a line\."),
        ({"k": 65}, r"^k: 65 of 64 features cannot be active"),
        ({"location": "auto"}, r"^location: 'auto' is not a place"),
        ({"location": "transformer_blocks.9"}, r"^location: transformer_blocks\.9 names block 9"),
        ({"location": "transformer_blocks.0-1"}, r"^location: one SAE is trained at one block"),
        ({"name": "../out"}, r"^name: '\.\./out' is not the name of a folder inside models/sae"),
        ({"tokens": 100}, r"^tokens: 100 are too few"),
    ],
)
def test_bad_input_is_told_in_a_sentence(train, wrong, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(**wrong)
    assert not (output_folder() / "training").exists()


def test_the_report_is_that_of_the_training(train, node_classes, shapes) -> None:
    sae = train(steps=200, tokens=4096)[0]
    told = json.loads((models() / "tiny" / "report.json").read_text())
    more = {"tokens": 1600, "tried_features": 3, "sampling_steps": 4, "prompts": "\n".join(FEW)}
    text, chart = run_node(
        node_classes["EvaluateSAE"], sae=sae, model=shapes[0], clip=shapes[5], latent_image=LATENT, **more
    ).result
    explained = float(text.splitlines()[1].split()[-1])
    assert abs(explained - told["fit"]["explained_variance"]) < 0.1  # on other noise
    source = ModelSource(activity(shapes, FEW), {"at": TEXT}, {"at": 1.0}, 0)
    chunks = [source.held_out(n)["at"] for n in range(20)]
    x = torch.cat([chunk.tokens for chunk in chunks]).double()
    error = (sae.reconstruct(x.float()) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert abs(explained - (1 - float(error))) < 1e-4  # four decimals are told
    assert f"{told['prediction_recovered']:.4f}" in text
    assert chart.shape == (1, 300, 640, 3) and float(chart.std()) > 0


def test_what_cannot_be_measured_is_told(node_classes, shapes) -> None:
    other = node_classes["LoadShapesKandinsky"].execute().result[2]
    given = {"model": shapes[0], "clip": shapes[5], "latent_image": LATENT, "prompts": PROMPTS[0]}
    with pytest.raises(ValueError, match=r"^sae: .* is of embeddings"):
        run_node(node_classes["EvaluateSAE"], sae=other, **given)
    with pytest.raises(ValueError, match=r"^prompts: there are none"):
        run_node(node_classes["EvaluateSAE"], sae=shapes[2], **{**given, "prompts": ""})


class OneConditioning:
    """A CLIP that says the same whatever it is asked."""

    def __init__(self, conditioning):
        self.conditioning = conditioning

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return self.conditioning


@pytest.mark.parametrize("name", CASES)
def test_every_family_gives_its_tokens(name) -> None:
    """At the output of a block, those that a plain forward hook on the table's module sees."""
    case, model = CASES[name], tiny(name)
    place = next(p for p in case.places if not p.columns and "." not in p.location.split(".", 1)[1])
    clip = OneConditioning(tiny_families.conditioning(case))
    at_work = Activity(model, clip, ["anything"], {"samples": torch.zeros(case.latent)}, 2, unheard)
    site = at_work.place(parse_location(place.location, place.stream))
    module = model.model.diffusion_model.get_submodule(place.module)
    pick = (lambda output: output) if place.output is None else (lambda output: output[place.output])
    with plain_hook(module, pick) as seen:
        found = ModelSource(at_work, {"at": site}, {"at": 1.0}).training(0)["at"].tokens
    # a UNet carries maps (batch, width, rows, columns)
    flat = [call.flatten(2).mT if call.ndim == 4 else call.reshape(len(call), -1, call.shape[-1]) for call in seen]
    expected = torch.cat([call[:, start:end].flatten(0, 1) for call in flat for start, end in place.spans])
    assert torch.equal(found.sort(dim=0)[0], expected.sort(dim=0)[0]) and len(found) == len(expected) > 0
