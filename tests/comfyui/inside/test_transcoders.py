"""A transcoder in ComfyUI: it reads an MLP's input and writes onto its output, as a plain hook in diffusers does."""

import pytest
import torch

from plain_hooks import hooked
from sae_steering_pack.sae.steering.edits import Edit
from tiny_flux import (
    conditioning,
    dense_codes,
    latent,
    predict,
    predict_diffusers,
    relative_difference,
    sae_tensors,
    steer,
)

SIGMA, EXACT, SEEN = 0.6, 1e-4, 1e-3
PLACES = (("transformer_blocks.0.ff.transcoder", "image"), ("transformer_blocks.1.ff_context.transcoder", "text"))
ONE = (Edit(3, 1.0, mean=2.0, density=0.5),)
OUT = (Edit(18, mean=1.5, density=0.5),)


def row(feature):
    return sae_tensors()["decoder"][feature]


METHODS = {
    "add": (
        {"method": "add", "strength": 0.4},
        lambda x, read: x + 0.4 * x.norm(dim=-1, keepdim=True) * row(3) / row(3).norm(),
    ),
    "set": (
        {"method": "set", "strength": 5.0, "unit": "raw"},
        lambda x, read: x + (5 - dense_codes(read)[..., [3]]) * row(3),
    ),
    "scale": ({"method": "scale", "strength": 3.0}, lambda x, read: x + 2 * dense_codes(read)[..., [3]] * row(3)),
    "swap": (  # means over all tokens: 2·0.5 comes in, 1.5·0.5 goes out
        {"method": "swap", "strength": 20.0, "replaces": OUT},
        lambda x, read: x + 20 * dense_codes(read)[..., [18]] * (row(3) / 0.75 - row(18)),
    ),
}


@pytest.fixture
def inputs():
    text, extra = conditioning()[0]
    return latent(10, 8, batch=2), SIGMA, text.expand(2, -1, -1), extra["pooled_output"].expand(2, -1)


@pytest.mark.parametrize(("location", "stream"), PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_equals_a_hook_that_reads_the_input(model, transformer, sae, inputs, location, stream, method):
    settings, change = METHODS[method]
    transcoder = sae.at(sae.site)
    transcoder.transcoder = True
    with hooked(transformer, location, stream, change):
        expected = predict_diffusers(transformer, *inputs)
    steered = predict(steer(model, transcoder, location, stream, features=ONE, **settings), *inputs)
    plain = predict(model, *inputs)
    assert relative_difference(steered, expected) < EXACT
    assert relative_difference(plain, expected) > SEEN
    assert torch.equal(predict(model, *inputs), plain)
