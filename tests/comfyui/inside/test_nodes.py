"""LoadSAE, SAEFeature and FluxActivationSteer, executed as ComfyUI does, with core's KSampler after them."""

import json
import logging
import re
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

import nodes as core
from sae_steering_pack.sae.dictionary.statistics import FeatureStatistics
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import D_SAE, WIDTH, conditioning, make_sae, run_node, sae_tensors, sample, steer

STEERED = "sae_steering_pack.nodes.steer.steered_run.show_on_node"

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}
NAME = "cc3m-transformer_blocks.0-1-k8/model.safetensors"


@pytest.fixture
def checkpoint():
    """A TopK SAE in RE-N-Y's layout inside models/sae; its folder names block 0, stream 1, which is the image."""
    path = Path(folder_paths.models_dir) / "sae" / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    t = sae_tensors()
    tensors = {"bias": t["input_bias"], "encoder.weight": t["encoder"], "encoder.bias": t["encoder_bias"]}
    save_file({**tensors, "decoder.weight": t["decoder"].T.contiguous()}, path)
    path.with_name("config.json").write_text(json.dumps({"features": WIDTH, "pages": D_SAE, "k": 8}))
    folder_paths.filename_list_cache.clear()
    yield path
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def load(node_classes):
    def run(sae_name=NAME, location="auto", stream="auto"):
        return run_node(node_classes["LoadSAE"], sae_name=sae_name, location=location, stream=stream).result[0]

    return run


@pytest.fixture
def steer_node(node_classes, model):
    def run(sae, **inputs):
        given = {
            "model": model, "sae": sae, "features": FeatureList([Edit(3)]), "method": "add", "strength": 0.3,
            "unit": "token_norm", "location": "transformer_blocks.0", "stream": "auto", "start_percent": 0.0,
            "end_percent": 1.0, "apply_to": "both",
        }  # fmt: skip
        return run_node(node_classes["FluxActivationSteer"], **{**given, **inputs})

    return run


def ksampler(model, steps=2):
    prompt = conditioning()
    return core.KSampler().sample(model, 7, steps, 1.0, "euler", "simple", prompt, prompt, LATENT)[0]["samples"]


def test_an_sae_comes_with_the_site_that_its_folder_tells(checkpoint, load):
    sae = load()
    assert (sae.d_in, sae.d_sae, str(sae.architecture)) == (WIDTH, D_SAE, "topk k=8")
    assert sae.site == parse_location("transformer_blocks.0", "image")
    assert sae.name == NAME.removesuffix(".safetensors") and sae.weights.materialised == ()
    assert torch.allclose(sae.direction([3])[0], sae_tensors()["decoder"][3])


def test_location_and_stream_of_the_loader_come_before_the_name(checkpoint, load):
    assert load(stream="text").site == parse_location("transformer_blocks.0", "text")
    assert load(location="single_blocks.1").site == parse_location("single_transformer_blocks.1", "joint")
    assert load(location="double_blocks.0-1.attn", stream="text").site.blocks == (0, 1)
    with pytest.raises(ValueError, match=r"^stream: double blocks such as .* keep image and text apart; use image"):
        load(stream="joint")


def test_a_file_that_went_since_it_was_listed(checkpoint, load):
    with pytest.raises(
        ValueError, match=r"^sae_name: 'gone\.safetensors' is not among the files in models/sae; choose"
    ):
        load("gone.safetensors")
    load()
    checkpoint.rename(checkpoint.with_name("moved.safetensors"))
    with pytest.raises(ValueError, match=r"^sae_name: .*model\.safetensors' is") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_broken_weights_are_refused(checkpoint, load):
    t = sae_tensors()
    tensors = {"bias": t["input_bias"], "encoder.weight": t["encoder"], "encoder.bias": t["encoder_bias"]}
    decoder = t["decoder"].T.contiguous()
    decoder[:, 3] = float("nan")
    save_file({**tensors, "decoder.weight": decoder}, checkpoint)
    with pytest.raises(ValueError, match=r"NaN") as caught:
        load().direction([3])
    assert "\n" not in str(caught.value)


def test_the_loader_notices_a_changed_file(checkpoint, node_classes):
    node = node_classes["LoadSAE"]
    before = node.fingerprint_inputs(NAME, "auto", "auto")
    assert node.fingerprint_inputs(NAME, "auto", "auto") == before
    checkpoint.touch()
    assert node.fingerprint_inputs(NAME, "auto", "auto") != before
    checkpoint.unlink()
    assert node.fingerprint_inputs(NAME, "auto", "auto")[-1] == ()


