"""Steering beside what other nodes do to the same model, and models that cannot be steered."""

import comfy.ldm.flux.math
import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from sae_steering_pack.sae.hosts.comfyui.model import family_of, host_warnings
from sae_steering_pack.sae.hosts.comfyui.steering import KEY
from sae_steering_pack.sae.hosts.comfyui.ways import tapped
from sae_steering_pack.sae.places.moment import Moment
from sae_steering_pack.sae.steering.record import SteeringRecord
from tiny_flux import intervention, make_sae, relative_difference, sae_tensors, sample, steer

PLACES = [
    ("transformer_blocks.0", "image"),
    ("transformer_blocks.0.update", "image"),
    ("transformer_blocks.0.attn", "image"),
    ("transformer_blocks.0.ff", "image"),
    ("single_transformer_blocks.0", "image"),
    ("single_transformer_blocks.0.attn", "image"),
    ("transformer_blocks.0.input", "text"),
    ("single_transformer_blocks.0.input", "joint"),
]
each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])


def louder(args, extra):
    """Another node's patch: half as much again of what a block adds to its text (double) or of all (single)."""
    key = "txt" if "txt" in args else "img"
    before = args[key].clone()
    out = extra["original_block"](args)
    return {**out, key: before + 1.5 * (out[key] - before)}


def patched(model, place, patch=louder):
    changed = model.clone()
    changed.set_model_patch_replace(
        patch, "dit", "single_block" if place[0].startswith("single") else "double_block", 0
    )
    return changed


@each_place
def test_a_patch_of_another_node_in_the_same_slot_runs_with_ours(model, sae, place):
    """Before or after ours at node time makes no difference: ours is put on top when the model runs."""
    foreign, ours = sample(patched(model, place)), sample(steer(model, sae, *place))
    before, after = sample(steer(patched(model, place), sae, *place)), sample(patched(steer(model, sae, *place), place))
    assert torch.equal(before, after)
    assert relative_difference(before, foreign) > 1e-3 and relative_difference(before, ours) > 1e-3


def test_the_composed_block_has_the_numbers_of_both(model, sae):
    """What enters the next block: the other node's text, and the image with our delta on it."""
    seen = []

    def keep(args, extra):
        seen.append((args["img"].clone(), args["txt"].clone()))
        return extra["original_block"](args)

    def first_call(steered):
        steered.set_model_patch_replace(keep, "dit", "double_block", 1)
        sample(steered, steps=1)
        return seen.pop()

    plain_image, plain_text = first_call(model.clone())
    _, loud_text = first_call(patched(model, PLACES[0]))
    image, text = first_call(patched(steer(model, sae, *PLACES[0], strength=4.0, unit="raw"), PLACES[0]))
    assert torch.equal(text, loud_text) and not torch.equal(text, plain_text)
    assert torch.allclose(image - plain_image, 4 * sae_tensors()["decoder"][3].expand_as(image), atol=1e-5)


@pytest.mark.parametrize("place", [PLACES[0], PLACES[4]], ids=lambda place: place[0])
def test_a_patch_that_returns_its_own_arguments(model, sae, place):
    """Skip-layer guidance does: the block is left out, the steering is not."""
    skipped, reports = patched(model, place, lambda args, extra: args), []
    steered = sample(steer(skipped, sae, *place, report=reports.append))
    assert reports[0].steps == 2 and relative_difference(steered, sample(skipped)) > 1e-3


def slot_of(model, steering, previous=None):
    """The function that steering puts into the one block slot it uses, on top of `previous`."""
    key = (f"{steering.site.kind}_block", steering.site.blocks[0])
    options = {"patches_replace": {"dit": {} if previous is None else {key: previous}}}
    tap = steering.begin(SteeringRecord())
    with tapped(options, model.model.diffusion_model, family_of(model), [tap], Moment(0.5, (0,), 6, 8, 8)) as composed:
        return composed["patches_replace"]["dit"][key]


def test_neither_arguments_nor_a_result_of_another_patch_are_written_to(model, sae):
    args = {"img": torch.randn(1, 16, 128), "txt": torch.randn(1, 6, 128)}
    before = {name: tensor.clone() for name, tensor in args.items()}
    given = dict(args)
    out = slot_of(model, intervention(sae, "transformer_blocks.1"), lambda args, extra: args)(args, {})
    assert args == given and all(torch.equal(args[name], before[name]) for name in args)
    assert not torch.equal(out["img"], args["img"]) and out["txt"] is args["txt"]


def test_what_a_block_is_given_stays_as_it_was_for_others(model, sae):
    """The block writes in place into its own copy; with nothing to change, into what came."""
    args = {"img": torch.randn(1, 16, 128), "txt": torch.randn(1, 6, 128), "vec": torch.randn(1, 128)}
    before, seen = {name: tensor.clone() for name, tensor in args.items()}, []

    def block(given):
        seen.append(given)
        return {"img": given["img"], "txt": given["txt"].add_(1)}

    here = intervention(sae, "transformer_blocks.1.input", "text", strength=2.0, unit="raw")
    out = slot_of(model, here)(args, {"original_block": block})
    assert all(torch.equal(args[name], before[name]) for name in args)
    assert seen[0]["img"] is args["img"] and seen[0]["vec"] is args["vec"]
    assert torch.allclose(out["txt"], before["txt"] + 2 * sae_tensors()["decoder"][3] + 1, atol=1e-6)


