"""ContrastDirection, ContrastPictures and SaveDirections in ComfyUI, against activations that plain hooks gathered."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import folder_paths
import pytest
import torch

from sae_steering_pack.sae.demo.shapes import Prompt, draw
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.dictionary.sae_set import SaeSet
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from tiny_flux import run_node, sample

RED, BLUE = "red square left big white", "blue square left big white"
LATENT = {"samples": torch.zeros(1, 16, 16, 16)}
STEER = {
    "method": "auto", "strength": 1.0, "unit": "auto", "location": "auto", "stream": "auto", "start_percent": 0.0,
    "end_percent": 1.0, "apply_to": "both",
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(node_classes):
    model, vae, sae, *_, clip = run_node(node_classes["LoadShapesDemo"]).result[:6]
    return SimpleNamespace(model=model, vae=vae, sae=sae, clip=clip)


def text(shapes, words):
    return shapes.clip.encode_from_tokens_scheduled(shapes.clip.tokenize(words))


@pytest.fixture
def contrast(node_classes, shapes):
    def run(**more):
        given = {
            "model": shapes.model, "latent_image": LATENT, "seed": 7, "seeds": 2, "steps": 2, "location": "auto",
            "stream": "auto",
        }  # fmt: skip
        if "clip" not in more:
            given |= {"positive": text(shapes, BLUE), "negative": text(shapes, RED)}
        return run_node(node_classes["ContrastDirection"], **{**given, **more})

    return run


@pytest.fixture
def steered(node_classes, shapes):
    def run(given, **more):
        sae, features, replaces = given.result[:3]
        wanted = {**STEER, "sae": sae, "features": features, "replaces": replaces, **more}
        return run_node(node_classes["FluxActivationSteer"], model=shapes.model, **wanted).result[0]

    return run


def by_hand(shapes, words, seeds, module, pick, steps=2):
    """Tokens (calls · rows · tokens, width) that a forward hook on a module sees, one tensor a seed."""
    seen, found = [], []
    handle = shapes.model.model.diffusion_model.get_submodule(module).register_forward_hook(
        lambda module, args, output: seen.append(pick(output).clone().float())
    )
    try:
        for seed in seeds:
            seen.clear()
            sample(shapes.model, text(shapes, words), steps=steps, size=(16, 16), seed=seed)
            found.append(torch.cat([x.flatten(0, 1) for x in seen]).double())
    finally:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("location", "stream", "module", "pick"),
    [
        ("auto", "auto", "txt_in", lambda output: output),
        ("transformer_blocks.0", "text", "double_blocks.0", lambda output: output[1]),
        ("transformer_blocks.1", "image", "double_blocks.1", lambda output: output[0]),
        ("transformer_blocks.1.attn", "image", "double_blocks.1.img_attn.proj", lambda output: output),
    ],
)
def test_the_direction_is_the_difference_of_the_means_that_plain_hooks_see(
    shapes, contrast, location, stream, module, pick
):
    sae, features, replaces, _ = contrast(location=location, stream=stream, contrast_by="mean").result
    blue, red = (by_hand(shapes, words, (7, 8), module, pick) for words in (BLUE, RED))
    p, n = torch.cat(blue).mean(0), torch.cat(red).mean(0)
    step, middle = p - n, (p + n) / 2
    assert torch.allclose(
        sae.direction([0, 1]).double(), torch.stack([step, -step]), rtol=1e-4, atol=1e-5 * step.norm()
    )
    pairs = torch.stack([one.mean(0) - other.mean(0) for one, other in zip(blue, red, strict=True)])
    floor = float((pairs - pairs.mean(0)).square().sum() / (2 * 1)) ** 0.5
    assert sae.contrast.norm == pytest.approx(float(step.norm()), rel=1e-4)
    assert sae.contrast.floor == pytest.approx(floor, rel=1e-2)
    for feature, (sign, tokens, edits) in enumerate([(1, blue[0], features), (-1, red[0], replaces)]):
        codes = (sign * (tokens - middle) @ step / step.square().sum()).clamp(min=0)  # the first seed alone
        [edit] = edits
        assert (edit.feature, edit.strength) == (feature, 1.0)
        assert edit.mean == pytest.approx(float(codes[codes > 0].mean()), rel=1e-2)
        assert edit.max == pytest.approx(float(codes.max()), rel=1e-3)
        assert edit.density == pytest.approx(float((codes > 0).double().mean()), abs=0.02)


def test_swap_at_1_draws_the_other_side_and_0_is_bit_identical(shapes, contrast, steered):
    given = contrast()
    plain = sample(shapes.model, text(shapes, RED), steps=4, size=(16, 16))
    wanted = sample(shapes.model, text(shapes, BLUE), steps=4, size=(16, 16))
    got = sample(steered(given), text(shapes, RED), steps=4, size=(16, 16))
    assert float((got - wanted).norm()) < 0.4 * float((plain - wanted).norm())
    assert torch.equal(sample(steered(given, strength=0.0), text(shapes, RED), steps=4, size=(16, 16)), plain)
    assert torch.equal(sample(shapes.model, text(shapes, RED), steps=4, size=(16, 16)), plain)
    names = notebooks().of(given.result[0]).names
    assert names == {0: "positive", 1: "negative"}
    assert [row["feature"] for table in given.ui["sae_steering"] for row in table["rows"]] == [0, 1]


def test_pairs_of_texts_and_several_places_make_a_set(shapes, contrast, steered):
    given = contrast(
        clip=shapes.clip, positive_texts=f"{BLUE}\n\nblue cross top small grey\n", location="double_blocks.0-1.attn; "
        "double_blocks.0", negative_texts=f"{RED}\nred cross top small grey", stream="image",
    )  # fmt: skip
    sae, features, replaces, table = given.result
    sites = [str(member.site) for member in sae.members]
    places = ["transformer_blocks.0.attn", "transformer_blocks.0", "transformer_blocks.1.attn"]
    assert sites == [f"{place} (image)" for place in places]
    assert isinstance(sae, SaeSet) and sae.d_sae == 6
    assert [edit.feature for edit in features] == [0, 2, 4] and [edit.feature for edit in replaces] == [1, 3, 5]
    assert all(member.sae.contrast.positive == (BLUE, "blue cross top small grey") for member in sae.members)
    assert all(member.sae.contrast.runs == 4 for member in sae.members)
    assert table.splitlines()[0].startswith(f"contrast {'_'.join(BLUE.split())[:24]} - {'_'.join(RED.split())[:24]}:")
    plain = sample(shapes.model, text(shapes, RED), size=(16, 16))
    assert not torch.equal(sample(steered(given), text(shapes, RED), size=(16, 16)), plain)


@pytest.mark.parametrize(
    ("location", "stream", "module", "pick"),
    [
        ("auto", "auto", "txt_in", lambda output: output),
        ("transformer_blocks.1.attn", "image", "double_blocks.1.img_attn.proj", lambda output: output),
    ],
)
def test_whitened_reads_past_how_the_tokens_vary_that_plain_hooks_see(
    shapes, contrast, steered, location, stream, module, pick
):
    """w = Σ⁻¹d / dᵀΣ⁻¹d, shrunk after Chen et al. for the tokens of the first calls; d is what is written."""
    given = contrast(location=location, stream=stream, contrast_by="whitened")
    sae = given.result[0]
    blue, red = (torch.cat(by_hand(shapes, words, (7, 8), module, pick)) for words in (BLUE, RED))
    step, apart = blue.mean(0) - red.mean(0), torch.cat([blue - blue.mean(0), red - red.mean(0)])
    s, p = apart.T @ apart / len(apart), len(step)
    n, square, trace = len(apart) / 2, s.square().sum(), s.trace()  # of two steps one
    rho = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    sigma = (1 - rho.clamp(max=1)) * s + rho.clamp(max=1) * trace / p * torch.eye(p)
    across = torch.linalg.solve(sigma, step)
    reads, middle = across / (step @ across), (blue.mean(0) + red.mean(0)) / 2
    assert torch.allclose(sae.direction([0])[0].double(), step, rtol=1e-3, atol=1e-4 * float(step.norm()))
    codes = ((red - middle) @ reads).clamp(max=0).neg()
    found = sae.encode(red.float())[:, 1].double()
    assert float((found - codes).norm()) < 0.01 * float(codes.norm())
    plain = sample(shapes.model, text(shapes, RED), size=(16, 16))
    assert not torch.equal(sample(steered(given), text(shapes, RED), size=(16, 16)), plain)
    assert torch.equal(sample(shapes.model, text(shapes, RED), size=(16, 16)), plain)


def test_ways_are_told_and_auto_is_whitened_where_the_text_enters(shapes, contrast):
    pairs = {
        "clip": shapes.clip, "positive_texts": f"{BLUE}\nblue cross top small grey",
        "negative_texts": f"{RED}\nred cross top small grey",
    }  # fmt: skip
    made = {way: contrast(**pairs, contrast_by=way) for way in ("auto", "whitened", "mean", "pca")}
    first = {way: given.result[3].splitlines()[0].partition(":")[0] for way, given in made.items()}
    assert [name.rpartition(", ")[2] for name in list(first.values())[1:]] == ["whitened", "mean", "pca"]
    owners = {way: given.result[0].owner for way, given in made.items()}
    assert owners["auto"] == owners["whitened"] and len(set(owners.values())) == 3
    later = {"location": "transformer_blocks.0", "stream": "text"}
    assert contrast(**later).result[0].owner == contrast(**later, contrast_by="mean").result[0].owner


@pytest.fixture
def folders():
    yield
    shutil.rmtree(folder_paths.get_output_directory() + "/sae", ignore_errors=True)
    folder_paths.filename_list_cache.clear()


def test_saved_directions_are_listed_and_loaded_as_they_were(node_classes, shapes, contrast, steered, folders):
    given = contrast(
        clip=shapes.clip, positive_texts=BLUE, negative_texts=RED, location="double_blocks.0-1", stream="text"
    )
    name = run_node(node_classes["SaveDirections"], sae=given.result[0], name="blue for red").result[0]
    assert name == "blue for red/*"
    listed = node_classes["LoadSAE"].INPUT_TYPES()["required"]["sae_name"][1]["options"]
    assert {name, "blue for red/transformer_blocks.0-text/model.safetensors"} <= set(listed)
    loaded = run_node(node_classes["LoadSAE"], sae_name=name, location="auto", stream="auto").result[0]
    assert loaded.owner == given.result[0].owner
    for one, other in zip(loaded.members, given.result[0].members, strict=True):
        assert one.site == other.site and one.sae.contrast == other.sae.contrast
        assert one.sae.trained_on.identity == other.sae.trained_on.identity != ""
        assert one.sae.trained_on.family == "FLUX.1"
        assert torch.equal(one.sae.direction([0, 1]), other.sae.direction([0, 1]))
        assert torch.equal(one.sae.statistics.mean, other.sae.statistics.mean)
    assert notebooks().of(loaded).names == {0: BLUE, 1: RED, 2: BLUE, 3: RED}
    first, second = (
        sample(steered(given, sae=sae), text(shapes, RED), size=(16, 16)) for sae in (given.result[0], loaded)
    )
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match=r"^sae: .* was trained and is no contrast; write it with Export SAE"):
        run_node(node_classes["SaveDirections"], sae=shapes.sae, name="x")
    with pytest.raises(ValueError, match=r"^name: '\.\./x' is not the name of a folder inside output/sae"):
        run_node(node_classes["SaveDirections"], sae=given.result[0], name="../x")


def test_the_other_nodes_take_directions_as_they_take_an_sae(node_classes, shapes, contrast, steered):
    sae, features, replaces, _ = contrast(location="transformer_blocks.1", stream="image").result
    prompt, place = text(shapes, BLUE), {"location": "auto", "stream": "auto"}
    drawn = sample(shapes.model, prompt, steps=4, size=(16, 16))
    heat = run_node(
        node_classes["FeatureHeatmap"], model=shapes.model, sae=sae, features=features, positive=prompt,
        image=shapes.vae.decode(drawn), latent={"samples": drawn}, percent=0.5, steps=1, threshold=0.5, seed=1, **place,
    ).result  # fmt: skip
    inside, outside = heat[1][0, 48:80, 24:52], heat[1][0, :, 96:]  # of a big square on the left
    assert float(inside.mean()) > 0.5 > 0.1 > float(outside.mean())
    sheet = run_node(
        node_classes["SteeringSweep"], model=shapes.model, vae=shapes.vae, sae=sae, features=features, method="add",
        unit="raw", strengths="1, 4", controls=True, positive=prompt, negative=prompt, latent_image=LATENT, seed=1,
        steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0, **place,
    ).result[0]  # fmt: skip
    assert sheet.shape[1] > 128 and sheet.shape[2] > 3 * 128
    early, blue, red, _ = contrast().result  # where a swap acts
    calibrated = run_node(
        node_classes["CalibrateStrength"], model=shapes.model, sae=early, features=blue, positive=text(shapes, RED),
        latent_image=LATENT, seed=1, steps=2, method="swap", save=False, replaces=red, **place,
    ).result[0]  # fmt: skip
    [edit] = calibrated
    assert edit.unit == "calibrated" and 0.3 < edit.calibration.clear < 2
    mixed = run_node(
        node_classes["FeatureMixer"], sae=sae, mix='{"rows": [{"feature": 0, "strength": 2, "unit": "raw"}]}'
    ).result[0]
    recipe = run_node(
        node_classes["SaveRecipe"], sae=sae, features=features, replaces=replaces, method="auto", strength=1.0,
        unit="auto", start_percent=0.0, end_percent=1.0, apply_to="both", name="contrast", note="", **place,
    ).result[0]  # fmt: skip
    loaded = run_node(node_classes["LoadRecipe"], model=shapes.model, recipe=recipe, strength=1.0, sae=sae).result[0]
    by_hand, by_recipe = (sample(model, text(shapes, RED), size=(16, 16)) for model in (steered(contrast(
        location="transformer_blocks.1", stream="image")), loaded))  # fmt: skip
    assert torch.equal(by_hand, by_recipe)
    added = run_node(
        node_classes["FluxActivationSteer"], model=shapes.model, sae=sae, features=mixed, **STEER
    ).result[0]  # fmt: skip
    assert not torch.equal(sample(added, prompt, size=(16, 16)), sample(shapes.model, prompt, size=(16, 16)))


def test_pictures_of_two_colours_differ_in_colour(node_classes, shapes):
    def pictures(colour, count):
        drawn, _ = draw(
            [Prompt(colour, "square", "left", "big", "white")] * count, torch.Generator().manual_seed(count)
        )
        return drawn.movedim(1, -1)

    def run(positive, negative, **more):
        given = {
            "model": shapes.model, "vae": shapes.vae, "positive_pictures": positive, "negative_pictures": negative,
            "prompt": text(shapes, ""), "seed": 3, "seeds": 2, "levels": 2, "location": "auto", "stream": "auto",
            **more,
        }  # fmt: skip
        return run_node(node_classes["ContrastPictures"], **given).result

    sae, features, replaces, table = run(pictures("blue", 3), pictures("red", 2), location="transformer_blocks.1.attn")
    assert sae.site.stream == "image" and sae.contrast.positive == ("3 pictures",)
    assert sae.contrast.negative == ("2 pictures",) and sae.contrast.runs == 4
    assert "6 and 4 runs of each side" in table and features and replaces
    seen = []
    handle = shapes.model.model.diffusion_model.get_submodule("double_blocks.1.img_attn.proj").register_forward_hook(
        lambda module, args, output: seen.append(output.clone())
    )
    try:
        run(pictures("blue", 1), pictures("red", 1), seeds=1, levels=1, location="transformer_blocks.1.attn")
    finally:
        handle.remove()
    sigma, latent = (
        0.5,
        shapes.model.get_model_object("latent_format").process_in(shapes.vae.encode(pictures("red", 1))),
    )
    noise = comfy.sample.prepare_noise(latent, 3)
    x, (tokens, extra) = (1 - sigma) * latent + sigma * noise, text(shapes, "")[0]
    again = []
    handle = shapes.model.model.diffusion_model.get_submodule("double_blocks.1.img_attn.proj").register_forward_hook(
        lambda module, args, output: again.append(output.clone())
    )
    try:
        shapes.model.model.apply_model(x, torch.tensor([sigma]), None, tokens, None, {}, y=extra["pooled_output"])
    finally:
        handle.remove()
    assert len(seen) == 4 and torch.allclose(seen[1], again[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"negative": None}, "negative: it is not connected; connect positive and negative, or clip"),
        ({"positive_texts": "x"}, "clip: texts are given, but what encodes them is not connected"),
        ({"location": "transformer_blocks.9"}, "location: transformer_blocks.9 names block 9"),
        ({"location": " ; "}, "location: ' ; ' names no place"),
        ({"location": "transformer_blocks.0", "stream": "joint"}, "stream: double blocks such as"),
        ({"negative": "positive"}, "positive, negative: there is no difference between them at transformer_blocks.0"),
    ],
)
def test_mistakes_with_conditionings_are_told(contrast, shapes, more, sentence):
    if more.get("negative") == "positive":
        more = {"negative": text(shapes, BLUE)}
    with pytest.raises(ValueError, match=sentence) as caught:
        contrast(**more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("positive", "negative", "sentence"),
    [
        ("", RED, "positive_texts: it is empty; write one prompt a line"),
        (f"{BLUE}\n{BLUE}", RED, "negative_texts: 1 lines came for 2 in positive_texts"),
        (f"{BLUE}\n{RED}", f"green\n{RED}", "negative_texts: line 2 says 'red square left big white' as"),
    ],
)
def test_mistakes_with_texts_are_told(contrast, shapes, positive, negative, sentence):
    with pytest.raises(ValueError, match=sentence):
        contrast(clip=shapes.clip, positive_texts=positive, negative_texts=negative)
    with pytest.raises(ValueError, match="clip: conditionings came as well"):
        contrast(clip=shapes.clip, positive=text(shapes, BLUE), positive_texts=BLUE)


def test_one_run_of_each_side_knows_no_chance(contrast):
    sae, *_, table = contrast(seeds=1).result
    assert sae.contrast.floor is None and "One run of a side tells nothing of chance" in table


def test_cancel_ends_it_and_leaves_no_hook(contrast, shapes):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        contrast()
    assert fingerprint(contrast().result[0]) == fingerprint(contrast().result[0])
