"""FeatureHeatmap on several conditionings: texts of one and of two lengths, and areas of the picture."""

from __future__ import annotations

import pytest
import torch
from comfy.patcher_extension import WrappersMP

import nodes as core
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import Watch, conditioning, dense_codes, latent, make_sae, run_node

FEATURES = [3, 5]
SEVERAL_TEXTS = r"^positive: the model reads several texts, so there is no one text to draw bars over; give one prompt,"


@pytest.fixture
def heatmap(node_classes, model):
    def run(positive, model=model, **more):
        inputs = {
            "positive": positive, "image": torch.zeros(1, 64, 64, 3), "latent": {"samples": latent()},
            "percent": 0.5, "steps": 1, "threshold": 0.0, "seed": 3, "location": "transformer_blocks.0",
            "stream": "image",
        }  # fmt: skip
        edits = FeatureList(Edit(feature) for feature in FEATURES)
        return run_node(
            node_classes["FeatureHeatmap"], model=model, sae=make_sae(), features=edits, **{**inputs, **more}
        ).result

    return run


def combined(*texts):
    """What ConditioningCombine makes of conditionings."""
    positive = texts[0]
    for text in texts[1:]:
        (positive,) = core.ConditioningCombine().combine(positive, text)
    return positive


def area(text, height, width, top, left):
    """A prompt for a part of the picture, in latent cells."""
    return core.ConditioningSetArea().append(text, 8 * width, 8 * height, 8 * left, 8 * top, 1.0)[0]


def means(table):
    return [float(line.split()[1]) for line in table.splitlines()[1:]]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("tokens", [6, 9], ids=["one call", "texts of two lengths"])
@pytest.mark.parametrize(
    ("location", "stream", "watched"),
    [
        ("transformer_blocks.0", "image", ("double", 1)),
        ("single_transformer_blocks.0", "joint", ("single", 1)),
        ("single_transformer_blocks.0", "image", ("single", 1)),
    ],
)
def test_on_the_picture_the_mean_of_the_prompts_is_shown(heatmap, model, tokens, steps, location, stream, watched):
    watch = Watch(*watched)  # what enters the next block
    positive = combined(conditioning(2), conditioning(4, tokens))
    _, mask, table = heatmap(positive, watch.on(model), location=location, stream=stream, steps=steps)
    rows = [row for call in watch.tokens for row in call[:, -16:]]  # the picture's 4 × 4 tokens
    assert len(rows) == 2 * steps
    codes = torch.stack([dense_codes(row)[:, FEATURES] for row in rows]).mean(0)  # (tokens, features)
    assert means(table) == pytest.approx(codes.mean(0).tolist(), rel=1e-3)
    shares = (codes / codes.amax(0)).amax(1).view(1, 4, 4)
    assert torch.allclose(mask, shares.repeat_interleave(16, 1).repeat_interleave(16, 2), atol=1e-4)


@pytest.mark.parametrize("tokens", [6, 9], ids=["one call", "texts of two lengths"])
def test_bars_need_one_text(heatmap, tokens):
    with pytest.raises(ValueError, match=SEVERAL_TEXTS):
        heatmap(combined(conditioning(2), conditioning(4, tokens)), stream="text")


def test_texts_that_the_model_gets_one_by_one_are_noticed(heatmap, model, monkeypatch):
    """As where memory is short."""
    monkeypatch.setattr(type(model), "get_free_memory", lambda self, device: 0)
    watch = Watch()
    with pytest.raises(ValueError, match=SEVERAL_TEXTS):
        heatmap(combined(conditioning(2), conditioning(4)), watch.on(model), stream="text", location="double_blocks.1")
    assert [len(tokens) for tokens in watch.tokens] == [1, 1]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("location", ["transformer_blocks.0", "transformer_blocks.0-1", "transformer_blocks.0-1.attn"])
def test_one_text_has_bars_at_any_number_of_places_and_steps(heatmap, location, steps):
    """Texts concatenated are one longer text."""
    (text,) = core.ConditioningConcat().concat(conditioning(2), conditioning(4, 9))
    sheet, mask, table = heatmap(text, stream="text", location=location, steps=steps)
    assert sheet.shape[0] == len(FEATURES) and not mask.any() and len(means(table)) == 2


AREAS = {
    "beside the whole": [(8, 8, 0, 0), (4, 4, 4, 4)],
    "before the whole": [(2, 6, 4, 1), (8, 8, 0, 0)],
    "that meet": [(4, 8, 0, 0), (4, 8, 4, 0), (6, 4, 1, 3)],
    "of one size in one call": [(4, 4, 0, 0), (4, 4, 4, 4), (4, 4, 2, 3)],
    "alone": [(3, 5, 4, 2)],
}


