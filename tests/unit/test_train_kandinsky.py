"""Training of the small Kandinsky: the loop, each part's loss, and that training sees what the pipelines see."""

import random

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from lab.kandinsky import embed_sae, train_parts
from lab.kandinsky.losses import ClipLoss, MovqLoss, PriorLoss, UnetLoss, drawings, shuffled_caption
from lab.kandinsky.models import (
    EMBED_WIDTH,
    build_clip,
    build_movq,
    build_prior,
    build_tokenizer,
    build_unet,
    prior_pipeline,
)
from lab.train.loop import fit
from sae.demo.shapes import Prompt, parse_prompt, training_prompts
from sae.demo.shipped_weights import EMBED_SAE
from sae.drawing.pictures import to_image
from sae.formats import load
from sae.training.topk import TopKConfig


def seeded():
    return random.Random(1), torch.Generator().manual_seed(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Untrained parts, as training leaves them."""
    place = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    for name, part in (("clip", build_clip()), ("movq", build_movq())):
        torch.save(part.state_dict(), place / f"{name}.pt")
    return place


@pytest.fixture(scope="module")
def pool(folder):
    return train_parts.make_pool(folder, training_prompts()[:70])


def test_the_loop_learns_averages_and_carries_on(tmp_path):
    torch.manual_seed(0)
    model, wanted = nn.Linear(3, 1), torch.tensor([[1.0, -2.0, 0.5]])
    seen = []

    def loss_of(rng, generator):
        x = torch.randn(32, 3, generator=generator)
        seen.append(x)
        return (model(x) - x @ wanted.T).square().mean()

    path = tmp_path / "it.pt"
    average = fit(model, loss_of, 300, 0.05, path)
    assert torch.allclose(model.weight, wanted, atol=0.02)
    assert not torch.equal(average["weight"], model.weight)
    assert torch.allclose(average["weight"], wanted, atol=0.6)
    assert len(seen) == 300 and torch.load(path, weights_only=True)["step"] == 300
    fresh = nn.Linear(3, 1)
    again = fit(fresh, loss_of, 300, 0.05, path)
    assert len(seen) == 300  # nothing was left to do
    assert torch.equal(again["weight"], average["weight"]) and torch.equal(fresh.weight, model.weight)


def test_captions_have_the_prompts_words_in_any_order():
    prompt = Prompt("red", "square", "left", "big", "white")
    captions = {shuffled_caption(prompt, random.Random(seed)) for seed in range(30)}
    assert len(captions) > 10 and all(parse_prompt(caption) == prompt for caption in captions)
    assert shuffled_caption(Prompt(colour="red"), random.Random(1)) == "red"


@pytest.mark.parametrize("part", ["clip", "movq", "unet", "prior"])
def test_a_step_lowers_each_parts_loss_on_its_own_batch(part, folder, pool):
    torch.manual_seed(5)
    made = {"clip": build_clip, "movq": build_movq, "unet": build_unet, "prior": build_prior}[part]()
    loss_of = {
        "clip": lambda: ClipLoss(made, 16),
        "movq": lambda: MovqLoss(made, 4),
        "unet": lambda: UnetLoss(made, pool, 8),
        "prior": lambda: PriorLoss(made, train_parts.load_part(build_clip(), folder, "clip"), pool, 32),
    }[part]()
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    first = loss_of(*seeded())
    first.backward()
    optimizer.step()
    second = loss_of(*seeded())
    assert torch.isfinite(first) and float(second) < float(first)


@torch.no_grad()
def test_training_sees_the_embeddings_and_texts_that_the_pipeline_sees(folder, pool):
    clip = train_parts.load_part(build_clip(), folder, "clip")
    pipeline = prior_pipeline(clip, build_prior())
    pictures = drawings(training_prompts()[:3], torch.Generator().manual_seed(2))
    pixels = pipeline.image_processor([to_image(picture) for picture in pictures], return_tensors="pt").pixel_values
    ours, theirs = train_parts.embed_pictures(clip, pictures), pipeline.image_encoder(pixels).image_embeds
    assert float(((ours - theirs).norm() / theirs.norm()).detach()) < 0.05  # a picture has 256 levels
    assert torch.allclose(pool.blank, pipeline.get_zero_embed(), atol=1e-5)
    tokens = build_tokenizer()(["red square", "small"], padding="max_length", return_tensors="pt")
    text = clip.text_model(input_ids=tokens.input_ids)
    theirs = pipeline.text_encoder(tokens.input_ids)
    assert torch.allclose(text.last_hidden_state, theirs.last_hidden_state, atol=1e-5)
    assert torch.allclose(clip.text_projection(text.pooler_output), theirs.text_embeds, atol=1e-5)


def test_the_pool_has_a_row_for_each_drawing(pool):
    assert pool.embeds.shape == (70, 64) and pool.latents.shape == (70, 4, 16, 16) and pool.blank.shape == (1, 64)


def test_an_sae_of_the_embeddings_is_written_with_its_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(embed_sae, "DRAWINGS", 1)
    monkeypatch.setattr(embed_sae, "FRESH_DRAWINGS", 1)
    encoder = prior_pipeline(build_clip(), build_prior()).image_encoder
    embed_sae.train_sae(encoder, tmp_path, TopKConfig(EMBED_WIDTH, d_sae=32, k=4, steps=10, batch_tokens=256))
    names = {file.name for file in (tmp_path / EMBED_SAE).iterdir()}
    assert names == {"config.json", "model.safetensors", "model.stats.safetensors", "evaluation.json"}
    assert load(tmp_path / EMBED_SAE / "model.safetensors").d_sae == 32