def test_features_chain_and_leave_earlier_lists_alone(node_classes):
    node = node_classes["SAEFeature"]
    first = run_node(node, feature=3, strength=1.0).result[0]
    both = run_node(node, feature=8, strength=-0.5, features=first).result[0]
    assert first == [Edit(3)] and both == [Edit(3), Edit(8, -0.5)]
    assert str(both) == "feature 3 × 1, feature 8 × -0.5"


def test_the_steered_model_samples_in_ksampler_as_the_library_steers(steer_node, model, sae):
    steered = steer_node(sae).result[0]
    expected = sample(steer(model, sae, "transformer_blocks.0", strength=0.3))
    assert torch.equal(ksampler(steered), expected)
    assert not torch.equal(ksampler(model), expected)


def test_auto_takes_the_place_of_the_sae(steer_node, model, checkpoint, load):
    sae = load()
    auto = ksampler(steer_node(sae, location="auto").result[0])
    assert torch.equal(auto, ksampler(steer_node(sae, location="double_blocks.0", stream="image").result[0]))
    assert sae.weights.materialised == ()  # add reads a row of the decoder and nothing else


@pytest.fixture
def shown(monkeypatch):
    """What the node shows after a run."""
    found = []
    monkeypatch.setattr(STEERED, lambda node_id, report: found.append((node_id, report)))
    return found


def test_each_run_is_reported_on_the_node_and_in_the_log(steer_node, sae, shown, caplog):
    caplog.set_level(logging.INFO)
    ksampler(steer_node(sae).result[0])
    text = "Steered 2 steps; mean ‖Δ‖/‖x‖ 0.3, at one token up to 0.3. At transformer_blocks.0 (image)."
    [(node, report)] = shown
    assert (node, report["text"], report["warnings"]) == ("17", text, [])
    assert [sigma for sigma, _ in report["curve"]] == sorted([sigma for sigma, _ in report["curve"]], reverse=True)
    assert [ratio for _, ratio in report["curve"]] == pytest.approx([0.3, 0.3], rel=1e-3)
    assert [record.getMessage() for record in caplog.records if "Steered" in record.message] == [
        f"FluxActivationSteer: {text}"
    ]


def test_a_run_without_steering_says_so(steer_node, sae, shown, caplog):
    ksampler(steer_node(sae, strength=0.0).result[0])
    assert shown[0][1]["text"].startswith("No step was steered at transformer_blocks.0 (image)")
    assert [record.levelname for record in caplog.records if "No step" in record.message] == ["WARNING"]


def test_a_delta_above_half_of_the_norm_is_warned_about(steer_node, sae, shown):
    ksampler(steer_node(sae, strength=0.9).result[0])
    assert "Δ reached 0.9 of the token norm; above 0.5 it destroys the activation" in shown[0][1]["warnings"][0]


def test_what_is_known_to_fail_is_said_before_the_run(steer_node, sae, caplog):
    quiet = steer_node(sae).ui["text"]
    assert quiet == ["add feature 3 × 1 at transformer_blocks.0 (image)"]
    late = steer_node(sae, location="single_transformer_blocks.0-2").ui["text"]
    assert late[1].startswith("Block 2 of the 3 single blocks is among the last")
    surgery = steer_node(sae, method="surgery").ui["text"]
    assert surgery[1].startswith("surgery loses what the SAE cannot express")
    assert f"FluxActivationSteer: {surgery[1]}" in [record.getMessage() for record in caplog.records]


def test_dead_features_are_named(steer_node):
    density = torch.full((D_SAE,), 0.1)
    density[[3, 5]] = 0
    sae = make_sae(statistics=FeatureStatistics(torch.ones(D_SAE), torch.ones(D_SAE), density, 100))
    found = steer_node(sae, features=FeatureList([Edit(3), Edit(4), Edit(5)])).ui["text"]
    assert found[1] == "Dead in this SAE, it never fired while it was measured: feature 3, 5. Choose others."


def test_statistics_of_the_list_or_the_file_set_the_unit(steer_node, model):
    statistics = FeatureStatistics(torch.full((D_SAE,), 4.0), torch.full((D_SAE,), 9.0), torch.ones(D_SAE), 100)
    from_file = ksampler(steer_node(make_sae(statistics=statistics), unit="mean", strength=2.0).result[0])
    listed = FeatureList([Edit(3, mean=4.0, max=9.0, density=1.0)])
    from_list = ksampler(steer_node(make_sae(), features=listed, unit="mean", strength=2.0).result[0])
    raw = ksampler(steer_node(make_sae(), unit="raw", strength=8.0).result[0])
    assert torch.equal(from_file, raw) and torch.equal(from_list, raw)


