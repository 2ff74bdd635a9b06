"""FeatureHeatmap in ComfyUI: the numbers of one call of the model, and that a colour's feature lies on the shape."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import Watch, conditioning, dense_codes, latent, make_sae, run_node


@pytest.fixture
def heatmap(node_classes):
    def run(model, sae, features, size, batch=1, **more):
        height, width = size
        inputs = {
            "positive": conditioning(), "image": torch.zeros(batch, height * 8, width * 8, 3),
            "latent": {"samples": latent(height, width, batch)}, "percent": 0.5, "steps": 1, "threshold": 0.0,
            "seed": 3, "location": "transformer_blocks.0", "stream": "image",
        }  # fmt: skip
        edits = FeatureList(Edit(feature) for feature in features)
        return run_node(node_classes["FeatureHeatmap"], model=model, sae=sae, features=edits, **{**inputs, **more})

    return run


@pytest.mark.parametrize(("size", "batch"), [((8, 8), 1), ((7, 9), 2)])
def test_it_shows_what_the_sae_reads_in_one_call(heatmap, model, size, batch):
    watch = Watch("double", 1)  # what enters block 1 is what leaves block 0
    node = heatmap(watch.on(model), make_sae(), [3, 5], size, batch)
    assert len(watch.tokens) == 1
    codes = dense_codes(watch.tokens[0])[..., [3, 5]]  # (batch, tokens, 2)
    sheet, mask, table = node.result
    assert sheet.shape[0] == 2 * batch and mask.shape == (batch, size[0] * 8, size[1] * 8)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    grid = codes.movedim(-1, 0).reshape(2, batch, rows, columns)
    shares = (grid / grid.amax((-2, -1), keepdim=True)).amax(0)
    pixels = shares.repeat_interleave(16, -2).repeat_interleave(16, -1)[:, : size[0] * 8, : size[1] * 8]
    assert torch.allclose(mask, pixels, atol=1e-4)
    numbers = [line.split() for line in table.splitlines()[1:]]
    assert [int(row[0]) for row in numbers] == [3, 5]
    for row, feature in zip(numbers, codes.movedim(-1, 0), strict=True):
        assert float(row[1]) == pytest.approx(float(feature.mean()), rel=1e-3)
        assert float(row[2]) == pytest.approx(float(feature.max()), rel=1e-3)


def test_several_steps_are_averaged_and_a_text_gets_bars(heatmap, model):
    watch = Watch("double", 1)
    node = heatmap(watch.on(model), make_sae(), [3], (8, 8), steps=3)
    assert len(watch.tokens) == 3
    codes = torch.stack([dense_codes(tokens)[..., 3] for tokens in watch.tokens]).mean(0)
    assert float(node.result[2].splitlines()[1].split()[1]) == pytest.approx(float(codes.mean()), rel=1e-3)
    bars, mask, _ = heatmap(model, make_sae(), [3, 4], (8, 8), stream="text").result
    assert bars.shape == (2, 220, 768, 3) and float(mask.sum()) == 0


@pytest.mark.parametrize(
    ("features", "more", "sentence"),
    [
        ([], {}, "features: the list is empty"),
        ([3], {"image": torch.zeros(2, 64, 64, 3)}, "image: 2 pictures came for a latent of 1"),
        (list(range(70)), {}, "features: 70 for 1 pictures are more than the 64 overlays"),
        ([3], {"percent": 1.0}, "percent: 1 came; give a part of the run from 0"),
        ([3], {"threshold": -0.5}, "threshold: -0.5 came"),
    ],
)
def test_mistakes_are_told(heatmap, model, features, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        heatmap(model, make_sae(), features, (8, 8), **more)


def test_cancel_ends_it_and_the_model_stays_as_it_was(heatmap, model):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        heatmap(model, make_sae(), [3], (8, 8), steps=4)
    assert not model.wrappers.get("apply_model")
    assert [hook for module in model.model.modules() for hook in module._forward_hooks] == []


def test_the_words_of_the_prompt_stand_below_the_bars(node_classes):
    model, _, sae, *_, clip = run_node(node_classes["LoadShapesDemo"]).result[:6]
    heatmap = node_classes["FeatureHeatmap"]
    [prompt] = run_node(node_classes["ShapesPrompt"], text="red circle left big white").result
    features = FeatureList(Edit(k) for k in range(4))
    shared = {
        "model": model, "sae": sae, "features": features, "positive": prompt, "image": torch.zeros(1, 128, 128, 3),
        "latent": {"samples": torch.zeros(1, 16, 16, 16)}, "percent": 0.5, "steps": 1, "threshold": 0.3, "seed": 1,
        "location": "auto", "stream": "auto",
    }  # fmt: skip
    plain = run_node(heatmap, **shared).result[0]
    named = run_node(heatmap, **shared, clip=clip, text="big red circle left white").result[0]
    assert plain.shape == named.shape and not torch.equal(plain[:, 150:], named[:, 150:])
    assert clip.token_words("big red circle on a white ground") == ["red", "circle", "–", "big", "white"]
    with pytest.raises(ValueError, match="clip: text is given, but what encoded it is not connected"):
        run_node(heatmap, **shared, text="red circle")
