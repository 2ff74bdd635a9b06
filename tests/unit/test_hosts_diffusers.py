"""The diffusers host against plain forward hooks that are written out here, on a tiny random FLUX."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sae.hosts.diffusers import capture, depth_of, steer
from sae.places.depth import Depth
from sae.places.moment import COND, UNCOND, Moment, Schedule
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import dense_codes, dense_decode, small_sae

pytest.importorskip("diffusers.models.transformers.transformer_flux")

from small_flux import (
    DIRECTION,
    WIDTH,
    add_delta,
    adding,
    change_slice,
    hook_count,
    inputs,
    plain_hooks,
    predict,
    small_flux,
)  # fmt: skip

# One entry for each location and stream of design.md section 3
ROWS = [
    ("transformer_blocks.{}", "text"),
    ("transformer_blocks.{}", "image"),
    ("transformer_blocks.{}.input", "text"),
    ("transformer_blocks.{}.input", "image"),
    ("transformer_blocks.{}.update", "text"),
    ("transformer_blocks.{}.update", "image"),
    ("transformer_blocks.{}.attn", "image"),
    ("transformer_blocks.{}.attn", "text"),
    ("transformer_blocks.{}.ff", "image"),
    ("transformer_blocks.{}.ff_context", "text"),
    ("single_transformer_blocks.{}", "joint"),
    ("single_transformer_blocks.{}", "text"),
    ("single_transformer_blocks.{}", "image"),
    ("single_transformer_blocks.{}.input", "joint"),
    ("single_transformer_blocks.{}.input", "text"),
    ("single_transformer_blocks.{}.input", "image"),
    ("single_transformer_blocks.{}.update", "joint"),
    ("single_transformer_blocks.{}.update", "text"),
    ("single_transformer_blocks.{}.update", "image"),
    ("single_transformer_blocks.{}.attn", "joint"),
    ("single_transformer_blocks.{}.attn", "text"),
    ("single_transformer_blocks.{}.attn", "image"),
]
every_row = pytest.mark.parametrize(("location", "stream"), ROWS)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_flux()


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@every_row
@pytest.mark.parametrize(
    ("given", "image"),
    [
        ({}, 12),
        ({"batch": 2, "text": 8, "rows": 3, "columns": 5}, 15),
        ({"text": 3, "rows": 1, "columns": 7, "reference": 2}, 7),
    ],
    ids=["plain", "batch 2, long text, odd grid", "reference latents"],
)
def test_steering_equals_a_plain_hook(model, location: str, stream: str, given: dict[str, int], image: int) -> None:
    batch = inputs(**given)
    before = predict(model, batch)
    for blocks in ("0", "0-1"):
        intervention = adding(location.format(blocks), stream)
        with plain_hooks(model, intervention.site, text=given.get("text", 5), image=image):
            wanted = predict(model, batch)
        with steer(model, [intervention]) as record:
            close(predict(model, batch), wanted)
        assert (wanted - before).abs().max() > 1e-3
        assert record.summary().steps == 1 and hook_count(model) == 0
    assert torch.equal(predict(model, batch), before)


@every_row
def test_methods_that_read_get_the_right_activation(model, location: str, stream: str) -> None:
    """Surgery reads every feature: x becomes its reconstruction, and at an update site output - input does."""
    intervention = adding(location.format(1), stream, 0.0, "surgery")
    update = intervention.site.point == "update"

    def reconstruct(x: Tensor, before: Tensor | None) -> Tensor:
        reads = x - before if update and before is not None else x
        return x + dense_decode("relu", dense_codes("relu", reads), reads) - reads

    batch = inputs(batch=2)
    with plain_hooks(model, intervention.site, reconstruct):
        wanted = predict(model, batch)
    with steer(model, [intervention]):
        torch.testing.assert_close(predict(model, batch), wanted, rtol=1e-4, atol=1e-4)


@every_row
def test_capture_shows_what_an_independent_hook_sees(model, location: str, stream: str) -> None:
    site = parse_location(location.format("0-1"), stream)
    expected, seen, moments = [], [], []

    def watch(x: Tensor, before: Tensor | None) -> Tensor:
        expected.append((x - before if site.point == "update" and before is not None else x).clone())
        return x

    def see(x: Tensor, moment: Moment) -> None:
        seen.append(x.clone())
        moments.append(moment)

    batch = inputs(batch=2, reference=1)
    before = predict(model, batch)
    with plain_hooks(model, site, watch):
        predict(model, batch)
    with capture(model, site, see):
        assert torch.equal(predict(model, batch), before)
    assert len(seen) == len(expected) == 2
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert set(moments) == {Moment(0.75, (COND,), 5, 6, 8)}
    assert hook_count(model) == 0


def test_several_interventions_act_together(model) -> None:
    parts = [adding("transformer_blocks.0.attn"), adding("transformer_blocks.0", "text"), adding("single_blocks.1-2")]
    batch = inputs()
    with plain_hooks(model, parts[0].site), plain_hooks(model, parts[1].site), plain_hooks(model, parts[2].site):
        wanted = predict(model, batch)
    with steer(model, parts) as record:
        close(predict(model, batch), wanted)
    assert len(record._notes) == 4


@pytest.mark.parametrize("sides", [(COND, UNCOND), (UNCOND, COND)])
def test_sides_steer_their_rows_only(model, sides: tuple[int, ...]) -> None:
    batch = inputs(batch=4)
    plain = predict(model, batch)
    with steer(model, [adding("single_blocks.0")]):
        both = predict(model, batch)
    with steer(model, [adding("single_blocks.0", side="cond")], sides=sides):
        steered = predict(model, batch)
    cond = slice(0, 2) if sides[0] == COND else slice(2, 4)
    uncond = slice(2, 4) if sides[0] == COND else slice(0, 2)
    assert torch.equal(steered[uncond], plain[uncond])
    close(steered[cond], both[cond])


def test_the_schedule_reads_the_timestep(model) -> None:
    batch = inputs()
    plain = predict(model, batch)
    for schedule, steered in [((0.0, 0.25), False), ((0.25, 1.0), True), ((0.2, 0.3), True), ((0.3, 1.0), False)]:
        with steer(model, [adding("transformer_blocks.1", schedule=Schedule(*schedule))]) as record:
            assert torch.equal(predict(model, batch), plain) != steered
        assert record.summary().steps == int(steered)


def test_a_mask_covers_the_main_pictures_tokens(model) -> None:
    mask = torch.zeros(1, 48, 64)
    mask[:, 16:32, 48:] = 1  # row 1, column 3 of 3 × 4 tokens
    weights = torch.zeros(12, 1)
    weights[7] = 1
    batch = inputs(batch=2, reference=2)
    intervention = adding("transformer_blocks.0.attn", mask=mask)
    with plain_hooks(model, intervention.site, lambda x, before: x + weights * 1.5 * DIRECTION):
        wanted = predict(model, batch)
    with steer(model, [intervention]):
        close(predict(model, batch), wanted)


@every_row
def test_zero_strength_is_bit_identical(model, location: str, stream: str) -> None:
    batch = inputs(batch=2)
    plain = predict(model, batch)
    for method, strength in (("add", 0.0), ("scale", 1.0)):
        with steer(model, [adding(location.format("0-1"), stream, strength, method)]) as record:
            assert torch.equal(predict(model, batch), plain)
        assert str(record.summary()) == "No step was steered."


def test_hooks_are_gone_after_an_exception_in_mid_run(model) -> None:
    batch = inputs()
    plain = predict(model, batch)

    def stop(x: Tensor, moment: Moment) -> None:
        raise KeyboardInterrupt

    parts = [adding("transformer_blocks.0-1.update"), adding("single_blocks.0-2.attn")]
    with pytest.raises(KeyboardInterrupt), steer(model, parts), capture(model, parse_location("single_blocks.1"), stop):
        assert hook_count(model) == 2 + 2 * 3 + 3 * 2 + 2 + 2
        predict(model, batch)
    assert hook_count(model) == 0
    assert torch.equal(predict(model, batch), plain)


def test_positional_arguments_and_batched_ids(model) -> None:
    batch = inputs()
    with steer(model, [adding("transformer_blocks.0")]):
        wanted = predict(model, batch)
        assert torch.equal(model(*batch.values(), return_dict=False)[0], wanted)
        batch["img_ids"] = batch["img_ids"].unsqueeze(0)
        assert torch.equal(predict(model, batch), wanted)


def test_one_tensor_from_single_blocks_as_before_diffusers_0_35(model) -> None:
    """An old single block gets and returns [text; image]; its hooks see one tensor."""

    class Old(nn.Module):
        def forward(self, hidden_states: Tensor, temb: Tensor | None = None) -> Tensor:
            return hidden_states * 1.25

    class OldFlux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer_blocks, self.single_transformer_blocks = nn.ModuleList(), nn.ModuleList([Old()])

        def forward(self, hidden_states, encoder_hidden_states, timestep, img_ids, **rest):
            return self.single_transformer_blocks[0](hidden_states=torch.cat([encoder_hidden_states, hidden_states], 1))

    old, batch = OldFlux(), inputs(reference=1)
    batch["hidden_states"], batch["encoder_hidden_states"] = torch.randn(1, 21, WIDTH), torch.randn(1, 5, WIDTH)
    tokens = torch.cat([batch["encoder_hidden_states"], batch["hidden_states"]], 1)
    for stream, (start, end) in {"text": (0, 5), "image": (5, 17), "joint": (0, 17)}.items():
        with steer(old, [adding("single_transformer_blocks.0", stream)]):  # type: ignore[arg-type]
            close(old(**batch), change_slice(tokens * 1.25, start, end, add_delta))
        seen: list[Tensor] = []
        with capture(old, parse_location("single_blocks.0.update", stream), lambda x, moment, to=seen: to.append(x)):  # type: ignore[arg-type]
            old(**batch)
        close(seen[0], 0.25 * tokens[:, start:end])


def test_mistakes_are_told_before_anything_runs(model) -> None:
    assert depth_of(model) == Depth(2, 3)
    for location, message in [
        (
            "transformer_blocks.0-2",
            "location: transformer_blocks.0-2 names block 2, but this model's double blocks are",
        ),
        ("single_blocks.3.attn", "location: single_transformer_blocks.3.attn names block 3, but this model's single"),
    ]:
        with pytest.raises(ValueError, match=message), steer(model, [adding(location)]):
            raise KeyboardInterrupt
        with pytest.raises(ValueError, match=message), capture(model, parse_location(location), print):
            raise KeyboardInterrupt
    assert hook_count(model) == 0
    narrow = Intervention(Steering(small_sae("relu"), [Edit(7)]), parse_location("transformer_blocks.0"))
    with pytest.raises(ValueError, match="width 12, but this location has width 16"), steer(model, [narrow]):
        predict(model, inputs())
    assert hook_count(model) == 0
