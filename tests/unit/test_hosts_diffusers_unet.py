"""The diffusers host on small random UNets against plain forward hooks: every kind of place, method and grid."""

from __future__ import annotations

import re

import pytest
import torch

import sae
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.hosts.diffusers import capture, depth_of, steer
from sae.places.moment import COND, UNCOND, Schedule
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import ARCHITECTURES, dense_codes, dense_decode, small_sae, tensors_of

pytest.importorskip("diffusers")

from small_unet import UNETS, call_of, hooked, small_unet

WIDTH = 64
DOWN = "down_blocks.2.attentions.1"
PLACES = {
    "Stable Diffusion 1": (DOWN, "up_blocks.1.attentions.2"),
    "Stable Diffusion 2": (DOWN, "up_blocks.1.attentions.2"),
    "SDXL": (DOWN, "up_blocks.0.attentions.1"),
    "SDXL Refiner": (DOWN, "up_blocks.1.attentions.0"),
    "Kandinsky 2.2": ("down_blocks.1.attentions.0", "up_blocks.0.attentions.1"),
}
INSIDE = ("", ".update", ".attn1", ".attn2", ".ff")
LOCATIONS = [
    (name, location)
    for name, (down, up) in PLACES.items()
    for location in (
        down, f"{down}.update", "mid_block.attentions.0", "mid_block.attentions.0.update", up, f"{up}.update",
        *(f"{down}.transformer_blocks.0{point}" for point in INSIDE if name != "Kandinsky 2.2"),
    )
]  # fmt: skip
every_place = pytest.mark.parametrize(("name", "location"), LOCATIONS)


@pytest.fixture(scope="module")
def unets():
    return {name: small_unet(name) for name in UNETS}


def predict(unet, name, **more):
    with torch.inference_mode():
        return unet(**call_of(name, **more)).sample


def adding(location, mask=None, **more):
    steering = Steering(small_sae(d_in=WIDTH), [Edit(3)], "add", 4.0, "raw")
    return Intervention(steering, parse_location(location), mask=mask, **more)


def left(unet):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


DIRECTION = tensors_of("topk", WIDTH)["decoder"][3]
METHODS = {
    "add": lambda x, read: x + 4 * DIRECTION,
    "scale": lambda x, read: x - 3 * dense_codes("topk", read)[..., 3:4] * DIRECTION,
    "set": lambda x, read: x + (4 - dense_codes("topk", read)[..., 3:4]) * DIRECTION,
    "surgery": lambda x, read: x - read + dense_decode("topk", dense_codes("topk", read), read) + 4 * DIRECTION,
    "project_out": lambda x, read: x - 4 * (read @ DIRECTION)[..., None] * DIRECTION / DIRECTION.square().sum(),
}


