"""The diffusers host where IP-Adapters hang on the attentions, which then return a third value for the picture."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from plain_hooks import hooked
from sae.hosts.diffusers import capture, steer
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import dense_directions, small_sae

flux = pytest.importorskip("diffusers.models.transformers.transformer_flux")

WIDTH, TEXT, IMAGE = 16, 5, 12
DIRECTION = dense_directions("relu", WIDTH)[7]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(8)
    transformer = flux.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=10,
        pooled_projection_dim=6,
        axes_dims_rope=(2, 2, 4),
    )
    for block in transformer.transformer_blocks:
        block.attn.set_processor(flux.FluxIPAdapterAttnProcessor(WIDTH, 7, num_tokens=(3,)))
    for parameter in transformer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return transformer.eval().requires_grad_(False)


def predict(model: nn.Module, adapter: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731
    return model(
        hidden_states=draw(1, IMAGE, 4),
        encoder_hidden_states=draw(1, TEXT, 10),
        pooled_projections=draw(1, 6),
        timestep=torch.full((1,), 0.75),
        img_ids=torch.cartesian_prod(torch.arange(1), torch.arange(3), torch.arange(4)).float(),
        txt_ids=torch.zeros(TEXT, 3),
        joint_attention_kwargs={"ip_hidden_states": [adapter * draw(1, 3, 7)]},
        return_dict=False,
    )[0]


@contextmanager
def shifted(model: nn.Module, block: int, place: int):
    """Adds 1.5 directions to one of the three values by nothing but register_forward_hook."""

    def hook(module, args, output):
        values = list(output)
        assert len(values) == 3
        values[place] = values[place] + 1.5 * DIRECTION
        return tuple(values)

    handle = model.transformer_blocks[block].attn.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(("stream", "place"), [("image", 0), ("text", 1)])
def test_attention_is_steered_and_the_adapters_part_passes_through(model, stream, place) -> None:
    plain = predict(model)
    assert (plain - predict(model, adapter=0.0)).abs().max() > 1e-3  # the adapter acts
    site = parse_location("transformer_blocks.1.attn", stream)
    steering = Steering(small_sae("relu", WIDTH), [Edit(7, 1.5)], "add", unit="raw")
    with shifted(model, 1, place):
        wanted = predict(model)
    with steer(model, [Intervention(steering, site)]) as record:
        torch.testing.assert_close(predict(model), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - plain).abs().max() > 1e-3
    assert record.summary().steps == 1
    assert torch.equal(predict(model), plain)


def test_capture_sees_the_attention_without_the_adapters_part(model) -> None:
    expected, seen = [], []
    handle = model.transformer_blocks[0].attn.register_forward_hook(
        lambda module, args, output: expected.append(output[0].clone())
    )
    plain = predict(model)
    handle.remove()
    with capture(model, parse_location("transformer_blocks.0.attn", "image"), lambda x, moment: seen.append(x.clone())):
        assert torch.equal(predict(model), plain)
    assert len(seen) == 1 and torch.equal(seen[0], expected[0])


@pytest.mark.parametrize(
    ("location", "stream"),
    [("transformer_blocks.1", "image"), ("transformer_blocks.1.ff", "image"), ("single_transformer_blocks.0", "image")],
)
def test_other_places_are_steered_as_without_an_adapter(model, location, stream) -> None:
    steering = Steering(small_sae("relu", WIDTH), [Edit(7, 1.5)], "add", unit="raw")
    with hooked(model, location, stream, lambda x, read: x + 1.5 * DIRECTION):
        wanted = predict(model)
    with steer(model, [Intervention(steering, parse_location(location, stream))]):
        torch.testing.assert_close(predict(model), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - predict(model)).abs().max() > 1e-3
