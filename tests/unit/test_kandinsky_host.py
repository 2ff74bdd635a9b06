"""Our use of diffusers' Kandinsky 2.2, against diffusers' own pipelines and a loop written out."""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from sae.hosts.kandinsky import KandinskyHalf, Window, check_embeds, check_size, draw, encode_pictures, run_prior
from tiny_kandinsky import by_hand, plain_decoder, plain_prior, save_random


def quiet(done, total, latents):
    pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("kandinsky"))


@pytest.fixture(scope="module")
def prior(folders):
    return KandinskyHalf(folders[0], "prior")


@pytest.fixture(scope="module")
def decoder(folders):
    return KandinskyHalf(folders[1], "decoder")


def embeds(batch=1, seed=1):
    return torch.randn(batch, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("negative", "guidance"), [("", 4.0), ("blue", 3.0), ("", 1.0), ("  ", 2.0)])
def test_the_prior_is_diffusers(prior, folders, negative, guidance):
    ours = run_prior(prior, ["red square"], negative, 5, guidance, [11], quiet)
    theirs = plain_prior(folders[0])(
        "red square",
        negative_prompt=negative.strip() or None,
        num_inference_steps=5,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(11),
    )
    assert torch.allclose(ours.embeds, theirs.image_embeds, atol=1e-5)
    assert torch.allclose(ours.negative, theirs.negative_image_embeds, atol=1e-5)
    other = run_prior(prior, ["red square"], negative, 5, guidance, [12], quiet)
    assert not torch.allclose(ours.embeds, other.embeds, atol=1e-2)


def test_pictures_are_encoded_as_diffusers_does(prior, folders):
    pictures = [Image.effect_noise((90, 70), 80).convert("RGB"), Image.new("RGB", (64, 64), (200, 10, 30))]
    ours = encode_pictures(prior, pictures)
    pipeline = plain_prior(folders[0])
    for row, picture in zip(ours.image_embeds, pictures, strict=True):
        pixels = pipeline.image_processor(picture, return_tensors="pt").pixel_values
        seen = pipeline.image_encoder(pixels, output_hidden_states=True)
        assert torch.allclose(row, seen.image_embeds[0], atol=1e-5)
    assert torch.allclose(ours.penultimate_hidden_states[1], seen.hidden_states[-2][0], atol=1e-5)
    assert torch.allclose(ours.blank, pipeline.get_zero_embed(), atol=1e-5)


@pytest.mark.parametrize(("batch", "guidance", "side"), [(1, 4.0, 64), (3, 2.0, 32), (1, 1.0, 48)])
def test_the_decoder_is_diffusers(decoder, folders, batch, guidance, side):
    rows, negative = embeds(batch), embeds(1, 2)
    ours = draw(decoder, rows, negative, (64, side), 4, guidance, [3], quiet)
    theirs = plain_decoder(folders[1])(
        rows,
        negative.expand(batch, -1),
        width=64,
        height=side,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    assert ours.shape == (batch, side, 64, 3)
    assert torch.allclose(ours, torch.from_numpy(theirs), atol=1e-5)


@pytest.mark.parametrize(
    ("start", "end", "steered"), [(0, 1, "1111"), (0.4, 1, "0111"), (0, 0.4, "1000"), (0.3, 0.7, "0100")]
)
def test_in_its_window_the_decoder_sees_the_steered_embedding(decoder, folders, start, end, steered):
    """The four steps have the timesteps 750, 500, 250 and 0 of 999."""
    plain, other, negative = embeds(), embeds(1, 5), embeds(1, 2)
    ours = draw(decoder, plain, negative, (64, 64), 4, 3.0, [8], quiet, Window(other, start, end))
    with torch.no_grad():
        expected = by_hand(
            plain_decoder(folders[1]), lambda i: other if steered[i] == "1" else plain, negative, 4, 3.0, 8
        )
    assert torch.allclose(ours, expected, atol=1e-5)


def test_a_window_of_the_same_embedding_changes_nothing(decoder):
    rows, negative = embeds(), embeds(1, 2)
    one = draw(decoder, rows, negative, (64, 64), 3, 3.0, [8], quiet)
    two = draw(decoder, rows, negative, (64, 64), 3, 3.0, [8], quiet, Window(rows.clone(), 0.3, 0.6))
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match=r"start_percent, end_percent: 0\.8 and 0\.2 came"):
        Window(rows, 0.8, 0.2)


def test_each_step_is_told_and_can_stop_the_run(prior, decoder):
    told = []

    def stop(done, total, latents):
        told.append((done, total, tuple(latents.shape)))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(decoder, embeds(), embeds(1, 2), (64, 64), 6, 3.0, [8], stop)
    with pytest.raises(KeyboardInterrupt):
        run_prior(prior, ["red"], "", 6, 3.0, [8], stop)
    assert told == [(1, 6, (1, 4, 16, 16)), (2, 6, (1, 4, 16, 16)), (1, 6, (1, 64)), (2, 6, (1, 64))]