def test_swap_takes_its_second_list(steer_node, sae, shown):
    listed = FeatureList([Edit(3, mean=2.0, density=0.5)])
    replaced = FeatureList([Edit(5, mean=1.5, density=0.5)])
    steered = steer_node(sae, method="swap", features=listed, replaces=replaced, strength=1.0).result[0]
    assert ksampler(steered).isfinite().all() and shown[0][1]["text"].startswith("Steered 2 steps")


BAD = [
    ({"features": FeatureList()}, r"features: the list is empty, .* connect SAEFeature or TopActivatingFeatures"),
    (
        {"features": FeatureList([Edit(D_SAE)])},
        rf"features: feature {D_SAE} does not exist in tiny, .* 0 to {D_SAE - 1}",
    ),
    (
        {"features": FeatureList([Edit(3), Edit(3)]), "method": "set", "unit": "raw"},
        r"features: feature 3 is named twice",
    ),
    ({"location": "auto"}, r"location: this SAE's file does not tell .* give the location, for example"),
    ({"location": "transformer_blocks.2"}, r"location: transformer_blocks\.2 names block 2, but .* are 0 to 1"),
    ({"location": "transformer_blocks.1-0"}, r"location: .* the range 1-0 that runs backwards; write 0-1"),
    ({"location": "transformer_blocks.0.norm"}, r"location: double blocks have no point 'norm'; they have"),
    ({"location": "transformer_blocks.0.ff", "stream": "text"}, r"stream: .* carries the image stream, but 'text'"),
    ({"start_percent": 0.6, "end_percent": 0.4}, r"start_percent: 0.6 lies after end_percent 0.4; the start must"),
    ({"unit": "mean"}, r"unit: 'mean' needs the activation of feature 3, and tiny has no statistics of it; take"),
    ({"method": "swap"}, r"replaces: 'swap' needs the features to take out, but none came; connect"),
    ({"strength": float("nan")}, r"strength: nan is not a finite number"),
    ({"mask": torch.full((1, 64, 64), 2.0)}, r"mask: it has values outside 0 to 1; every value must lie"),
    ({"mask": torch.ones(1, 64, 64), "stream": "text"}, r"mask: .* but the stream is text; use the image or joint"),
    ({"sae": make_sae(64, name="narrow")}, r"sae: narrow was trained on .* width 64, but .* width 128; use an SAE"),
]


@pytest.mark.parametrize(
    ("inputs", "message"), BAD, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
def test_mistakes_are_told_in_one_sentence(steer_node, sae, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        steer_node(**{"sae": sae, **inputs})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 64, 128), r"mask: it is 128×64, but the picture is 64×64 pixels; use a mask with the picture's"),
        (torch.ones(2, 64, 64), r"mask: it has 2 entries, but the batch has 1 pictures; use one mask or 1\.$"),
    ],
    ids=["size", "batch"],
)
def test_a_mask_that_does_not_fit_ends_the_run_before_its_first_step_and_its_node_tells(
    steer_node, model, sae, shown, mask, message
):
    before, calls = ksampler(model), []
    counted = model.clone()
    counted.set_model_unet_function_wrapper(lambda f, kwargs: calls.append(1) or f(kwargs["input"], kwargs["timestep"]))
    steered = steer_node(sae, model=counted, mask=mask).result[0]
    with pytest.raises(ValueError, match=rf"^Activation Steer \(node 17\): {message}"):
        ksampler(steered)
    assert calls == [] and torch.equal(ksampler(model), before)
    [(node, report)] = shown
    assert node == "17" and re.match(message, report["text"])
    unsteered = ksampler(steer_node(sae, mask=mask, strength=0.0).result[0])  # where nothing is steered, any will do
    assert torch.equal(unsteered, before)


def test_another_place_than_the_saes_own_is_told(steer_node):
    own = make_sae().at(parse_location("transformer_blocks.1", "image"))
    assert steer_node(own, location="auto").ui["text"][1:] == []
    assert steer_node(own, location="double_blocks.1").ui["text"][1:] == []  # another name of the same place
    for location, stream, place in (
        ("transformer_blocks.0", "auto", "transformer_blocks.0 (image)"),
        ("auto", "text", "transformer_blocks.1 (text)"),
        ("transformer_blocks.0-1", "image", "transformer_blocks.0-1 (image)"),
    ):
        assert steer_node(own, location=location, stream=stream).ui["text"][1:] == [
            f"tiny belongs to transformer_blocks.1 (image), but is used at {place}; elsewhere its features may mean "
            "nothing."
        ]


def test_an_sae_of_embeddings_is_sent_to_its_own_nodes(steer_node):
    with pytest.raises(
        ValueError, match=r"^sae: clip image_embeds is of embeddings \(image_embeds\).* CLIP Embed Steer"
    ):
        steer_node(make_sae(name="clip image_embeds"), location="auto")
