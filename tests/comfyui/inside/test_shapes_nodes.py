"""The demo's nodes: the model is the one diffusers loads, latents travel as FLUX's do, prompts are conditionings."""

from __future__ import annotations

import comfy.sample
import pytest
import torch

from sae_steering_pack.sae.demo.shapes import draw, held_out_prompts, parse_prompt
from sae_steering_pack.sae.demo.shapes_model import embed_prompts, pack, predict, unpack
from sae_steering_pack.sae.demo.shipped_weights import load_decoder, load_transformer
from tiny_flux import run_node

TEXT = "a big red square, left, on white"


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture(scope="module")
def conditioning(node_classes):
    return node_classes["ShapesPrompt"].execute(TEXT).result[0]


def test_a_prompt_is_its_words_and_a_neutral_pooled_vector(conditioning):
    text, extra = conditioning[0]
    assert torch.equal(text, embed_prompts([parse_prompt(TEXT)]))
    assert extra["pooled_output"].shape == (1, 16) and not extra["pooled_output"].any()


def test_pictures_survive_the_vae_and_odd_sizes_are_cut(shapes):
    vae = shapes[1]
    pictures, _ = draw(held_out_prompts()[:6])
    images = pictures.movedim(1, -1)
    latents = vae.encode(images)
    assert latents.shape == (6, 16, 16, 16)
    assert float((vae.decode(latents) - images).abs().mean()) < 0.01
    assert vae.encode(images[:, :100, :90]).shape == (6, 16, 12, 11)


def test_core_sampling_draws_what_diffusers_draws(shapes, conditioning):
    model, vae = shapes[:2]
    noise = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    drawn = comfy.sample.sample(
        model, noise, 4, 1.0, "euler", "simple", conditioning, conditioning, torch.zeros_like(noise), seed=0
    )
    transformer, tokens, text = load_transformer(), pack(noise), conditioning[0][0].expand(2, -1, -1)
    with torch.no_grad():
        for sigma in (1.0, 0.75, 0.5, 0.25):
            tokens = tokens - 0.25 * predict(transformer, tokens, torch.full((2,), sigma), text)
        expected = load_decoder()(unpack(tokens)).movedim(1, -1)
    assert torch.allclose(vae.decode(drawn), expected, atol=2e-3)


def test_the_set_has_every_attention_output_of_the_picture(shapes):
    found = shapes[6]
    sites = [f"transformer_blocks.{n}.attn (image)" for n in range(2)]
    sites += [f"single_transformer_blocks.{n}.attn (image)" for n in range(4)]
    assert [str(member.site) for member in found.members] == sites
    assert found.members[1].sae.owner == shapes[3].owner


def test_saes_know_their_sites(shapes):
    sites = [str(sae.site) for sae in shapes[2:5]]
    assert sites == ["transformer_blocks.0 (text)", "transformer_blocks.1.attn (image)", "transformer_blocks.1 (image)"]