def test_a_forward_that_passes_no_transformer_options(model, sae):
    """TeaCache's: where text and image lie is then told by the call itself."""
    slot = slot_of(model, intervention(sae, "single_transformer_blocks.1", "text", strength=2.0, unit="raw"))
    tokens = torch.randn(1, 6 + 16, 128)
    out = slot({"img": tokens, "vec": None, "pe": None}, {"original_block": lambda args: {"img": args["img"] + 1}})
    expected = tokens + 1
    expected[:, :6] += 2 * sae_tensors()["decoder"][3]
    assert torch.allclose(out["img"], expected, atol=1e-6)


def test_the_length_of_the_text_is_read_where_the_block_runs(model, sae):
    """Nodes such as Redux or post_input patches change it after the model was called."""
    slot = slot_of(model, intervention(sae, "single_transformer_blocks.1", "image", strength=2.0, unit="raw"))
    tokens = torch.zeros(1, 10 + 16, 128)
    args = {"img": tokens, "transformer_options": {"img_slice": [10, 26]}}
    out = slot(args, {"original_block": lambda args: {"img": args["img"]}})
    assert ((out["img"] != 0).any(-1)[0].tolist()) == [False] * 10 + [True] * 16


def test_the_options_of_a_call_are_copied(model, sae):
    slot = object()
    options = {"patches_replace": {"dit": {("double_block", 0): slot}, "other": {}}, "sigmas": torch.ones(1)}
    tap = intervention(sae, "transformer_blocks.0-1").begin(SteeringRecord())
    with tapped(options, model.model.diffusion_model, family_of(model), [tap], Moment(0.5, (0,), 6, 8, 8)) as composed:
        pass
    assert options["patches_replace"] == {"dit": {("double_block", 0): slot}, "other": {}}
    assert set(composed["patches_replace"]["dit"]) == {("double_block", 0), ("double_block", 1)}


def test_steering_added_changed_moved_and_removed_after_a_compiled_run(model, sae, monkeypatch):
    """Core's TorchCompileModel drops the guards on transformer_options; backend eager shows what it notices.

    With pytorch's attention, as on a GPU, the whole forward is one graph, so that nothing is noticed by chance.
    """
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    try:
        plain = sample(compiled)
        for place, strength in ((PLACES[0], 0.1), (PLACES[0], 0.4), (PLACES[2], 0.4), (PLACES[4], 0.4)):
            expected = sample(steer(model, sae, *place, strength=strength))
            assert relative_difference(sample(steer(compiled, sae, *place, strength=strength)), expected) < 1e-5
            assert relative_difference(expected, plain) > 1e-3
        assert relative_difference(sample(compiled), plain) < 1e-6
    finally:
        torch._dynamo.reset()


def test_a_second_wrapper_around_the_model_sees_the_call(model, sae):
    """Other nodes' APPLY_MODEL and DIFFUSION_MODEL wrappers run beside ours."""
    calls = []

    def watch(executor, *args, **kwargs):
        calls.append(kwargs)
        return executor(*args, **kwargs)

    watched = steer(model, sae, *PLACES[0])
    watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", watch)
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", watch)
    assert torch.equal(sample(watched), sample(steer(model, sae, *PLACES[0])))
    assert len(calls) == 4 and not any(KEY in kwargs for kwargs in calls)


def test_models_without_hindrances_have_no_warnings(model):
    assert host_warnings(model) == []


@pytest.mark.parametrize("name", ["easycache", "cache_device"])
def test_step_caches_are_named(model, name):
    cached = model.clone()
    cached.model_options["transformer_options"][name] = object()
    assert host_warnings(cached) == ["A step cache is active on this model; the steps that it skips are not steered."]


@pytest.mark.parametrize("where", ["object patch", "instance", "class"])
def test_a_foreign_forward_is_named(model, monkeypatch, where):
    changed, transformer = model.clone(), model.model.diffusion_model
    if where == "object patch":
        changed.add_object_patch("diffusion_model.forward_orig", transformer.forward_orig)
    elif where == "instance":
        monkeypatch.setattr(transformer, "forward_orig", lambda *args: None)
    else:
        monkeypatch.setattr(type(transformer), "forward_orig", lambda self, *args: None)
    assert host_warnings(changed)[0].startswith("Another node replaced this model's forward pass")


class Blocks(torch.nn.Module):
    """HunyuanVideo's parts by name."""

    double_blocks, single_blocks, hidden_size, patch_size = (), (), 128, [1, 2, 2]


NUNCHAKU = type("ComfyFluxWrapper", (torch.nn.Module,), {"__module__": "custom_nodes.nunchaku_flux.wrappers"})


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        (torch.nn.Linear(2, 2), "model: it is a Linear, but steering knows FLUX.1, FLUX.2, Chroma"),
        (Blocks(), "model: it is a Blocks, but steering knows FLUX.1, FLUX.2, Chroma"),
        (NUNCHAKU(), "model: it is a nunchaku FLUX, which ignores patches; load FLUX with core's UNETLoader."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_models_are_refused(model, sae, stranger, message):
    other = model.clone()
    other.add_object_patch("diffusion_model", stranger)
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        steer(other, sae, *PLACES[0])
    assert "\n" not in str(caught.value)


def test_an_sae_of_another_width_and_a_block_too_far_are_refused(model, sae):
    with pytest.raises(ValueError, match=r"^sae: narrow was trained on .* width 64, but .* width 128; use an SAE"):
        steer(model, make_sae(64, name="narrow"), *PLACES[0])
    with pytest.raises(ValueError, match=r"^location: transformer_blocks\.0-4 names block 2, but .* are 0 to 1\.$"):
        steer(model, sae, "transformer_blocks.0-4", "image")
    with pytest.raises(
        ValueError, match=r"^location: single_transformer_blocks\.3 names block 3, but .* are 0 to 2\.$"
    ):
        steer(model, sae, "single_transformer_blocks.3", "joint")
