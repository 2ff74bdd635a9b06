"""TopActivatingFeatures by effect: its scores against plain hooks on diffusers' model, its cost, Cancel, its place."""

import re

import comfy.model_management
import comfy.utils
import pytest
import torch

from plain_hooks import hooked
from sae_steering_pack.nodes.find import top_activating_features as search
from sae_steering_pack.sae.hosts.comfyui import drawing
from tiny_flux import (
    D_SAE,
    conditioning,
    dense_codes,
    make_sae,
    modules_with_hooks,
    predict_diffusers,
    run_node,
    sae_tensors,
    sample,
)

STEPS, SEED = 4, 11  # the sigmas of 4 steps are exact in ComfyUI
PROMPT, BASELINE = 2, 40
BLOCK = ("transformer_blocks.1", "image")


@pytest.fixture
def find(node_classes, model, sae):
    def run(**inputs):
        given = {
            "model": model, "sae": sae, "positive": conditioning(PROMPT), "baseline": conditioning(BASELINE),
            "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "seed": SEED, "steps": STEPS, "count": 40,
            "candidates": 6, "rank_by": "effect", "location": BLOCK[0], "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["TopActivatingFeatures"], **{**given, **inputs})

    return run


@pytest.fixture
def forwards(model):
    """The rows of every call of the model."""
    found = []
    transformer = model.model.diffusion_model
    handle = transformer.register_forward_pre_hook(lambda module, args: found.append(args[0].shape[0]))
    yield found
    handle.remove()


def scores_of(output):
    return {row["feature"]: row["effect"] for row in output.ui["sae_steering"][0]["rows"]}


def plain_scores(transformer, features, location, stream):
    """Each feature taken out by hooks while the prompt's own run stands still before each step."""

    def predict(prompt, change=None):
        text, extra = conditioning(prompt)[0]
        with hooked(transformer, location, stream, change or (lambda x, read: x)):
            return predict_diffusers(transformer, x, sigma, text, extra["pooled_output"])

    found = dict.fromkeys(features, 0.0)
    x = torch.randn((1, 16, 8, 8), generator=torch.manual_seed(SEED))
    for step in range(STEPS):
        sigma = 1 - step / STEPS
        prompt = predict(PROMPT)
        way = prompt - predict(BASELINE)
        for feature in features:

            def without(tokens, read, feature=feature):
                return tokens - dense_codes(read)[..., feature, None] * sae_tensors()["decoder"][feature]

            found[feature] += float(((prompt - predict(PROMPT, without)) * way).sum() / way.square().sum()) / STEPS
        x = x - (x - prompt) / sigma / STEPS
    return found


@pytest.mark.parametrize(
    ("location", "stream"),
    [
        BLOCK,
        ("transformer_blocks.0", "text"),
        ("transformer_blocks.0-1.attn", "image"),
        ("single_transformer_blocks.0-2.attn", "joint"),
        ("single_transformer_blocks.1.update", "image"),
    ],
)
def test_the_scores_are_those_of_plain_hooks(find, transformer, location, stream):
    by_mean, *_ = find(rank_by="mean", count=6, location=location, stream=stream).result
    plain = plain_scores(transformer, [edit.feature for edit in by_mean], location, stream)
    expected = {k: score for k, score in sorted(plain.items(), key=lambda entry: -entry[1]) if score > 0}
    assert len(expected) >= 1
    output = find(location=location, stream=stream)
    found = scores_of(output)
    assert list(found) == list(expected) == [edit.feature for edit in output.result[0]]
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=2e-3)


def test_strengths_stay_what_the_contrast_says_and_the_table_shows_the_effect(find):
    strengths = {edit.feature: edit for edit in find(rank_by="mean", count=6).result[0]}
    features, table, _ = (output := find()).result
    assert [strengths[edit.feature] for edit in features] == list(features)
    lines = table.splitlines()
    assert lines[1].split() == ["feature", "mean", "max", "tokens", "difference", "effect"]
    [payload] = output.ui["sae_steering"]
    for line, row in zip(lines[2:], payload["rows"], strict=True):
        assert float(line.split()[-1]) == pytest.approx(row["effect"], rel=1e-3) and row["value"] == row["effect"]
    assert payload["effect"] and not find(rank_by="mean").ui["sae_steering"][0]["effect"]
    assert payload["lines"][1] == "6 features were tried, so no more of the 40 asked for can be listed."
    assert len(find(count=1).result[0]) == 1


