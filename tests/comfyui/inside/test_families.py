"""Every family of the table on tiny random models of ComfyUI's own classes: the definition of done, line by line."""

import re
from dataclasses import replace

import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import tiny_families
from family_runs import FEATURES, depth_by_hand, plain_hook, sae_for, sample, steer, tiny
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.hosts.comfyui.model import depth_of, family_of, width_of
from sae_steering_pack.sae.places.families import FAMILIES
from sae_steering_pack.sae.places.site import parse_location
from tiny_families import CASES, TEXT, UNETS
from tiny_flux import modules_with_hooks, relative_difference

HOOKED = ("Krea 2", "Anima", *UNETS)
each_family = pytest.mark.parametrize("name", CASES)
each_place = pytest.mark.parametrize(
    ("name", "place"),
    [pytest.param(name, place, id=f"{name} {place.location} {place.stream}") for name in CASES
     for place in CASES[name].places],
)  # fmt: skip


# 1. Steering is a plain forward hook


@each_place
def test_steering_equals_a_plain_forward_hook(name, place):
    model = tiny(name)
    plain = sample(name, model)
    with plain_hook(model.model.diffusion_model, place, 3.0):
        expected = sample(name, model)
    found = sample(name, steer(name, model, place, method="scale", strength=3.0, unit="raw", features=FEATURES))
    assert relative_difference(expected, plain) > 1e-4
    assert relative_difference(found, expected) < 1e-5


@each_family
def test_a_batch_of_two_is_steered_where_it_enters(name):
    """Against a plain hook, at every place that is a block's input."""
    model, (_, *shape) = tiny(name), CASES[name].latent
    latent = (2, *shape)
    plain = sample(name, model, latent=latent)
    assert not torch.equal(plain[0], plain[1])
    for place in (place for place in CASES[name].places if place.location.endswith(".input")):
        with plain_hook(model.model.diffusion_model, place, 3.0):
            expected = sample(name, model, latent=latent)
        steered = steer(name, model, place, method="scale", strength=3.0, unit="raw", features=FEATURES)
        found = sample(name, steered, latent=latent)
        assert relative_difference(expected[1], plain[1]) > 1e-4
        assert relative_difference(found, expected) < 1e-5


# 2. Nothing changes where nothing is asked, and others' patches run beside ours


@each_place
def test_zero_strength_and_the_run_after_are_the_same_to_the_bit(name, place):
    model = tiny(name)
    plain = sample(name, model)
    assert torch.equal(sample(name, steer(name, model, place, strength=0.0)), plain)
    assert not torch.equal(sample(name, steer(name, model, place, strength=1.0)), plain)
    assert torch.equal(sample(name, model), plain)
    assert modules_with_hooks(model) == []


def ramp(x):
    return x + 3 * torch.linspace(-1, 1, x.shape[-1])


def shifted(model, case):
    """Another pack's patch at the block of the first place: in its slot, or in the list where there is none."""
    changed, block = model.clone(), int(re.search(r"\d+", case.places[0].location)[0])
    if case.slot is not None:
        kind = "single_block" if case.places[0].location.startswith("single") else case.slot

        def patch(args, extra):
            out = extra["original_block"](args)
            return {**out, "img": ramp(out["img"])}

        changed.set_model_patch_replace(patch, "dit", kind, block)
    else:

        def after(given):
            return {"img": ramp(given["img"])} if given["block_index"] == block else {}

        changed.set_model_patch(after, "double_block")
    return changed


@pytest.mark.parametrize("name", [name for name in CASES if name not in HOOKED])
def test_a_patch_of_another_pack_runs_with_ours_in_both_orders(name):
    model, case = tiny(name), CASES[name]
    place = case.places[0]
    ours, foreign = steer(name, model, place, strength=1.0), shifted(model, case)
    before, after = sample(name, steer(name, foreign, place, strength=1.0)), sample(name, shifted(ours, case))
    assert torch.equal(before, after)
    for alone in (ours, foreign):
        assert relative_difference(before, sample(name, alone)) > 1e-4


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_of_another_pack_runs_with_ours_in_both_orders(name):
    """No patch reaches these blocks; a hook that stays is there before ours."""
    model, place = tiny(name), CASES[name].places[0]
    ours = steer(name, model, place, strength=1.0)
    alone, block = sample(name, ours), model.model.diffusion_model.get_submodule(place.module)
    for prepend in (True, False):
        handle = block.register_forward_hook(lambda module, args, output: ramp(output), prepend=prepend)
        try:
            foreign, both = sample(name, model), sample(name, ours)
        finally:
            handle.remove()
        assert relative_difference(both, alone) > 1e-4 and relative_difference(both, foreign) > 1e-4