@every_place
@pytest.mark.parametrize("more", [{}, {"batch": 3, "height": 10, "width": 18}], ids=["plain", "batch 3, odd grids"])
def test_steering_equals_a_plain_hook(unets, name, location, more):
    unet = unets[name]
    before = predict(unet, name, **more)
    with hooked(unet, location, METHODS["add"]):
        wanted = predict(unet, name, **more)
    with steer(unet, [adding(location)]) as record:
        found = predict(unet, name, **more)
    assert (wanted - before).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert record.summary().steps == 1 and left(unet) == 0
    assert torch.equal(predict(unet, name, **more), before)
    nothing = Intervention(Steering(small_sae(d_in=WIDTH), [Edit(3)], "add", 0.0, "raw"), parse_location(location))
    with steer(unet, [nothing]):
        assert torch.equal(predict(unet, name, **more), before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("location", [DOWN, f"{DOWN}.update", f"{DOWN}.transformer_blocks.0-1.attn2"])
def test_every_method_reads_and_changes_what_a_plain_hook_does(unets, method, location):
    unet = unets["SDXL"]
    strength = -2.0 if method == "scale" else 4.0
    wanted = Intervention(
        Steering(small_sae(d_in=WIDTH), [Edit(3)], method, strength, "raw"), parse_location(location)
    )  # fmt: skip
    with hooked(unet, location, METHODS[method]):
        expected = predict(unet, "SDXL")
    with steer(unet, [wanted]):
        found = predict(unet, "SDXL")
    assert (expected - predict(unet, "SDXL")).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def weights_by_hand(mask, step):
    """The mean of the mask's cells under each token, whose last ones repeat at the edge."""
    rows, columns = (-(-side // step) for side in mask.shape)
    last = [side - 1 for side in mask.shape]
    return torch.tensor([
        [
            sum(
                float(mask[min(row * step + i, last[0]), min(column * step + j, last[1])])
                for i in range(step) for j in range(step)
            ) / step**2
            for column in range(columns)
        ]
        for row in range(rows)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("location", "step"),
    [(f"{DOWN}.transformer_blocks.0", 4), (DOWN, 4), ("mid_block.attentions.0.update", 8), (f"{DOWN}.update", 4)],
)  # fmt: skip
def test_a_mask_lies_over_each_sites_own_grid(unets, location, step):
    """13 × 18 latent cells: 4 × 5 tokens at a quarter, 2 × 3 at an eighth."""
    cells = torch.zeros(13, 18)
    cells[3:9, 5:18] = 1
    mask = cells.repeat_interleave(8, 0).repeat_interleave(8, 1)
    unet, seen = unets["Stable Diffusion 1"], []
    size = {"height": 13, "width": 18}
    site = parse_location(location)
    with capture(unet, site, lambda x, moment: seen.append((x.clone(), moment))):
        predict(unet, "Stable Diffusion 1", **size)
        with steer(unet, [adding(location, mask)]), capture(unet, site, lambda x, moment: seen.append((x, moment))):
            predict(unet, "Stable Diffusion 1", **size)
    weights = weights_by_hand(cells, step)
    assert seen[0][1].grid == tuple(weights.shape) and 0 < weights.mean() < 1
    moved = seen[-1][0] - seen[0][0]
    torch.testing.assert_close(moved[0], 4 * weights.flatten()[:, None] * DIRECTION, rtol=1e-4, atol=1e-4)


def test_sides_schedule_and_the_time_step(unets):
    unet = unets["SDXL"]
    name, plain = "SDXL", predict(unets["SDXL"], "SDXL", batch=2)
    with steer(unet, [adding(DOWN, side="cond")], sides=(UNCOND, COND)):
        found = predict(unet, name, batch=2)
    assert torch.equal(found[0], plain[0]) and not torch.allclose(found[1], plain[1])
    with steer(unet, [adding(DOWN, schedule=Schedule(0.0, 0.4))]):
        assert torch.equal(predict(unet, name, batch=2, timestep=500), plain)
        early = predict(unet, name, batch=2, timestep=900)
    assert not torch.equal(early, predict(unet, name, batch=2, timestep=900))


def test_an_exception_leaves_no_hook(unets):
    with pytest.raises(RuntimeError, match="stop"), steer(unets["SDXL"], [adding(DOWN)]):
        raise RuntimeError("stop")
    assert left(unets["SDXL"]) == 0


def test_the_front_door_takes_a_unet(unets):
    """Found, contrasted and steered as with any other model, by either project's names."""
    unet = unets["SDXL"]
    dictionary = SparseAutoencoder.from_tensors(
        tensors_of("topk", WIDTH), ARCHITECTURES["topk"], name="mine", site=parse_location(f"{DOWN}.update")
    )

    def draw(seed, text=0.0):
        given = call_of("SDXL")
        given["encoder_hidden_states"] = given["encoder_hidden_states"] + text
        given["sample"] = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        return lambda model: model(**given).sample

    found = sae.find(dictionary, draw(1), draw(2), model=unet, count=3)
    plain = predict(unet, "SDXL")
    with sae.steer(unet, found.steering(), location="input_blocks.8.1.update") as steered:
        theirs = predict(unet, "SDXL")
    assert steered.summary.steps == 1
    with sae.steer(unet, found.steering()):
        assert torch.equal(predict(unet, "SDXL"), theirs)
    assert not torch.equal(theirs, plain)
    concept = sae.contrast([draw(1, 3.0), draw(2, 3.0)], [draw(1, -3.0), draw(2, -3.0)], model=unet)
    assert {member.site.location for member in concept.sae.members} <= {
        f"{path}.update"
        for path in (
            "down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "mid_block.attentions.0",
            "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.0.attentions.2",
        )
    }  # fmt: skip
    with sae.steer(unet, concept.steering()):
        assert not torch.equal(predict(unet, "SDXL"), plain)


@pytest.mark.parametrize("name", UNETS)
def test_the_config_tells_the_family_and_the_places(unets, name):
    from sae.hosts.diffusers import DiffusersModel

    host = DiffusersModel(unets[name])
    paths = {path for path, module in unets[name].named_modules() if path.rpartition(".")[0].endswith(".attentions")}
    assert host.family.name == name and {one.path for one in depth_of(unets[name]).attentions} == paths


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("down_blocks.1.attentions.0", "at down_blocks.1.attentions.0 this model has width 32; use an SAE that was"),
        ("transformer_blocks.0", "no place in SDXL: transformer_blocks are not among its blocks; this model has down_"),
        ("down_blocks.0.attentions.0", "names block 0, but this model's down_blocks.0.attentions are none at all."),
        ("input_blocks.1.1", "input_blocks.1.1 is no place in SDXL: there is no transformer; this model has down_bl"),
        (f"{DOWN}.attn1", "down_blocks.2.attentions have no point 'attn1'; they have .input, .update or none for"),
    ],
)
def test_what_does_not_belong_is_refused_by_name(unets, location, message):
    steering = Steering(small_sae(d_in=WIDTH), [Edit(3)], "add")
    with pytest.raises(ValueError, match=re.escape(message)), sae.steer(unets["SDXL"], steering, location=location):
        pass


def test_other_networks_are_no_unets():
    with pytest.raises(ValueError, match="Linear came; give a MODEL of ComfyUI, or diffusers' FluxTransformer2DModel"):
        sae.contrast([print], [print], model=torch.nn.Linear(2, 2))
