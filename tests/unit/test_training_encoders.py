"""Encoders from local folders: random ones of transformers' own classes, and the demo's Kandinsky prior."""

import json

import pytest
import torch
from PIL import Image

from sae.demo.shipped_weights import WEIGHTS
from sae.hosts.encoders import load_pipeline, needed_package, picture_encoder, text_encoder

transformers = pytest.importorskip("transformers")
PRIOR = WEIGHTS / "shapes-kandinsky-prior"
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    for number, colour in enumerate(("red", "blue", "white")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(3)]


def saved(model, folder):
    model.eval().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = {"image_processor_type": "CLIPImageProcessor", "size": size, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def pixels_of(folder, pictures):
    processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
    return processor([Image.open(file).convert("RGB") for file in pictures], return_tensors="pt").pixel_values


def test_clip_gives_its_projection_and_dino_what_it_pools(pictures, tmp_path):
    torch.manual_seed(0)
    clip = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION, projection_dim=12))
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**{k: v for k, v in VISION.items() if k[:5] != "inter"}))
    for model, field, width in ((clip, "image_embeds", 12), (dino, "pooler_output", 16)):
        folder = saved(model, tmp_path / field)
        found = picture_encoder(folder, "cpu")(pictures)
        with torch.no_grad():
            wanted = getattr(model(pixels_of(folder, pictures)), field)
        assert found.shape == (3, width)
        torch.testing.assert_close(found, wanted)
        assert (found[0] - found[1]).norm() > 1e-4


def test_the_prior_of_kandinsky_encodes_pictures_and_texts(pictures):
    pytest.importorskip("diffusers")
    from sae.hosts.kandinsky import KandinskyHalf, embed_texts, encode_pictures

    half = KandinskyHalf(PRIOR, "prior")
    opened = [Image.open(file).convert("RGB") for file in pictures]
    found = picture_encoder(PRIOR, "cpu")(pictures)
    torch.testing.assert_close(found, encode_pictures(half, opened).image_embeds)
    assert found.shape == (3, 64)
    texts = ["red circle", "blue square"]
    torch.testing.assert_close(text_encoder(PRIOR, "cpu")(texts), embed_texts(half, texts))


def test_what_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"source: it needs no_such_package, which is not installed: run .* pip install"
    ):
        needed_package("no_such_package.part", "source")
    with pytest.raises(ValueError, match=r"model: .* has no model_index\.json; give the folder of a FLUX pipeline"):
        load_pipeline(tmp_path, "cpu")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"data: broken\.png is no picture"):
        picture_encoder(PRIOR, "cpu")([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match=r"this config of an encoder cannot be read"):
        picture_encoder(tmp_path / "absent", "cpu")