@each_family
def test_two_steered_clones_of_one_model_stay_apart(name):
    model, (first, second, *_) = tiny(name), CASES[name].places
    one = steer(name, model, first, strength=1.0)
    alone = sample(name, one)
    both = steer(name, one, second, strength=1.0)
    assert relative_difference(sample(name, both), alone) > 1e-4
    assert torch.equal(sample(name, one), alone)


@each_family
def test_cond_and_uncond_in_one_batch_are_told_apart(name):
    """The conditioned side alone is steered: what is drawn without it stays, with guidance 0 that is all."""
    model, place = tiny(name), CASES[name].places[0]
    case = CASES[name]
    prompts = {"positive": tiny_families.conditioning(case), "negative": tiny_families.conditioning(case, 5)}
    steered = steer(name, model, place, strength=1.0, side="cond")
    plain = sample(name, model, cfg=0.0, **prompts)
    assert relative_difference(sample(name, steered, cfg=0.0, **prompts), plain) < 1e-6
    assert (
        relative_difference(sample(name, steered, cfg=2.0, **prompts), sample(name, model, cfg=2.0, **prompts)) > 1e-4
    )


# 3. What a model is comes from the model


@each_family
def test_the_family_its_depth_and_width_come_from_the_model(name):
    model, case = tiny(name), CASES[name]
    assert family_of(model).name == name
    assert depth_of(model) == depth_by_hand(name)
    site = parse_location(case.places[0].location, case.places[0].stream)
    assert width_of(model, family_of(model).place(site, depth_of(model))) == case.width


@each_family
def test_every_row_of_the_table_is_tested(name):
    assert {family.name for family in FAMILIES if family.models} == set(CASES)
    stacks = {stack.kind: stack for stack in family_of(tiny(name)).stacks}
    tested = [parse_location(place.location, place.stream) for place in CASES[name].places]
    for stack in stacks.values():
        family = family_of(tiny(name))
        points = {site.point for site in tested if stack is family.stack(site.kind) or len(stacks) == 1}
        assert {"input", "block", "update"} | {point for point, _ in stack.modules} == points


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.detected])
def test_cores_own_detection_makes_the_same_model(name):
    """From the weights alone, as UNETLoader does it."""
    model, case = tiny(name), CASES[name]
    weights = {key: tensor.clone() for key, tensor in model.model.diffusion_model.state_dict().items()}
    loaded = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    assert family_of(loaded).name == name and depth_of(loaded) == depth_by_hand(name)
    assert torch.equal(
        sample(name, steer(name, loaded, case.places[0])), sample(name, steer(name, model, case.places[0]))
    )


class Seen:
    """Sizes of the tokens that are tapped, by way of an observer."""

    def __init__(self, name, location, stream):
        self.shapes, self.moments = [], []
        self.model = host.observe(tiny(name), parse_location(location, stream), self, sae_for(name))

    def __call__(self, x, moment):
        self.shapes.append(tuple(x.shape))
        self.moments.append(moment)


@pytest.mark.parametrize(
    ("name", "latent", "frames", "tokens"),
    [
        ("FLUX.1", (1, 16, 7, 10), 1, 4 * 5),
        ("FLUX.2", (1, 128, 3, 5), 1, 15),
        ("Chroma", (1, 16, 7, 10), 1, 20),
        ("HunyuanVideo", (1, 16, 5, 6, 8), 5, 5 * 3 * 4),
        ("LongCat", (1, 16, 7, 10), 1, 20),
        ("Qwen-Image", (1, 16, 1, 7, 10), 1, 20),
        ("Z-Image", (1, 16, 7, 10), 1, 20),
        ("Lumina 2", (1, 16, 7, 10), 1, 20),
        ("Wan 2", (1, 16, 5, 6, 8), 5, 5 * 3 * 4),
        ("Stable Diffusion 3", (1, 16, 7, 10), 1, 20),
        ("Krea 2", (1, 16, 1, 7, 10), 1, 20),
        ("Anima", (1, 16, 3, 6, 8), 3, 3 * 3 * 4),
    ],
)
def test_patch_frames_and_odd_sizes(name, latent, frames, tokens):
    kind = next(iter(CASES[name].depth))
    stack = {"double": "transformer_blocks", "blocks": "blocks", "layers": "layers"}[kind]
    seen = Seen(name, f"{stack}.1", "image")
    sample(name, seen.model, latent=latent)
    assert seen.shapes == [(1, tokens, CASES[name].width)]
    assert (seen.moments[0].latent_frames, seen.moments[0].image_tokens) == (frames, tokens)


