"""TrainEmbedSAE in ComfyUI, on the small Kandinsky's encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
from PIL import Image

from sae_steering_pack.sae.demo.shapes import draw, training_prompts
from sae_steering_pack.sae.drawing.pictures import to_image
from sae_steering_pack.sae.hosts.comfyui.own_folders import output_folder
from sae_steering_pack.sae.hosts.kandinsky import embed_texts, encode_pictures
from tiny_flux import run_node

PICTURES = 40
TEXTS = [" ".join(prompt.words) for prompt in training_prompts()[:30]]


@pytest.fixture(scope="module")
def prior(node_classes):
    return node_classes["LoadShapesKandinsky"].execute().result[0]


@pytest.fixture(scope="module")
def pictures():
    folder = Path(folder_paths.get_input_directory()) / "drawn" / "below"
    folder.mkdir(parents=True)
    drawn = draw(training_prompts()[:PICTURES], torch.Generator().manual_seed(0), 64)[0]
    for number, picture in enumerate(drawn):
        to_image(picture).save(folder / f"{number:02}.png")
    yield sorted(folder.iterdir())
    shutil.rmtree(folder.parent)


@pytest.fixture
def train(node_classes, prior):
    def run(**more):
        inputs = {"encoder": prior, "folder": "drawn", "texts": "", "name": "clip", "d_sae": 32, "k": 4, "steps": 200}
        return run_node(node_classes["TrainEmbedSAE"], **{**inputs, **more}).result

    yield run
    for folder in (Path(folder_paths.models_dir) / "sae", output_folder() / "training"):
        shutil.rmtree(folder, ignore_errors=True)


def test_an_sae_of_pictures_fits_their_embeddings_and_is_of_them(train, prior, pictures, node_classes) -> None:
    sae, report = train()
    told = json.loads((Path(folder_paths.models_dir) / "sae" / "clip" / "report.json").read_text())
    assert (sae.d_in, sae.d_sae, sae.architecture.k, sae.site) == (64, 32, 4, None)
    assert told["source"]["items"] == PICTURES and f"{told['fit']['explained_variance']:.4f}" in report
    x = encode_pictures(prior, [Image.open(file) for file in pictures]).image_embeds.double()
    error = (sae.reconstruct(x.float()) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert 1 - float(error) > 0.5
    assert not (output_folder() / "training").exists() or not list((output_folder() / "training").iterdir())
    assert train()[0].owner == sae.owner  # done before
    with pytest.raises(ValueError, match=r"^name: models/sae/clip is there already"):
        train(seed=1)


def test_texts_are_encoded_as_texts(train, prior) -> None:
    sae, _ = train(folder="", texts="\n".join(TEXTS), steps=150)
    x = embed_texts(prior, TEXTS).double()
    assert float((sae.reconstruct(x.float()) - x).square().sum() / (x - x.mean(dim=0)).square().sum()) < 0.7


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"folder": ""}, r"^folder, texts: neither came"),
        ({"texts": "a cat"}, r"^folder, texts: both came"),
        ({"folder": "", "texts": "a cat\na dog"}, r"^data: 2 came, but 10 or more are needed"),
        ({"folder": "absent"}, r"^data: .*absent is no folder with pictures"),
        ({"folder": "../models"}, r"^folder: '\.\./models' is not the name of a folder inside .*/input"),
        ({"k": 33}, r"^k: 33 of 32 features cannot be active"),
        ({"name": "a/../.."}, r"^name: .* is not the name of a folder inside models/sae"),
    ],
)
def test_bad_input_is_told_in_a_sentence(train, pictures, wrong, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(**wrong)
    assert not (output_folder() / "training").exists()


def test_an_encoder_of_the_other_kind_is_told(train, node_classes, pictures) -> None:
    clip = run_node(node_classes["LoadShapesDemo"]).result[5]
    with pytest.raises(ValueError, match=r"^encoder: a CLIP reads texts, but these are pictures"):
        train(encoder=clip)
