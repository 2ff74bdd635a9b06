"""What an export leaves in its files: places, licences, headers, configs, and names of the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from export_cases import CASES, D, F, K, tokens
from export_saes import CONFIGS, SITE, build
from plain_sae import close
from sae.dictionary.owner import Origin
from sae.dictionary.statistics import FeatureStatistics
from sae.export import TARGETS, export
from sae.formats import load
from sae.places.site import parse_location

every_target = pytest.mark.parametrize("target", TARGETS)


@every_target
def test_statistics_stand_beside_the_weights(target, tmp_path):
    statistics = FeatureStatistics(torch.rand(F), torch.rand(F) + 1, torch.rand(F), 1234)
    path = export(build("topk", statistics=statistics), tmp_path, target)
    assert path.with_name(f"{path.stem}.stats.safetensors").is_file()
    found = load(tmp_path).statistics
    assert torch.equal(found.mean, statistics.mean) and torch.equal(found.max, statistics.max)
    assert torch.equal(found.density, statistics.density) and found.tokens == 1234


SITES = [
    ("transformer_blocks.18", "image"),
    ("transformer_blocks.18", "text"),
    ("transformer_blocks.0.attn", "image"),
    ("transformer_blocks.7.ff", "image"),
    ("transformer_blocks.7.ff_context", "text"),
    ("transformer_blocks.2.update", "text"),
    ("single_transformer_blocks.9", "joint"),
    ("single_transformer_blocks.9.attn", "image"),
    ("single_transformer_blocks.37.update", "joint"),
]


@pytest.mark.parametrize(("location", "stream"), SITES)
@every_target
def test_the_place_comes_along(target, location, stream, tmp_path):
    site = parse_location(location, stream)
    path = export(build("topk", site=site), tmp_path / "plain", target)
    assert load(path).site == site
    if target in ("saelens", "dictionary_learning"):
        config = json.loads((path.parent / CONFIGS[target]).read_text())
        place = config["metadata"]["hook_name"] if target == "saelens" else config["trainer"]["submodule_name"]
        assert place == f"{location}-{stream}"


@every_target
def test_several_blocks_are_a_place_for_our_own_layout_only(target, tmp_path):
    sae = build("topk", site=parse_location("transformer_blocks.0-3,7", "image"))
    if target == "sae_steering":
        assert load(export(sae, tmp_path, target)).site == sae.site
        return
    reason = "it has no word for a place of several blocks such as transformer_blocks.0-3,7 (image)"
    with pytest.raises(ValueError) as caught:
        export(sae, tmp_path, target)
    assert str(caught.value) == f"target: {target} cannot hold my topk: {reason}; use sae_steering."


@every_target
def test_the_words_of_another_model_for_the_place_come_along(target, tmp_path):
    config = {"trainer": {"lm_name": "a model"}, "license": "MIT", "repo_id": "somebody/something"}
    origin = Origin("a layout", (), config, "blocks.8.hook_resid_pre")
    found = load(export(build("topk", origin=origin), tmp_path, target))
    assert found.origin.hook == "blocks.8.hook_resid_pre" and found.site is None


@pytest.mark.parametrize("target", ["sae_steering", "saelens", "dictionary_learning"])
def test_licence_source_and_model_come_along_however_often_it_is_converted(target, tmp_path):
    config = {"metadata": {"model_name": "a model"}, "license": "MIT", "repo_id": "somebody/something"}
    sae = build("topk", origin=Origin("a layout", (), config))
    first = load(export(sae, tmp_path / "1", target))
    second = load(export(first, tmp_path / "2", "sae_steering"))
    third = load(export(second, tmp_path / "3", "sae_steering"))
    header = json.loads(header_of(tmp_path / "3")["sae"])
    assert (header["licence"], header["source"], header["model"]) == ("MIT", "somebody/something", "a model")
    layouts = {"sae_steering": "a layout", "saelens": "SAELens topk"}
    assert header["layout"] == layouts.get(target, "dictionary_learning AutoEncoderTopK")
    assert third.origin.config["licence"] == "MIT"


def header_of(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.metadata()


def test_the_header_of_our_own_layout(tmp_path):
    export(build("topk, layer norm", site=SITE), tmp_path, "sae_steering")
    header = header_of(tmp_path)
    assert header["format"] == "sae_steering 1"
    architecture = {"kind": "topk", "k": K, "rectify": True, "normalization": "layer_norm", "decoder_norm": "before"}
    assert json.loads(header["sae"]) == {
        "architecture": architecture,
        "location": "transformer_blocks.3.attn",
        "stream": "text",
        "hook": "transformer_blocks.3.attn-text",
    }
    tensors = CASES["topk, layer norm"].tensors()
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == tensors.keys() and all(torch.equal(stored[name], tensors[name]) for name in tensors)


BROKEN = [
    (
        {"format": "sae_steering 2"},
        r"must have the format 'sae_steering 1', but has 'sae_steering 2'; update this pack\.$",
    ),
    ({"sae": None}, r"the description in its header is no valid JSON"),
    ({"sae": "[]"}, r"the description in its header is a JSON list, but an object"),
    ({"sae": "{}"}, r"must give the architecture with kind and"),
    ({"sae": {"kind": "topk", "k": K, "tricks": 1}}, r"must give the architecture with kind and"),
    ({"sae": {"kind": ["topk"]}}, r"must give the architecture with kind and"),
    ({"sae": {"kind": "sparsemax"}}, r"is not sound: architecture: 'sparsemax' is not known"),
    ({"sae": {"kind": "topk", "k": 5.5}}, r"must give k as a whole number, but has 5\.5\.$"),
    ({"sae": {"kind": "topk", "k": 10**9}}, r"k is 1000000000, but must lie between 1 and"),
    ({"sae": {"kind": "topk"}}, r"is not sound: k: a topk SAE needs k, but k is None\.$"),
    ({"sae": {"kind": "topk", "k": K, "rectify": 1}}, r"must give rectify as true or false, but has 1\.$"),
    (
        {"sae": {"kind": "topk", "k": K, "normalization": "rms"}},
        r"has normalization = 'rms'; known are none, layer_norm,",
    ),
    ({"sae": {"kind": "jumprelu"}}, r"a jumprelu SAE needs the tensor threshold, which is not there\.$"),
    ({"location": 3}, r"must give location and stream as texts, but has 3, 'text'\.$"),
    ({"location": "steps.3"}, r"is not sound: location: 'steps\.3' is not a place in FLUX"),
    ({"extra": "more"}, r"has the unknown tensor 'more'"),
    ({"extra": "modulation.mod_linear.weight"}, r"lacks the tensor 'modulation\.time_mlp\.0\.weight'"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=lambda value: str(value)[:60])
def test_broken_headers_of_our_own_layout_are_told_in_one_sentence(change, message, tmp_path):
    path = export(build("topk", site=SITE), tmp_path, "sae_steering")
    header, tensors = header_of(tmp_path), load_file(path)
    described = json.loads(header["sae"])
    if isinstance(change.get("sae"), dict):
        described["architecture"] = change["sae"]
    described |= {key: value for key, value in change.items() if key == "location"}
    header["sae"] = json.dumps(described)
    header |= {key: value for key, value in change.items() if key in ("format", "sae") and isinstance(value, str)}
    if "sae" in change and change["sae"] is None:
        del header["sae"]
    if "extra" in change:
        tensors[change["extra"]] = torch.zeros(3)
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{tmp_path.name}/model") and "\n" not in str(caught.value)


# The files of other projects


def test_saelens_config(tmp_path):
    export(build("topk, rescaled", torch.float16, site=SITE), tmp_path, "saelens")
    assert json.loads((tmp_path / "cfg.json").read_text()) == {
        "architecture": "topk", "d_in": D, "d_sae": F, "dtype": "float16", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "transformer_blocks.3.attn-text"},
        "k": K, "rescale_acts_by_decoder_norm": True,
    }  # fmt: skip
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}


SAELENS = [
    ("relu", "standard", "b_enc", False),
    ("relu, one bias", "standard", "b_enc", True),
    ("relu, constant norm", "standard", "b_enc", False),
    ("jumprelu, one bias", "jumprelu", "b_enc threshold", True),
    ("batchtopk", "jumprelu", "b_enc threshold", False),
    ("gated, one bias", "gated", "b_gate b_mag r_mag", True),
]


@pytest.mark.parametrize(("name", "architecture", "vectors", "centred"), SAELENS)
def test_saelens_names(name, architecture, vectors, centred, tmp_path):
    path = export(build(name), tmp_path, "saelens")
    stored, config = load_file(path), json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == architecture and config["apply_b_dec_to_input"] is centred
    assert stored.keys() == {"W_enc", "W_dec", "b_dec", *vectors.split()}
    assert all(stored[key].shape == (F,) for key in vectors.split())
    wanted = "constant_norm_rescale" if "constant" in name else "none"
    assert config["normalize_activations"] == wanted and "k" not in config


@pytest.mark.parametrize(("name", "rescaled"), [("topk, rescaled", True), ("topk, rescaled, dead", False)])
def test_saelens_would_divide_by_the_length_of_a_dead_features_direction(name, rescaled, tmp_path):
    export(build(name), tmp_path, "saelens")
    assert json.loads((tmp_path / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is rescaled


def test_reny_files(tmp_path):
    path = export(build("topk", site=SITE), tmp_path, "reny_topk")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"features": D, "k": K, "pages": F, "sample": None}
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
    assert shapes == {"bias": (D,), "encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F)}
    assert header_of(tmp_path) == {"hook_name": "transformer_blocks.3.attn-text"}


CLASSES = [
    ("relu", None, "AutoEncoderNew", "decoder.bias encoder.bias"),
    ("topk", None, "AutoEncoderTopK", "b_dec encoder.bias k threshold"),
    ("jumprelu", None, "JumpReluAutoEncoder", "W_enc b_enc W_dec b_dec threshold"),
    ("gated", None, "GatedAutoEncoder", "decoder_bias gate_bias mag_bias r_mag"),
    ("batchtopk", 7, "BatchTopKSAE", "b_dec encoder.bias k threshold"),
    ("batchtopk", None, "JumpReluAutoEncoder", "W_enc b_enc W_dec b_dec threshold"),
    ("batchtopk, norm before", 7, "BatchTopKSAE", "b_dec encoder.bias k threshold"),
    ("batchtopk, norm after", 7, "JumpReluAutoEncoder", "W_enc b_enc W_dec b_dec threshold"),
    ("batchtopk, thresholds", 7, "JumpReluAutoEncoder", "W_enc b_enc W_dec b_dec threshold"),
]


@pytest.mark.parametrize(("name", "k", "dict_class", "keys"), CLASSES)
def test_dictionary_learning_files(name, k, dict_class, keys, tmp_path):
    origin = None if k is None else Origin("a layout", (), {"trainer": {"k": k}})
    sae = build(name, origin=origin)
    path = export(sae, tmp_path / "1", "dictionary_learning")
    state = torch.load(path, weights_only=True)
    linear = [] if dict_class == "JumpReluAutoEncoder" else ["encoder.weight", "decoder.weight"]
    assert state.keys() == {*keys.split(), *linear}
    trainer = json.loads((path.parent / "config.json").read_text())["trainer"]
    assert trainer["dict_class"] == dict_class
    assert (trainer["activation_dim"], trainer["dict_size"]) == (D, F)
    if "k" in state:
        wanted = K if name == "topk" else k
        assert (state["k"].dtype, state["k"].shape, int(state["k"])) == (torch.int32, (), wanted)
        assert trainer["k"] == wanted and state["threshold"].shape == ()
    if k is not None:  # the k of its training is not lost on the way through our own layout
        own = load(export(sae, tmp_path / "2", "sae_steering"))
        again = torch.load(export(own, tmp_path / "3", "dictionary_learning"), weights_only=True)
        assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)
    close(load(path).encode(tokens()), CASES[name].codes(tokens()))