def found_in(noised, crop):
    """(top, left) at which a crop lies in what the model sees of the whole picture."""
    height, width = crop.shape[-2:]
    places = [(top, left) for top in range(9 - height) for left in range(9 - width)]
    [place] = [
        (top, left) for top, left in places if torch.equal(noised[:, top : top + height, left : left + width], crop)
    ]
    return place


@pytest.mark.parametrize("areas", AREAS.values(), ids=AREAS)
@pytest.mark.parametrize("place", [("transformer_blocks.0", "image", "double"), ("single_blocks.0", "joint", "single")])
def test_the_heat_of_an_area_lies_in_its_place(heatmap, model, areas, place):
    """The expected place is found by the content of what the model was given, not by the prompt."""
    location, stream, kind = place
    watch, latents = Watch(kind, 1), []

    def keep(executor, x, *args, **kwargs):
        latents.append(x.clone())
        return executor(x, *args, **kwargs)

    watched = watch.on(model)
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "keep", keep)
    heatmap(conditioning(2), watched, location=location, stream=stream)
    noised = latents.pop()[0]
    watch.tokens.clear()
    prompts = [area(conditioning(seed, 6 + seed % 2), *box) for seed, box in enumerate(areas)]
    _, mask, table = heatmap(combined(*prompts), watched, location=location, stream=stream)
    heat, looks = torch.zeros(2, 8, 8), torch.zeros(8, 8)
    for calls, tokens in zip(latents, watch.tokens, strict=True):
        for crop, row in zip(calls, tokens, strict=True):
            height, width = crop.shape[-2:]
            grid = -(-height // 2), -(-width // 2)
            codes = dense_codes(row[-grid[0] * grid[1] :])[:, FEATURES].T.view(2, *grid)
            cells = codes.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]
            top, left = found_in(noised, crop)
            heat[:, top : top + height, left : left + width] += cells
            looks[top : top + height, left : left + width] += 1
    assert looks.sum() == sum(height * width for height, width, _, _ in areas)
    heat /= looks.clamp_min(1)
    assert means(table) == pytest.approx(heat[:, looks > 0].mean(1).tolist(), rel=1e-3)
    shares = (heat / heat.amax((1, 2), keepdim=True)).amax(0)
    assert torch.allclose(mask[0], shares.repeat_interleave(8, 0).repeat_interleave(8, 1), atol=1e-4)


def test_tiles_of_another_node_are_refused_in_one_sentence(heatmap, model):
    tiled = model.clone()

    def halves(apply, call):
        parts = call["input"].chunk(2, dim=-1)
        mirrored = [apply(part.flip(-1), call["timestep"], **call["c"]).flip(-1) for part in parts]
        return torch.cat(mirrored, dim=-1)  # numbers that stand nowhere in the picture: its place cannot be told

    tiled.set_model_unet_function_wrapper(halves)
    with pytest.raises(ValueError, match=r"^positive: the model is shown a part of 32×64 pixels whose place"):
        heatmap(conditioning(2), tiled)


def test_an_area_of_the_whole_picture_is_the_whole_picture(heatmap):
    _, mask, table = heatmap(area(conditioning(2), 8, 8, 0, 0))
    _, expected, other = heatmap(conditioning(2))
    assert torch.equal(mask, expected) and table == other


def test_an_area_of_one_text_has_its_bars(heatmap):
    sheet, _, table = heatmap(area(conditioning(2), 4, 4, 4, 4), stream="text")
    assert sheet.shape[0] == len(FEATURES) and max(means(table)) > 0


@pytest.mark.parametrize("tokens", [6, 9], ids=["one call", "texts of two lengths"])
@pytest.mark.parametrize("parts", [1, 3], ids=["the whole picture", "areas beside it"])
def test_the_features_of_all_prompts_are_tallied(node_classes, model, tokens, parts):
    positive = combined(
        *([area(conditioning(8), 4, 4, 4, 4), area(conditioning(9), 2, 6, 4, 1)] if parts > 1 else []),
        conditioning(2),
        conditioning(4, tokens),
    )
    watch = Watch("double", 1)  # what enters block 1 is what leaves block 0
    features, table, _ = run_node(
        node_classes["TopActivatingFeatures"], model=watch.on(model), sae=make_sae(), positive=positive,
        latent_image={"samples": torch.zeros(1, 16, 8, 8)}, seed=1, steps=2, count=6, rank_by="mean",
        location="transformer_blocks.0", stream="image",
    ).result  # fmt: skip
    codes = torch.cat([dense_codes(call).flatten(0, 1) for call in watch.tokens])
    assert len(codes) == 2 * (2 * 16 + (4 + 3 if parts > 1 else 0))
    best = codes.mean(0).topk(6)
    assert [edit.feature for edit in features] == best.indices.tolist()
    assert [float(line.split()[1]) for line in table.splitlines()[2:]] == pytest.approx(best.values.tolist(), rel=1e-3)
