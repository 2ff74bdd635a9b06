"""ConceptSteer in ComfyUI: it is the long way in one box, its search is made once, and mistakes are told."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_management
import pytest
import torch

from lab.judge.reader import measure_pictures
from sae_steering_pack.nodes.browser.server_memory import MOST_SEARCHES, kept_concepts
from sae_steering_pack.sae.hosts.comfyui.concepts import key_of
from tiny_flux import run_node, sample

GREEN, PURPLE = "green triangle left big white", "purple triangle left big white"
LATENT = {"samples": torch.zeros(1, 16, 16, 16)}


@pytest.fixture(scope="module")
def shapes(node_classes):
    model, vae, sae, _, image_sae, clip = run_node(node_classes["LoadShapesDemo"]).result[:6]
    return SimpleNamespace(model=model, vae=vae, sae=sae, image_sae=image_sae, clip=clip)


@pytest.fixture
def concept(node_classes, shapes):
    def run(**more):
        given = {
            "model": shapes.model, "clip": shapes.clip, "sae": shapes.sae, "wanted": PURPLE, "instead_of": GREEN,
            "strength": 1.0, "latent_image": LATENT, "seed": 7, "steps": 4,
        }  # fmt: skip
        return run_node(node_classes["ConceptSteer"], **{**given, **more})

    return run


def prompt_of(shapes, text):
    return shapes.clip.encode_from_tokens_scheduled(shapes.clip.tokenize(text))


def long_way(node_classes, shapes, **more):
    """Two finders and a steerer, as they are wired by hand."""
    texts = [prompt_of(shapes, text) for text in (PURPLE, GREEN)]
    find = {
        "model": shapes.model, "sae": shapes.sae, "latent_image": LATENT, "seed": 7, "steps": 4, "count": 8,
        "rank_by": "mean", "location": "auto", "stream": "auto",
    }  # fmt: skip
    lists = [
        run_node(node_classes["TopActivatingFeatures"], positive=one, baseline=other, **find).result[0]
        for one, other in (texts, texts[::-1])
    ]
    steer = {
        "method": "swap", "strength": 1.0, "unit": "auto", "location": "auto", "stream": "auto", "start_percent": 0.0,
        "end_percent": 1.0, "apply_to": "both", **more,
    }  # fmt: skip
    return lists, run_node(
        node_classes["FluxActivationSteer"], model=shapes.model, sae=shapes.sae, features=lists[0], replaces=lists[1],
        **steer,
    ).result[0]  # fmt: skip


def drawn(shapes, model, text=GREEN):
    return sample(model, prompt_of(shapes, text), steps=8, size=(16, 16), seed=42)


def test_it_is_the_long_way_in_one_box(node_classes, shapes, concept):
    lists, model = long_way(node_classes, shapes)
    given = concept()
    assert [list(given.result[1]), list(given.result[2])] == [list(edits) for edits in lists]
    assert given.result[1].owner == shapes.sae.owner
    one, two, plain = (drawn(shapes, which) for which in (given.result[0], model, shapes.model))
    assert torch.equal(one, two) and not torch.equal(one, plain)
    assert torch.equal(drawn(shapes, concept(strength=0.0).result[0]), plain)
    assert torch.equal(drawn(shapes, shapes.model), plain)
    titles = [table["title"] for table in given.ui["sae_steering"]]
    assert titles == [f"Wanted: {PURPLE}", f"Instead of: {GREEN}"]
    assert [row["feature"] for row in given.ui["sae_steering"][1]["rows"]] == [edit.feature for edit in lists[1]]


def test_without_a_text_to_give_way_the_concept_is_added(shapes, concept):
    given = concept(instead_of="  ")
    assert given.ui["text"][1].startswith("add feature") and list(given.result[2]) == []
    assert len(given.ui["sae_steering"]) == 1
    assert not torch.equal(drawn(shapes, given.result[0]), drawn(shapes, shapes.model))


def test_without_an_sae_the_difference_of_both_texts_is_put_in(shapes, concept):
    given = concept(sae=None)
    plain, wanted, got = (
        drawn(shapes, shapes.model), drawn(shapes, shapes.model, PURPLE), drawn(shapes, given.result[0])
    )  # fmt: skip
    assert float((got - wanted).norm()) < 0.3 * float((plain - wanted).norm())
    assert torch.equal(drawn(shapes, concept(sae=None, strength=0.0).result[0]), plain)
    sae = given.result[3]
    assert str(sae.site) == "transformer_blocks.0.input (text)" and sae.contrast.runs == 2
    assert [edit.feature for edits in given.result[1:3] for edit in edits] == [0, 1]
    assert [table["title"] for table in given.ui["sae_steering"]] == [f"Wanted: {PURPLE}", f"Instead of: {GREEN}"]
    assert any(line.startswith("swap feature 0") for line in given.ui["text"])
    masked = concept(sae=None, mask=torch.ones(1, 128, 128)).result[3]
    assert {(member.site.point, member.site.stream) for member in masked.members} <= {("attn", "image")}


SINGLE_WORDS = [
    ("circle", "square", "red circle left big white"), ("left", "right", "blue cross left small black"),
    ("small", "big", "green triangle top small grey"), ("red", "blue", "red square bottom big white"),
    ("black", "grey", "yellow circle center big black"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "prompt"), SINGLE_WORDS)
def test_two_words_and_the_defaults_change_just_that(node_classes, shapes, source, target, prompt):
    """No SAE, nothing but the two words; rules read the picture that is drawn."""
    steered = run_node(
        node_classes["ConceptSteer"], model=shapes.model, clip=shapes.clip, wanted=target, instead_of=source,
        strength=1.0,
    ).result[0]  # fmt: skip
    seen = []
    for model in (shapes.model, steered):
        latent = drawn(shapes, model, prompt)
        pictures = run_node(node_classes["LoadShapesDemo"]).result[1].decode(latent)
        [read] = measure_pictures(pictures.movedim(-1, 1)).prompts
        seen.append(" ".join(map(str, read.words)))
    assert seen == [prompt, prompt.replace(source, target)]


def test_without_an_sae_a_text_alone_is_told_from_no_words(shapes, concept):
    given = concept(sae=None, instead_of="")
    assert given.result[3].contrast.negative == ("",) and list(given.result[2]) == []
    assert any(line.startswith("add feature 0") for line in given.ui["text"])
    assert not torch.equal(drawn(shapes, given.result[0]), drawn(shapes, shapes.model))


def test_a_search_is_made_once_for_what_decides_it(concept, shapes, monkeypatch):
    kept, calls = kept_concepts(), []
    monkeypatch.setattr("sae_steering_pack.nodes.steer.concept_steer.kept_concepts", lambda: kept)
    handle = shapes.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        counts = []
        bare = {"sae": None}
        for more in (
            {}, {"strength": 0.5}, {"end_percent": 0.5}, {"seed": 8}, {"count": 4}, {"wanted": "red"}, {}, bare,
            {**bare, "strength": 0.5}, {**bare, "location": "transformer_blocks.1"},
        ):  # fmt: skip
            calls.clear()
            concept(**more)
            counts.append(len(calls))
    finally:
        handle.remove()
    assert counts == [8, 0, 0, 8, 8, 8, 0, 24, 0, 24]


def test_only_the_last_searches_are_kept():
    kept, made = kept_concepts(), []
    for number in (*range(MOST_SEARCHES), 0, MOST_SEARCHES, 1, 0):
        kept.get(str(number), lambda number=number: made.append(number) or [])
    assert made == [*range(MOST_SEARCHES), MOST_SEARCHES, 1]  # 1 was the oldest when one too many came
    assert key_of(torch.zeros(2)) != key_of(torch.ones(2)) != key_of(torch.zeros(2, 1))
    assert kept_concepts() is not kept_concepts()  # no server here


def test_it_looks_at_pictures_of_512_pixels_where_no_size_is_told(concept, shapes):
    sizes = []
    handle = shapes.model.model.diffusion_model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    try:
        concept(latent_image=None, steps=1)
    finally:
        handle.remove()
    assert {tuple(size) for size in sizes} == {(1, 16, 64, 64)}


def test_a_mask_that_does_not_fit_the_latent_is_told_at_the_node(concept, shapes):
    sae = shapes.image_sae
    told = [
        [line for line in concept(sae=sae, mask=mask, latent_image=latent).ui["text"] if "mask" in line]
        for mask, latent in (
            (torch.ones(1, 64, 128), LATENT), (torch.ones(1, 64, 64), LATENT), (torch.ones(1, 64, 128), None),
        )
    ]  # fmt: skip
    assert told == [
        [
            "On pictures as large as latent_image this will fail: mask: it is 128×64, but the picture is 128×128 "
            "pixels; use a mask with the picture's proportions."
        ],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"wanted": " "}, "wanted: it is empty; write what you want to see"),
        ({"instead_of": PURPLE}, f"instead_of: it says '{PURPLE}' as wanted does"),
        ({"location": "transformer_blocks.9"}, "location: transformer_blocks.9 names block 9"),
        ({"rank_by": "effect", "instead_of": "", "wanted": "nothing that Shapes knows"}, "makes the same of"),
    ],
)
def test_mistakes_are_told(concept, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        concept(**more)


def test_cancel_ends_the_search_and_nothing_is_kept(concept, monkeypatch):
    kept = kept_concepts()
    monkeypatch.setattr("sae_steering_pack.nodes.steer.concept_steer.kept_concepts", lambda: kept)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        concept(seed=99)
    assert not kept._kept
    concept(seed=99)
    assert len(kept._kept) == 1
