"""The Kandinsky nodes inside ComfyUI: diffusers' own numbers, weights that ComfyUI manages, Cancel."""

from __future__ import annotations

import gc
import shutil
import weakref

import comfy.clip_vision
import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image

from links import link
from tiny_flux import run_node
from tiny_kandinsky import plain_decoder, plain_prior, save_random

SIZE = {"width": 64, "height": 48}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("diffusers")
    save_random(base)
    (base / "empty").mkdir()
    return base


@pytest.fixture(autouse=True)
def model_folder(folders, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([str(folders)], {"folder"}))


@pytest.fixture
def node(node_classes):
    def run(name, **inputs):
        return run_node(node_classes[name], **inputs).result

    return run


@pytest.fixture
def halves(node):
    return node("LoadKandinsky22", prior="prior", decoder="decoder", dtype="auto")


def output(seed=1, batch=1, width=64):
    made = comfy.clip_vision.Output()
    made.image_embeds = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))
    return made


def decode(node, decoder, **more):
    inputs = {"decoder": decoder, "embed": output(), "negative": output(2), "steps": 4, "guidance": 3.0, "seed": 9}
    return node("KandinskyDecode", **{**inputs, **SIZE, **more})[0]


def prior_inputs(half, **more):
    return {"prior": half, "text": "red", "negative_text": "", "steps": 4, "guidance": 3.0, "seed": 5, **more}


def listed(node_classes):
    return node_classes["LoadKandinsky22"].INPUT_TYPES()["required"]["prior"][1]["options"]


def test_the_folders_are_listed(node_classes, folders):
    assert listed(node_classes) == ["none", "decoder", "prior"]
    (folders / "deep" / "er").mkdir(parents=True)
    try:
        link(folders / "deep" / "er" / "linked", folders / "decoder")
        link(folders / "deep" / "round", folders)
        found = listed(node_classes)
        assert "deep/er/linked" in found and "deep/round/prior" in found
        assert max(name.count("/") for name in found) == 2  # a circle ends
    finally:
        shutil.rmtree(folders / "deep")


@pytest.mark.parametrize("negative", ["", "blue circle"])
def test_the_prior_equals_diffusers(node, halves, folders, negative):
    embed, below = node("KandinskyPrior", **prior_inputs(halves[0], negative_text=negative))
    expected = plain_prior(folders / "prior")(
        "red",
        negative_prompt=negative or None,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
    )
    assert torch.allclose(embed.image_embeds, expected.image_embeds, atol=1e-5)
    assert torch.allclose(below.image_embeds, expected.negative_image_embeds, atol=1e-5)
    assert embed.last_hidden_state is None and embed.penultimate_hidden_states is None


def test_encoding_equals_diffusers(node, halves, folders):
    levels = torch.randint(0, 256, (2, 50, 70, 4), generator=torch.Generator().manual_seed(3))
    embed, below = node("KandinskyEncodeImage", prior=halves[0], image=levels.float() / 255)
    pipeline = plain_prior(folders / "prior")
    pictures = [Image.fromarray(row[..., :3].byte().numpy()) for row in levels]
    seen = pipeline.image_encoder(
        pipeline.image_processor(pictures, return_tensors="pt").pixel_values, output_hidden_states=True
    )
    assert torch.allclose(embed.image_embeds, seen.image_embeds, atol=1e-5)
    assert torch.allclose(embed.last_hidden_state, seen.last_hidden_state, atol=1e-5)
    assert torch.allclose(embed.penultimate_hidden_states, seen.hidden_states[-2], atol=1e-5)
    assert torch.allclose(below.image_embeds, pipeline.get_zero_embed(), atol=1e-5)


@pytest.mark.parametrize(("batch", "guidance"), [(1, 3.0), (2, 3.0), (1, 1.0)])
def test_decoding_equals_diffusers(node, halves, folders, batch, guidance):
    embed = output(batch=batch)
    ours = decode(node, halves[1], embed=embed, guidance=guidance)
    theirs = plain_decoder(folders / "decoder")(
        embed.image_embeds,
        output(2).image_embeds.expand(batch, -1),
        **SIZE,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(9),
        output_type="np",
    ).images
    assert ours.shape == (batch, 48, 64, 3) and ours.dtype == torch.float32
    assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-5)


def test_a_steered_run_leaves_the_next_one_as_it_was(node, halves):
    first = decode(node, halves[1])
    whole = decode(node, halves[1], steered=output(7))
    part = decode(node, halves[1], steered=output(7), start_percent=0.6)
    assert torch.equal(decode(node, halves[1]), first)
    assert torch.equal(whole, decode(node, halves[1], embed=output(7)))
    assert not torch.equal(part, first) and not torch.equal(part, whole)


