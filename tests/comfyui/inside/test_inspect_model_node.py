"""InspectModel: one fact a line, what others put there, and a family that is not known."""

import re

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper

import tiny_families
from family_runs import sae_for
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.places.families import FAMILIES
from tiny_families import CASES, UNETS
from tiny_flux import intervention, make_sae, run_node


@pytest.fixture
def told(node_classes):
    def inspect(model):
        [text] = run_node(node_classes["InspectModel"], model=model).result
        lines = [line.split(": ", 1) for line in text.splitlines()]
        return {name: [value for other, value in lines if other == name] for name, _ in lines}

    return inspect


_SD_LISTS = [
    "down_blocks.0.attentions.0-1 (image, width 32) with .input, .update, none for the output; inside "
    ".transformer_blocks.0 with .input, .attn1, .attn2, .ff, .update, none for the output",
    "down_blocks.1.attentions.0-1 (",
    "down_blocks.2.attentions.0-1 (image, width 64) with",
    "mid_block.attentions.0 (",
    "up_blocks.1.attentions.0-2 (",
    "up_blocks.2.attentions.0-2 (",
    "up_blocks.3.attentions.0-2 (",
]
LISTS = {
    "Stable Diffusion 1": _SD_LISTS,
    "Stable Diffusion 2": _SD_LISTS,
    "SDXL": [
        "down_blocks.1.attentions.0-1 (",
        "down_blocks.2.attentions.0-1 (image, width 64) with .input, .update, none for the output; inside "
        ".transformer_blocks.0-1 with .input, .attn1",
        "mid_block.attentions.0 (",
        "up_blocks.0.attentions.0-2 (",
        "up_blocks.1.attentions.0-2 (image, width 32) with",
    ],
    "SDXL Refiner": [*_SD_LISTS[1:5], "up_blocks.2.attentions.0-2 (image, width 32) with"],
}


@pytest.mark.parametrize("name", CASES)
def test_every_family_is_told(told, name):
    found = told(tiny_families.build(CASES[name]))
    width = "32, 64, by the place" if name in UNETS else str(CASES[name].width)
    assert found["Family"][0].startswith(f"{name} (") and found["Width"] == [width]
    stacks = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
    depth = {} if name in UNETS else CASES[name].depth
    expected = LISTS.get(name) or [f"{stacks.get(kind, kind)}.0-{count - 1} (" for kind, count in depth.items()]
    assert all(line.startswith(start) for line, start in zip(found["Places"], expected, strict=True))
    for nothing in ("In the slots", "In the lists", "Step caches", "Steered or read by this pack"):
        assert found[nothing] == ["none"]
    assert found["Compiled"] == ["no"] and "Take care" not in found
    if name in UNETS:
        rows = CASES[name].depth["attentions"]
        assert found["ComfyUI's names"] == [", ".join(f"{row[0]} = {row[1]}" for row in rows)]
        assert found["Token"] == ["each place has a grid of its own, row by row"]
        return
    assert found["Token"] == ["1×1 latent cells" if name == "FLUX.2" else "2×2 latent cells"]


def a_patch(args, extra):
    return extra["original_block"](args)


def test_what_sits_in_slots_and_lists(told):
    model = tiny_families.build(CASES["Qwen-Image"])
    changed = model.clone()
    changed.set_model_patch_replace(a_patch, "dit", "double_block", 1)
    changed.set_model_patch(a_patch, "double_block")
    changed.model_options["transformer_options"]["easycache"] = object()
    steered = host.steer(changed, [intervention(sae_for("Qwen-Image"), "transformer_blocks.0", "image")], None)
    set_torch_compile_wrapper(steered, backend="eager")
    found = told(steered)
    assert found["In the slots"] == [f"double_block 1 ({__name__}.a_patch)"]
    assert found["In the lists"] == [f"double_block ({__name__}.a_patch)"]
    assert found["Step caches"] == ["easycache"] and found["Compiled"] == ["yes"]
    assert found["Steered or read by this pack"] == ["1 place"]
    assert found["Take care"] == ["A step cache is active on this model; the steps that it skips are not steered."]
    assert told(model)["In the slots"] == ["none"]


def test_a_family_that_is_not_known_is_refused_with_those_that_are(told):
    model = tiny_families.build(CASES["FLUX.1"])
    model.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    known = ", ".join(family.name for family in FAMILIES if family.models)
    with pytest.raises(ValueError, match=re.escape(f"model: it is a Linear, but steering knows {known} only; connect")):
        told(model)


def test_a_recipe_for_another_family_is_refused(node_classes):
    run = node_classes
    sae = make_sae()
    feature = run_node(run["SAEFeature"], feature=3, strength=1.0).result[0]
    sae.trained_on = TrainedOn("Wan 2")
    [text] = run_node(
        run["SaveRecipe"], sae=sae, features=feature, method="add", strength=0.2, unit="token_norm",
        location="blocks.1", stream="auto", start_percent=0.0, end_percent=1.0, apply_to="both", name="of-wan", note="",
    ).result  # fmt: skip
    assert '"model": "Wan 2"' in text
    steered = run_node(
        run["LoadRecipe"], model=tiny_families.build(CASES["Wan 2"]), recipe=text, strength=1.0, sae=sae
    ).result[0]
    assert steered is not None
    message = "recipe: it is for Wan 2, but this model is FLUX.1; connect a model of Wan 2."
    with pytest.raises(ValueError, match=re.escape(message)):
        run_node(run["LoadRecipe"], model=tiny_families.build(CASES["FLUX.1"]), recipe=text, strength=1.0, sae=sae)
    old = text.replace('"model": "Wan 2"', '"model": "FLUX"').replace("blocks.1", "transformer_blocks.1")
    sae.trained_on = None
    run_node(run["LoadRecipe"], model=tiny_families.build(CASES["FLUX.1"]), recipe=old, strength=1.0, sae=sae)
    unknown = text.replace('"model": "Wan 2"', '"model": "PixArt"')
    with pytest.raises(ValueError, match=r"recipe: it is for .PixArt. models, but only FLUX\.1, FLUX\.2, .* can be"):
        run_node(run["LoadRecipe"], model=tiny_families.build(CASES["FLUX.1"]), recipe=unknown, strength=1.0, sae=sae)
