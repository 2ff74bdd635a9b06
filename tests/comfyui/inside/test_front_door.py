"""The front door with a MODEL: found, contrasted and steered as the nodes do it."""

import torch

import sae_steering_pack.sae as door
from sae_steering_pack.sae.places.site import parse_location
from tiny_flux import conditioning, make_sae, sample


def test_a_model_is_found_in_and_steered_as_by_a_hook(model):
    dictionary, site = make_sae(), parse_location("transformer_blocks.0", "image")
    dictionary.site = site

    def run(shown):
        return sample(shown, conditioning(2))

    found = door.find(dictionary, run, lambda shown: sample(shown, conditioning(3)), model=model, count=3)
    assert 1 <= len(found.features) <= 3
    plain = run(model)
    with door.steer(model, found.steering(0.5, "add")) as steered:
        changed = run(steered.result)
    assert steered.summary.steps > 0 and steered.summary.mean_ratio > 0
    assert not torch.equal(changed, plain) and torch.equal(run(model), plain)
    with door.steer(model, found.steering(0.0, "add")) as nothing:
        assert torch.equal(run(nothing.result), plain)


def test_a_contrast_of_a_model(model):
    concept = door.contrast(
        [lambda shown, s=s: sample(shown, conditioning(2), seed=s) for s in (0, 1)],
        [lambda shown, s=s: sample(shown, conditioning(3), seed=s) for s in (0, 1)],
        model=model,
    )
    assert concept.sae.trained_on.family == "FLUX.1" and concept.sae.d_sae == 2
    with door.steer(model, concept.steering()) as steered:
        sample(steered.result, conditioning(3))
    assert steered.summary.steps > 0