# What users get wrong


def test_sizes(decoder):
    check_size(decoder, 64, 48)
    with pytest.raises(ValueError, match="width: 100 is no multiple of 16, which this decoder needs; use 96 or 112"):
        check_size(decoder, 100, 64)
    with pytest.raises(ValueError, match="height: 8 is no multiple of 16, which this decoder needs; use 16 or 32"):
        check_size(decoder, 64, 8)


def test_embeddings_of_another_encoder(decoder):
    with pytest.raises(ValueError, match=r"embed: it has image_embeds 1280 \(CLIP ViT-bigG\), but this decoder needs"):
        check_embeds(decoder, "embed", torch.zeros(1, 1280))
    with pytest.raises(ValueError, match="negative: it has no image_embeds; this decoder needs image_embeds 64"):
        check_embeds(decoder, "negative", None)
    with pytest.raises(ValueError, match="embed: its image_embeds are empty, NaN or infinite"):
        check_embeds(decoder, "embed", torch.full((1, 64), float("nan")))
    with pytest.raises(ValueError, match="negative: it has 2 rows for 3 pictures; give one or 3"):
        draw(decoder, embeds(3), embeds(2), (64, 64), 2, 2.0, [1], quiet)


def test_one_step_is_too_few_for_the_prior(prior):
    with pytest.raises(ValueError, match="steps: 1 came, but the prior's schedule needs 2 or more"):
        run_prior(prior, ["red"], "", 1, 4.0, [0], quiet)


def spoil(folder, part=None, index=None, text=None):
    if part:
        shutil.rmtree(folder / part)
    if index:
        known = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**known, **index}))
    if text is not None:
        (folder / "model_index.json").write_text(text)


@pytest.mark.parametrize(
    ("half", "damage", "message"),
    [
        ("decoder", {"part": "movq"}, "decoder: it is incomplete, it lacks movq; download it again"),
        ("prior", {"part": "tokenizer"}, "is incomplete, it lacks tokenizer"),
        ("decoder", {"index": {"_class_name": "KandinskyPipeline"}}, "holds a KandinskyPipeline; choose a diffusers"),
        ("prior", {"index": {"_class_name": "KandinskyPriorPipeline"}}, "holds a KandinskyPriorPipeline"),
        ("decoder", {"index": {"_class_name": "KandinskyV22InpaintPipeline"}}, "holds a KandinskyV22InpaintPipeline"),
        ("decoder", {"text": "{"}, "has an model_index.json that cannot be read"),
        ("decoder", {"text": "[]"}, "has an model_index.json that cannot be read"),
        ("decoder", {"index": {"scheduler": ["os", "system"]}}, "asks for the scheduler system; use one of DDPM"),
    ],
)
def test_folders_that_are_something_else(folders, tmp_path, half, damage, message):
    folder = tmp_path / "it"
    shutil.copytree(folders[half == "decoder"], folder)
    spoil(folder, **damage)
    with pytest.raises(ValueError, match=message):
        KandinskyHalf(folder, half)


def test_weights_that_are_missing_and_the_wrong_half(folders, tmp_path):
    folder = tmp_path / "it"
    shutil.copytree(folders[1], folder)
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="is incomplete, it lacks unet"):
        KandinskyHalf(folder, "decoder")
    with pytest.raises(ValueError, match="prior: decoder holds a KandinskyV22Pipeline; choose a diffusers folder"):
        KandinskyHalf(folders[1], "prior")
    with pytest.raises(ValueError, match=r"prior: nowhere has no model_index.json"):
        KandinskyHalf(tmp_path / "nowhere", "prior")


def test_fp16_files_alone_will_do(folders, tmp_path):
    half_files = plain_decoder(folders[1]).to(torch.float16)
    half_files.save_pretrained(tmp_path / "fp16", variant="fp16")
    ours = draw(KandinskyHalf(tmp_path / "fp16", "decoder"), embeds(), embeds(1, 2), (64, 64), 2, 3.0, [1], quiet)
    exact = draw(KandinskyHalf(folders[1], "decoder"), embeds(), embeds(1, 2), (64, 64), 2, 3.0, [1], quiet)
    assert float((ours - exact).abs().max()) < 0.05 and not torch.equal(ours, exact)


def test_without_diffusers_a_sentence_tells_the_pip_line(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    half = KandinskyHalf(folders[1], "decoder")
    with pytest.raises(ImportError, match=r"Kandinsky 2\.2 needs diffusers, .*-m pip install diffusers, then restart"):
        half.part("unet")
