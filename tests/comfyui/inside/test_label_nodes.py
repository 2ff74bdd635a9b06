"""LabelFeatures in ComfyUI: the same names as diffusers gives, Cancel and resume, names of people kept."""

from __future__ import annotations

import re

import comfy.model_management
import pytest
import torch

from sae_steering_pack.lab.evidence.name_features import activations
from sae_steering_pack.sae.demo.shapes import read_prompt
from sae_steering_pack.sae.demo.shipped_weights import load_transformer
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.finding.labelling import SOURCE, WordTally
from sae_steering_pack.sae.hosts.comfyui import memory
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks, output_folder
from sae_steering_pack.sae.known.labels import Label
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
WORDS = ["red", "blue", "circle", "big"]
CONTEXTS = ["{} square left small white", "{} cross top big grey", "{} green triangle center black"]

SHIPPED = "sae_steering_pack.sae.known.notebook.shipped_labels"


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def label(node_classes, shapes, monkeypatch):
    monkeypatch.setattr(SHIPPED, lambda sae: None)  # whose names come from 48 contexts

    def run(**more):
        inputs = {
            "model": shapes[0], "clip": shapes[5], "sae": shapes[2], "latent_image": LATENT,
            "words": "\n".join(WORDS), "contexts": "\n".join(CONTEXTS), "threshold": 0.85, "seed": 0, "steps": 2,
            "location": "auto", "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["LabelFeatures"], **{**inputs, **more}).result[0]

    yield run
    notebooks().labels_path(fingerprint(shapes[2])).unlink(missing_ok=True)


def test_names_from_more_contexts_stay_and_nothing_is_saved_unasked(node_classes, label, shapes, monkeypatch) -> None:
    sae, store = shapes[2], notebooks()
    assert "features named" in label(save=False) and not store.labels_path(fingerprint(sae)).is_file()
    monkeypatch.undo()
    before = notebooks().of(sae).labels
    told = label()
    assert {label.contexts for label in before.values() if label.source != "by hand"} == {48}
    assert {k: notebooks().of(sae).labels[k] for k in before} == before
    kept = re.search(r"(\d+) kept the name that somebody gave or that more contexts found", told)
    assert kept and 100 < int(kept[1]) <= len(before)


def test_names_equal_those_that_diffusers_gives(label, shapes) -> None:
    sae = shapes[2]
    tally = WordTally.new(WORDS, CONTEXTS, sae.d_sae)
    texts = [context.replace("{}", word) for word in WORDS for context in CONTEXTS]
    prompts = [read_prompt(text) for text in texts]
    table = label()
    stored = notebooks().of_fingerprint(fingerprint(sae)).labels
    # ComfyUI draws its noise otherwise, so the two agree where a feature follows the text, not in every digit
    for row in activations(load_transformer(), [sae], prompts, [0] * len(prompts), 2)[0]:
        tally.add(row)
    expected = tally.labels(0.85)
    alike = [stored[k].name == expected[k].name for k in stored if k in expected]
    assert len(alike) > 100
    assert sum(alike) / len(alike) > 0.9
    assert {label.source for label in stored.values()} == {SOURCE}
    assert "features named" in table.splitlines()[0]


def test_names_of_people_stay(label, shapes) -> None:
    sae = shapes[2]
    notebooks().of(sae).update({k: Label("mine") for k in range(sae.d_sae)})
    told = label()
    assert {entry.name for entry in notebooks().of(sae).labels.values()} == {"mine"}
    assert "kept the name that somebody gave" in told


def test_cancel_keeps_what_is_done_and_resume_ends_the_same(label, shapes, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MOST_RUNS", 1)  # as the wrapped models below run: notes tell rounded numbers
    sae = shapes[2]
    whole = label()
    names = notebooks().of_fingerprint(fingerprint(sae)).labels
    calls = []
    model = shapes[0].clone()
    model.set_model_unet_function_wrapper(lambda f, kwargs: _count(calls, f, kwargs, 9))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        label(model=model)
    comfy.model_management.interrupt_current_processing(False)
    assert len(calls) == 9
    kept = list((output_folder() / "labelling").glob("*.safetensors"))
    assert len(kept) == 1
    calls.clear()
    model.set_model_unet_function_wrapper(lambda f, kwargs: _count(calls, f, kwargs, None))
    assert label(model=model) == whole
    assert len(calls) == 2 * len(WORDS) * len(CONTEXTS) - 8  # four whole runs were done before
    assert notebooks().of_fingerprint(fingerprint(sae)).labels == names
    assert not list((output_folder() / "labelling").glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["lora", "weights"])
def test_another_model_does_not_take_up_what_was_done(label, shapes, node_classes, kind) -> None:
    calls = []
    model = shapes[0].clone()
    model.set_model_unet_function_wrapper(lambda f, kwargs: _count(calls, f, kwargs, 9))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        label(model=model)
    comfy.model_management.interrupt_current_processing(False)
    calls.clear()
    other = _other_model(shapes[0], node_classes, kind)
    other.set_model_unet_function_wrapper(lambda f, kwargs: _count(calls, f, kwargs, None))
    label(model=other)
    assert len(calls) == 2 * len(WORDS) * len(CONTEXTS)  # all of them
    for kept in (output_folder() / "labelling").glob("*.safetensors"):
        kept.unlink()


def _other_model(model, node_classes, kind):
    """A model of the same shape and settings: with a LoRA, or another file."""
    key = "diffusion_model.double_blocks.1.img_attn.proj.weight"
    if kind == "lora":
        change = {key: ("diff", (0.1 * torch.ones(128, 128),))}
        other = model.clone()
        other.add_patches(change)
        return other
    other = run_node(node_classes["LoadShapesDemo"]).result[0]
    dict(other.model.named_parameters())[key].data += 0.1
    return other


def _count(calls, function, kwargs, last):
    calls.append(1)
    if len(calls) == last:
        comfy.model_management.interrupt_current_processing(True)
    return function(kwargs["input"], kwargs["timestep"], **kwargs["c"])


def test_embeddings_are_named_by_their_directions(node_classes) -> None:
    prior, _, sae = node_classes["LoadShapesKandinsky"].execute().result
    words = "red, blue, green, yellow, orange, purple, circle, square"
    table = run_node(
        node_classes["LabelEmbedFeatures"], sae=sae, encoder=prior, words=words, contexts="{}", threshold=0.5
    ).result[0]
    named = {label.name: label for label in notebooks().of(sae).labels.values()}
    notebooks().labels_path(fingerprint(sae)).unlink()
    assert {"red", "blue", "green", "yellow", "orange", "purple"} <= set(named)
    assert named["red"].note.startswith("closest to red 0.")
    assert "of 128 features named" in table


def test_an_encoder_of_another_width_or_without_projection(node_classes, shapes) -> None:
    sae = node_classes["LoadShapesKandinsky"].execute().result[2]

    class Other:
        def __init__(self, pooled):
            self.pooled = pooled

        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, return_pooled):
            return None, self.pooled

    def run(pooled):
        return run_node(
            node_classes["LabelEmbedFeatures"],
            sae=sae,
            encoder=Other(pooled),
            words="a,b",
            contexts="{}",
            threshold=0.5,
        )

    with pytest.raises(ValueError, match=r"^encoder: its texts have width 9"):
        run(torch.ones(1, 9))
    with pytest.raises(ValueError, match=r"^encoder: this CLIP gives no pooled output"):
        run(None)
