"""What does not belong together: other families' SAEs, places that a model lacks, masks that fit no frames."""

import re
from dataclasses import replace

import pytest
import torch

import tiny_families
from family_runs import sae_for, sample, steer, tiny
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.hosts.comfyui.model import family_in, family_lines, identity_of
from sae_steering_pack.sae.places.site import parse_location
from tiny_families import CASES
from tiny_flux import intervention, make_sae, sae_tensors

each_family = pytest.mark.parametrize("name", CASES)


# 4. A wrong family is refused by name


@each_family
def test_an_sae_of_another_family_is_refused_by_name(name):
    other = "Chroma" if name != "Chroma" else "FLUX.1"
    sae, place = sae_for(name, TrainedOn(other), name="found"), CASES[name].places[0]
    message = f"sae: found was trained on {other}, but this model is {name}; use an SAE that was trained on {name}."
    with pytest.raises(ValueError, match=re.escape(message)):
        host.steer(tiny(name), [intervention(sae, place.location, place.stream)], None)
    with pytest.raises(ValueError, match=re.escape(message)):
        host.observe(tiny(name), parse_location(place.location, place.stream), print, sae)


def test_what_is_said_of_a_fine_tune_and_of_an_sae_that_tells_nothing():
    model, other = tiny("FLUX.1"), tiny_families.build(CASES["FLUX.1"])
    tiny_families.fill(other.model.diffusion_model, seed=4)
    here = sae_for("FLUX.1", TrainedOn("FLUX.1", "mine", identity_of(model)), name="found")
    assert family_lines(model, here) == []
    [line] = family_lines(other, here)
    assert line.startswith("found was trained on another checkpoint of FLUX.1; on a fine-tune")
    unknown = make_sae(name="found")
    unknown.trained_on = None
    [line] = family_lines(model, unknown)
    assert line == "Nothing tells on which family of models found was trained; FLUX.1 is taken for granted."
    report = []
    steered = host.steer(other, [intervention(here, "transformer_blocks.1", "image")], report.append)
    sample("FLUX.1", steered)
    assert report[0].steps == 1


@pytest.mark.parametrize(
    ("name", "location", "stream", "message"),
    [
        (
            "Z-Image", "transformer_blocks.0", "image",
            "location: transformer_blocks.0 is no place in Z-Image: transformer_blocks are not among its blocks; this "
            "model has layers.0-1 (joint, text, image) with .input, .attention, .feed_forward, .update, none for the "
            "output.",
        ),
        ("Wan 2", "blocks.0", "text", "stream: text was asked at blocks.0, but the blocks of Wan 2 carry image; use"),
        ("Wan 2", "blocks.2", "image", "location: blocks.2 names block 2, but this model's blocks are 0 to 1."),
        ("Stable Diffusion 3", "transformer_blocks.0-1", "text", "its last block, 1, returns no text; this model has"),
        ("FLUX.2", "single_transformer_blocks.0.attn", "image", "its single blocks have no such point; this model has"),
        ("Qwen-Image", "single_transformer_blocks.0", "joint", "single_transformer_blocks are not among its blocks"),
    ],
)  # fmt: skip
def test_a_place_that_the_model_lacks(name, location, stream, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        host.steer(tiny(name), [intervention(sae_for(name), location, stream)], None)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["Krea 2", "Anima"])
def test_diffusers_name_of_the_blocks_is_a_synonym(name):
    model = tiny(name)
    place = next(place for place in CASES[name].places if place.location == "blocks.1")
    same = replace(place, location="transformer_blocks.1")
    assert torch.equal(sample(name, steer(name, model, place)), sample(name, steer(name, model, same)))


def test_a_class_of_another_pack_is_the_class_of_core_that_it_comes_from():
    model = tiny("FLUX.1")
    foreign = type("QuantizedFlux", (type(model.model),), {"__module__": "custom_nodes.other"})
    core = type("FluxOfTomorrow", (type(model.model),), {"__module__": "comfy.model_base"})
    network = model.model.diffusion_model
    assert family_in(object.__new__(foreign), network).name == "FLUX.1"
    assert family_in(object.__new__(core), network) is None


# Masks on video


def video_mask(frames):
    """The left half of the picture in the even entries, the right half in the odd ones."""
    mask = torch.zeros(frames, 64, 64)
    mask[0::2, :, :32] = 1
    mask[1::2, :, 32:] = 1
    return mask


@pytest.mark.parametrize(("name", "frames"), [("Wan 2", 3), ("Anima", 2)])
@pytest.mark.parametrize("entries", ["all", "each"])
def test_a_mask_on_a_video_is_for_each_frame_or_for_all(name, frames, entries):
    mask = video_mask(1 if entries == "all" else frames)
    model, seen = tiny(name), []
    place = next(place for place in CASES[name].places if place.location == "blocks.1")
    wanted = intervention(sae_for(name), "blocks.1", "image", strength=1.0, unit="raw", mask=mask)
    blocks = parse_location("blocks.1", "image")
    plain = host.observe(model, blocks, lambda x, moment: seen.append(x.clone()), sae_for(name))
    steered = host.steer(model, [wanted], lambda summary: None)
    both = host.observe(steered, blocks, lambda x, moment: seen.append(x.clone()), sae_for(name))
    assert place.spans[0][1] == frames * 16
    sample(name, plain)
    sample(name, both)
    delta = (seen[1] - seen[0])[0].view(frames, 4, 4, -1)
    direction = sae_tensors(128)["decoder"][3]
    for frame in range(frames):
        left = entries == "all" or frame % 2 == 0
        inside, outside = (
            (delta[frame, :, :2], delta[frame, :, 2:]) if left else (delta[frame, :, 2:], delta[frame, :, :2])
        )
        assert torch.allclose(inside, direction.expand_as(inside), atol=1e-5)
        assert not outside.any()


def test_a_mask_with_a_number_of_frames_that_fits_nothing():
    wanted = intervention(sae_for("Wan 2"), "blocks.1", "image", mask=video_mask(4))
    message = "mask: it has 4 entries, but the video has 3 frames in its latent; use one mask for all frames, 3, or one"
    with pytest.raises(ValueError, match=re.escape(message)):
        sample("Wan 2", host.steer(tiny("Wan 2"), [wanted], lambda summary: None))
