"""TopActivatingFeatures against a dense tally of what plain hooks see on diffusers' own sampling."""

import re

import comfy.model_management
import comfy.utils
import latent_preview
import pytest
import torch

from plain_hooks import hooked
from sae_steering_pack.sae.places.site import parse_location
from tiny_flux import (
    D_SAE,
    conditioning,
    dense_codes,
    make_sae,
    modules_with_hooks,
    run_node,
    sae_tensors,
    sample,
    sample_diffusers,
)

BLOCK = ("transformer_blocks.1", "image")
STEPS, SEED = 4, 11  # the sigmas of 4 steps are exact in ComfyUI


@pytest.fixture
def find(node_classes, model, sae):
    def run(**inputs):
        given = {
            "model": model, "sae": sae, "positive": conditioning(2),
            "latent_image": {"samples": torch.zeros(1, 16, 8, 8)},
            "seed": SEED, "steps": STEPS, "count": 6, "rank_by": "mean", "location": BLOCK[0], "stream": "auto",
        }  # fmt: skip
        return run_node(node_classes["TopActivatingFeatures"], **{**given, **inputs})

    return run


@pytest.fixture(scope="module")
def seen(transformer):
    """Codes of all steps, (steps, tokens, d_sae), of a prompt at a place, in the plain dense way."""

    def look(location, stream, prompt=2, codes=dense_codes):
        found = []

        def keep(x, read):
            found.append(codes(read))
            return x

        with torch.inference_mode(), hooked(transformer, location, stream, keep):
            sample_diffusers(transformer, conditioning(prompt), STEPS, seed=SEED)
        return torch.cat(found)

    return look


def scores(codes, by):
    flat = codes.reshape(-1, D_SAE)
    return {"mean": flat.mean(0), "max": flat.amax(0), "frequency": (flat > 0).float().mean(0)}[by]


@pytest.mark.parametrize(
    ("location", "stream", "by"),
    [
        (*BLOCK, "mean"),
        (*BLOCK, "max"),
        ("transformer_blocks.0.attn", "text", "mean"),
        ("single_transformer_blocks.1.update", "image", "mean"),
        ("single_transformer_blocks.1.attn", "text", "max"),
    ],
)
def test_the_list_equals_a_dense_tally(find, seen, location, stream, by):
    features, *_ = find(location=location, stream=stream, rank_by=by).result
    codes = seen(location, stream)
    expected = scores(codes, by).topk(6)
    assert [edit.feature for edit in features] == expected.indices.tolist()
    flat = codes.reshape(-1, D_SAE)
    for edit in features:
        values = flat[:, edit.feature]
        assert edit.strength == 1
        assert edit.max == pytest.approx(float(values.max()), rel=1e-4)
        assert edit.mean == pytest.approx(float(values[values > 0].mean()), rel=1e-4)
        assert edit.density == pytest.approx(float((values > 0).float().mean()), abs=1e-6)


def test_frequency_ranks_by_the_share_of_tokens(find, seen):
    features, *_ = find(rank_by="frequency", count=D_SAE).result
    share = scores(seen(*BLOCK), "frequency")
    assert [edit.density for edit in features] == pytest.approx(share[share > 0].sort(descending=True).values.tolist())


def test_topk_codes(find, seen):
    def eight_largest(x):
        t = sae_tensors()
        pre = (x - t["input_bias"]) @ t["encoder"].T + t["encoder_bias"]
        return torch.where(pre >= pre.sort(-1).values[..., -8:][..., :1], pre, torch.zeros_like(pre)).clamp(min=0)

    features, *_ = find(sae=make_sae(k=8)).result
    expected = scores(seen(*BLOCK, codes=eight_largest), "mean").topk(6)
    assert [edit.feature for edit in features] == expected.indices.tolist()


def test_a_baseline_ranks_by_difference_with_the_same_noise(find, seen):
    features, table, _ = find(baseline=conditioning(40)).result
    difference = scores(seen(*BLOCK), "mean") - scores(seen(*BLOCK, prompt=40), "mean")
    expected = difference.topk(6)
    assert [edit.feature for edit in features] == expected.indices.tolist()
    rows = [line.split() for line in table.splitlines()[2:]]
    assert table.splitlines()[1].split() == ["feature", "mean", "max", "tokens", "difference"]
    assert [float(row[4]) for row in rows] == pytest.approx(expected.values.tolist(), rel=1e-3)


def test_a_baseline_equal_to_the_prompt_leaves_nothing(find):
    with pytest.raises(ValueError, match=r"^sae: no feature of tiny fires more at transformer_blocks\.1 \(image\)"):
        find(baseline=conditioning(2))