@pytest.mark.parametrize(("name", "half", "part"), [("KandinskyPrior", 0, "prior"), ("KandinskyDecode", 1, "unet")])
def test_cancel_stops_within_one_step(node, halves, name, half, part):
    calls = []

    def cancel(module, inputs):
        calls.append(module)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()

    hook = halves[half].part(part).register_forward_pre_hook(cancel)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            if name == "KandinskyPrior":
                node(name, **prior_inputs(halves[0], steps=50))
            else:
                decode(node, halves[1], steps=50)
    finally:
        hook.remove()
    assert len(calls) == 2
    assert decode(node, halves[1]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("method", [LatentPreviewMethod.NoPreviews, LatentPreviewMethod.Auto])
def test_previews_are_small_pictures_of_what_is_under_way(node, halves, monkeypatch, method):
    seen = []  # ComfyUI leaves updates out that follow too closely
    monkeypatch.setattr(args, "preview_method", method)
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append(preview))
    try:
        picture = decode(node, halves[1], width=128, height=128)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert picture.shape == (1, 128, 128, 3) and seen
    if method == LatentPreviewMethod.NoPreviews:
        assert all(preview is None for preview in seen)
    else:
        assert all(preview[0] == "JPEG" and preview[1].size == (64, 64) for preview in seen)


def test_comfyui_manages_the_weights_and_nothing_stays(node_classes, folders):
    run = {name: node_classes[name] for name in ("LoadKandinsky22", "KandinskyDecode")}
    comfy.model_management.unload_all_models()
    inputs = {"prior": "none", "decoder": "decoder", "dtype": "auto"}
    half = run_node(run["LoadKandinsky22"], **inputs).result[1]
    picture = run_node(
        run["KandinskyDecode"], decoder=half, embed=output(), negative=output(2), **SIZE, steps=2, guidance=3.0, seed=9
    ).result[0]
    loaded = {type(entry.model.model.module).__name__ for entry in comfy.model_management.current_loaded_models}
    assert loaded == {"UNet2DConditionModel", "VQModel"}
    modules = [weakref.ref(half.part(name)) for name in ("unet", "movq")]
    comfy.model_management.unload_all_models()
    assert comfy.model_management.current_loaded_models == []
    del half
    gc.collect()
    assert [module() for module in modules] == [None, None]
    assert float(picture.std()) > 0


@pytest.mark.parametrize(
    ("name", "inputs", "sentence"),
    [
        ("LoadKandinsky22", {"prior": "none", "decoder": "none"}, "prior, decoder: both are none"),
        ("LoadKandinsky22", {"prior": "../x", "decoder": "none"}, r"prior: '\.\./x' is not among the folders"),
        ("LoadKandinsky22", {"prior": "decoder", "decoder": "none"}, "prior: decoder holds a KandinskyV22Pipeline"),
        ("LoadKandinsky22", {"prior": "none", "decoder": "empty"}, "decoder: 'empty' is not among the folders"),
        ("LoadKandinsky22", {"dtype": "float16"}, "dtype: float16 came, but the CPU cannot compute Kandinsky in it"),
        ("KandinskyPrior", {"prior": None}, "prior: nothing came; choose its folder in Load Kandinsky 2.2"),
        ("KandinskyEncodeImage", {"image": torch.zeros(0, 64, 64, 3)}, r"image: it is empty, \[0, 64, 64, 3\]"),
        ("KandinskyDecode", {"decoder": None}, "decoder: nothing came; choose its folder"),
        ("KandinskyDecode", {"width": 70}, "width: 70 is no multiple of 16"),
        ("KandinskyDecode", {"embed": output(width=1280)}, r"embed: it has image_embeds 1280 \(CLIP ViT-bigG\), but"),
        ("KandinskyDecode", {"negative": output(batch=3)}, "negative: it has 3 rows for 1 pictures"),
        ("KandinskyDecode", {"steered": output(width=768)}, "steered: it has image_embeds 768"),
        ("KandinskyDecode", {"steered": output(), "start_percent": 0.9, "end_percent": 0.1}, "start_percent, end_per"),
    ],
)
def test_mistakes_are_told_in_one_sentence(node, halves, name, inputs, sentence):
    given = {
        "LoadKandinsky22": {"prior": "prior", "decoder": "decoder", "dtype": "auto"},
        "KandinskyPrior": prior_inputs(halves[0]),
        "KandinskyEncodeImage": {"prior": halves[0], "image": torch.zeros(1, 64, 64, 3)},
        "KandinskyDecode": {
            "decoder": halves[1], "embed": output(), "negative": output(2), **SIZE, "steps": 2, "guidance": 2.0,
            "seed": 1,
        },
    }[name]  # fmt: skip
    with pytest.raises(ValueError, match=sentence) as failure:
        node(name, **{**given, **inputs})
    assert "\n" not in str(failure.value)