# One reference picture. FLUX, Qwen-Image and Krea 2 lay it behind the main picture, so that its tokens stay where they
# are. Z-Image lays it, of 12 tokens filled up to 32 and with a text of 32 of its own, between text and picture; with
# an image encoder (Omni) twice 32 tokens of what that saw, here nothing, come before it. Wan lays it, of 16 tokens,
# before the picture; HunyuanVideo too, in both its streams.
REFERENCES = {
    "FLUX.1": ((1, 16, 6, 8), {}),
    "LongCat": ((1, 16, 6, 8), {}),
    "HunyuanVideo": (
        (1, 16, 1, 8, 8),
        {
            "image": ((16, 64),),
            "single image": ((TEXT + 16, TEXT + 64),),
            "text": ((0, TEXT),),
            "joint": ((0, TEXT), (TEXT + 16, TEXT + 64)),
        },
    ),
    "FLUX.2": ((1, 128, 3, 4), {}),
    "Qwen-Image": ((1, 16, 1, 6, 8), {}),
    "Krea 2": ((1, 16, 1, 6, 8), {}),
    "Z-Image": ((1, 16, 6, 8), {"text": ((0, 64),), "image": ((96, 112),), "joint": ((0, 64), (96, 112))}),
    "Z-Image, Omni": ((1, 16, 6, 8), {"text": ((0, 64),), "image": ((160, 176),), "joint": ((0, 64), (160, 176))}),
    "Wan 2": ((1, 16, 1, 8, 8), {"image": ((16, 64),)}),
}


def with_reference(variant):
    """The tiny model, or the variant of it that looks at such references."""
    name = variant.split(",")[0]
    more = {"Wan 2": {"in_dim_ref_conv": 16}, "Z-Image, Omni": {"siglip_feat_dim": 16}}.get(variant)
    if more is None:
        return tiny(name)
    unet = {**tiny(name).model.model_config.unet_config, **more}
    return tiny_families.patcher(tiny_families.make(type(tiny(name).model.model_config), **unet))


@pytest.mark.parametrize("variant", REFERENCES)
def test_reference_pictures_stay_as_they_are(variant):
    """Against a plain hook on the tokens of the main picture, of the text, or of both, at every place."""
    model, name = with_reference(variant), variant.split(",")[0]
    shape, spans = REFERENCES[variant]
    [[text, more]] = tiny_families.conditioning(CASES[name])
    reference = torch.randn(shape, generator=tiny_families.random_for(8))
    more = {**more, "reference_latents": [reference], "reference_latents_method": "index", "ref_latent": reference}
    positive = [[text, more]]
    plain = sample(name, model, positive=positive)
    assert relative_difference(plain, sample(name, model)) > 1e-4  # the reference is looked at
    for place in CASES[name].places:
        own = f"single {place.stream}" if place.module.startswith("single") else place.stream
        here = replace(place, spans=spans.get(own, spans.get(place.stream, place.spans)))
        with plain_hook(model.model.diffusion_model, here, 3.0):
            expected = sample(name, model, positive=positive)
        steered = steer(name, model, place, method="scale", strength=3.0, unit="raw", features=FEATURES)
        assert relative_difference(expected, plain) > 1e-4
        assert relative_difference(sample(name, steered, positive=positive), expected) < 1e-5


@each_family
def test_a_keyword_that_a_newer_block_may_get_passes_through(name, monkeypatch):
    """Some versions give a block one more; it must reach the block as it came."""
    model, place = tiny(name), next(place for place in CASES[name].places if place.location.endswith(".update"))
    block = model.model.diffusion_model.get_submodule(place.module)
    plain, forward, seen = sample(name, steer(name, model, place)), block.forward, []

    def newer(*args, something_new=None, **kwargs):
        seen.append(something_new)
        return forward(*args, **kwargs)

    monkeypatch.setattr(block, "forward", newer)
    hook = block.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "something_new": "kept"}), with_kwargs=True, prepend=True
    )
    try:
        assert torch.equal(sample(name, steer(name, model, place)), plain)
    finally:
        hook.remove()
    assert set(seen) == {"kept"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.slot is not None])
def test_an_argument_that_a_newer_slot_may_get_passes_through(name):
    """What a slot is given beside what we read goes on to the block, and comes back."""
    model, place = tiny(name), CASES[name].places[0]
    steered, seen = model.clone(), []

    def inner(args, extra):
        seen.append(args.get("something_new"))
        return {**extra["original_block"](args), "more": 1}

    steered.set_model_patch_replace(inner, "dit", CASES[name].slot, int(place.location.split(".")[1]))
    steered = steer(name, steered, place)

    def outer(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        slots = dict(options["patches_replace"]["dit"])
        key = (CASES[name].slot, int(place.location.split(".")[1]))
        ours = slots[key]

        def with_more(args, extra):
            out = ours({**args, "something_new": "kept"}, extra)
            assert out["more"] == 1
            return out

        slots[key] = with_more
        options = {**options, "patches_replace": {**options["patches_replace"], "dit": slots}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    steered.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", outer)
    sample(name, steered)
    assert seen == ["kept"]