def test_the_table_and_the_chart_say_the_same(find, seen):
    output = find(count=3)
    features, table, chart = output.result
    lines = table.splitlines()
    assert lines[0] == "tiny at transformer_blocks.1 (image)" and len(lines) == 5
    means, peaks = scores(seen(*BLOCK), "mean"), scores(seen(*BLOCK), "max")
    for edit, line in zip(features, lines[2:], strict=True):
        index, mean, peak, share = line.split()
        assert int(index) == edit.feature
        assert [float(mean), float(peak)] == pytest.approx(
            [float(means[edit.feature]), float(peaks[edit.feature])], rel=1e-3
        )
        assert re.fullmatch(r"\d+\.\d%", share) and float(share[:-1]) == pytest.approx(100 * edit.density, abs=0.06)
    assert chart.shape[0] == 1 and chart.shape[2:] == (768, 3) and 0 <= chart.min() < chart.max() <= 1
    assert output.ui["text"] == [table] and len(output.ui["sae_steering"][0]["rows"]) == 3


def test_a_mask_counts_its_own_tokens(find, seen):
    """The left half: the columns 0 and 1 of 4."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    features, *_ = find(mask=mask).result
    codes = seen(*BLOCK).view(STEPS, 4, 4, D_SAE)[:, :, :2]
    assert [edit.feature for edit in features] == scores(codes, "mean").topk(6).indices.tolist()


def test_latents_of_another_size_and_batch(find, sae):
    features, *_ = find(latent_image={"samples": torch.zeros(2, 4, 7, 9)}, steps=1).result
    assert len(features) == 6


def test_another_place_than_the_saes_own_is_told(find):
    own = make_sae().at(parse_location(*BLOCK))
    [quiet, told] = (find(sae=own, stream=stream).ui["sae_steering"][0]["lines"] for stream in ("auto", "text"))
    assert quiet == [] and told == [
        "tiny belongs to transformer_blocks.1 (image), but is used at transformer_blocks.1 (text); elsewhere its "
        "features may mean nothing."
    ]


def test_an_sae_of_embeddings_is_sent_to_its_own_nodes(find):
    sentence = (
        "sae: the image_embeds is of embeddings (image_embeds), which are no place in a model; use Top Embed Features "
        "and CLIP Embed Steer with it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        find(sae=make_sae(name="the image_embeds"), location="auto")


def test_progress_counts_every_step_of_both_runs(find, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *told_now, **_: told.append(told_now))
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    find(baseline=conditioning(40))
    assert told == [(step, 2 * STEPS, "picture") for step in range(1, 2 * STEPS + 1)]


class Previewer:
    """With a preview each update is sent at once."""

    def decode_latent_to_preview_image(self, kind, latent):
        return "picture"


def test_cancel_is_noticed_within_a_step(find, model, monkeypatch):
    """The server's progress hook is where ComfyUI raises it."""
    before, told = sample(model), []

    def hook(value, total, preview, node_id=None):
        told.append(value)
        comfy.model_management.interrupt_current_processing(value == 2)
        comfy.model_management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            find(location="transformer_blocks.1.attn", steps=20)
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert told == [1, 2]
    assert modules_with_hooks(model) == [] and torch.equal(sample(model), before)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"location": "auto"}, r"location: this SAE's file does not tell where .* give the location"),
        ({"location": "transformer_blocks.7"}, r"location: transformer_blocks\.7 names block 7, but .* are 0 to 1"),
        (
            {"location": "transformer_blocks.one"},
            r"location: 'transformer_blocks.one' is not a place in FLUX or another",
        ),
        ({"stream": "joint"}, r"stream: double blocks such as .* keep image and text apart; use image or text"),
        ({"stream": "text", "mask": torch.ones(1, 64, 64)}, r"mask: .* but the text stream is read; use the image"),
        ({"mask": torch.zeros(1, 64, 64)}, r"mask: it is empty, so there is no token to read; paint"),
        ({"mask": torch.ones(1, 64, 128)}, r"mask: it is 128×64, but the picture is 64×64 pixels; use a mask with"),
        ({"mask": torch.ones(3, 64, 64)}, r"mask: it has 3 entries, but the batch has 1 pictures; use one mask or 1"),
        ({"rank_by": "median"}, r"rank_by: 'median' is not a ranking; use one of mean, max, frequency"),
        ({"sae": make_sae(64, name="narrow")}, r"sae: narrow was trained on .* width 64, but .* width 128; use an SAE"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_in_one_sentence(find, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        find(**inputs)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