@pytest.mark.parametrize(("steps", "candidates"), [(4, 6), (8, 20), (2, 3), (1, 1)])
def test_the_cost_that_is_told_is_what_is_done(find, forwards, monkeypatch, steps, candidates):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: None)
    update = comfy.utils.ProgressBar.update_absolute
    monkeypatch.setattr(
        comfy.utils.ProgressBar, "update_absolute",
        lambda bar, value, total=None, preview=None: (told.append((value, total)), update(bar, value, total, preview)),
    )  # fmt: skip
    output = find(steps=steps, candidates=candidates)
    [line, *_] = output.ui["sae_steering"][0]["lines"]
    forwards_told, pictures = re.match(
        rf"effect: (\d+) forwards of one picture, as much as ([\d.]+) pictures of {steps} steps?\.", line
    ).groups()
    done = sum(forwards) - 2 * steps
    assert done == int(forwards_told) == min(4, steps) * (candidates + 2)
    assert float(pictures) == pytest.approx(done / steps, rel=0.01)
    assert max(forwards) == min(candidates, drawing.MOST_ROWS)
    total = 2 * steps + done
    assert told[-1] == (total, total) and {total for _, total in told} == {total}
    assert [value for value, _ in told][: 2 * steps] == list(range(1, 2 * steps + 1))


def test_the_line_is_told_before_the_work(find, forwards, monkeypatch):
    seen = []
    monkeypatch.setattr(search, "show_progress_text", lambda node, line: seen.append((node, line, sum(forwards))))
    find()
    line = "effect: 32 forwards of one picture, as much as 8 pictures of 4 steps."
    assert seen == [("17", line, 2 * STEPS)] and sum(forwards) == 2 * STEPS + 32


def test_without_memory_they_go_one_by_one(find, model, forwards, monkeypatch):
    together = scores_of(find())
    del forwards[:]
    monkeypatch.setattr(type(model), "memory_required", lambda *args: 1e20)
    assert scores_of(find()) == pytest.approx(together, rel=1e-4)
    assert set(forwards) == {1} and len(forwards) == 2 * STEPS + STEPS * 8


def test_two_prompts_in_one_batch_are_both_steered(find, transformer):
    """A prompt twice is that prompt; core gives the model both in one batch, of which a row is every second part."""
    twice = scores_of(find(positive=[*conditioning(PROMPT), *conditioning(PROMPT)]))
    assert twice == pytest.approx(scores_of(find()), rel=1e-3)


def test_of_a_batch_the_first_picture_counts(find, forwards):
    output = find(latent_image={"samples": torch.zeros(3, 16, 8, 8)})
    assert len(output.result[0]) > 0 and max(forwards) == 6 and sum(forwards) == 2 * STEPS * 3 + STEPS * 8


def test_an_inpainted_picture_and_an_odd_size(find):
    mask = torch.zeros(1, 1, 56, 72)
    mask[..., :40] = 1
    given = {"samples": torch.ones(1, 16, 7, 9), "noise_mask": mask}
    whole = scores_of(find(latent_image={"samples": torch.ones(1, 16, 7, 9)}))
    inside = scores_of(find(latent_image=given))
    assert inside and inside != whole


def test_what_patches_the_model_patches_the_trials(find, model, forwards):
    calls = []
    patched = model.clone()

    def wrapper(apply, args):
        calls.append(args["input"].shape[0])
        return apply(args["input"], args["timestep"], **args["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    assert scores_of(find(model=patched)) == pytest.approx(scores_of(find()), rel=1e-5)
    assert calls == forwards[: len(calls)] and sum(calls) == 2 * STEPS + STEPS * 8


@pytest.mark.parametrize("at", [0, 3, 11])
def test_cancel_is_noticed_within_a_forward(find, model, forwards, monkeypatch, at):
    """Cancel is pressed while a forward of the trials runs: no further one begins, and nothing is left behind."""
    before = sample(model)
    del forwards[:]
    monkeypatch.setattr(drawing, "MOST_ROWS", 2)
    pressed = 2 * STEPS + at

    def press(module, args):
        if len(forwards) == pressed + 1:
            comfy.model_management.interrupt_current_processing(True)

    handle = model.model.diffusion_model.register_forward_pre_hook(press)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            find()
    finally:
        handle.remove()
        comfy.model_management.interrupt_current_processing(False)
    assert len(forwards) == pressed + 1
    assert len(modules_with_hooks(model)) == 1 and torch.equal(sample(model), before)  # the one that counts


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"baseline": None},
            r"baseline: 'effect' counts how far a feature moves .*, but no baseline came; connect one",
        ),
        ({"candidates": D_SAE + 1}, r"candidates: 49 came, but tiny has 48 features; give 1 to 48"),
        ({"baseline": conditioning(PROMPT)}, r"sae: no feature of tiny fires more at .*use another baseline"),
        ({"sae": make_sae(64, name="narrow")}, r"sae: narrow was trained on .* width 64, but .* width 128; use an SAE"),
    ],
)
def test_mistakes_are_told_in_one_sentence(find, forwards, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        find(**inputs)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and str(caught.value).count(". ") == 0
    if "candidates" in inputs or inputs.get("baseline", 0) is None:
        assert not forwards  # before any work
