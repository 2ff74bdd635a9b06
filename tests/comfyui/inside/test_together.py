"""Several runs in one batch of ComfyUI's sampling: what each would be alone, and where there is no batch at all."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from sae_steering_pack.sae.dictionary.sae_set import Member
from sae_steering_pack.sae.finding.labelling import mean_activations
from sae_steering_pack.sae.hosts.comfyui import memory
from sae_steering_pack.sae.hosts.comfyui.drawing import Drawing, Listening
from sae_steering_pack.sae.hosts.comfyui.sampling import STEADY, Sampling
from sae_steering_pack.sae.places.moment import unheard
from sae_steering_pack.sae.steering.delta import Steering
from sae_steering_pack.sae.steering.edits import Edit
from sae_steering_pack.sae.steering.host_calls import Steered
from sae_steering_pack.sae.steering.intervention import Intervention
from tiny_flux import run_node

EMPTY = {"samples": torch.zeros(1, 16, 16, 16)}
TWO = {"samples": torch.zeros(2, 16, 16, 16)}


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def drawing(shapes, node_classes):
    def make(how, latent=EMPTY, model=None):
        positive, negative = (
            node_classes["ShapesPrompt"].execute(text).result[0]
            for text in ("red square left big white", "blue circle right small black")
        )
        return Drawing(model or shapes[0], positive, latent, how, negative)

    return make


@pytest.fixture
def several(shapes):
    """Unsteered, at two places, in two ways, and along a random direction."""
    sae = shapes[2]
    at = [sae.site, shapes[3].site]
    add = Intervention(Steering(sae, [Edit(3)], "add", 0.3), at[0])
    scale = Intervention(Steering(sae, [Edit(72), Edit(65)], "scale", 2.0), at[0])
    other = Intervention(Steering(shapes[3], [Edit(5)], "add", 0.4), at[1])
    return [Steered(), Steered([add]), Steered([scale, other]), Steered([add], 7), Steered([other])]


def check(draw, several):
    alone = [draw(*one, unheard) for one in several]
    together = draw.together(several, unheard)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.result, one.result, rtol=0, atol=1e-4)
        assert other.ratio == pytest.approx(one.ratio, rel=1e-4)
    assert not torch.allclose(alone[0].result, alone[1].result, atol=0.1)


@pytest.mark.parametrize("sampler", STEADY)
def test_what_is_drawn_together_is_what_is_drawn_alone(drawing, several, sampler) -> None:
    check(drawing(Sampling(4, 3, 1.0, sampler)), several[:2])


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_places_methods_controls_guidance_and_several_pictures(drawing, several, cfg) -> None:
    check(drawing(Sampling(4, 2, cfg), TWO), several)


def test_prompts_that_run_together_are_read_as_those_that_run_alone(shapes, monkeypatch) -> None:
    members = [Member(shapes[2], 0, shapes[2].site), Member(shapes[3], shapes[2].d_sae, shapes[3].site)]
    listen = Listening(shapes[0], shapes[5], members, TWO, Sampling(0, 2))
    prompts = ["red square", "blue circle left", "green"]
    together = mean_activations(listen, members)(prompts, unheard)
    alone = torch.cat([mean_activations(listen, members)([prompt], unheard) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert (together - together[0]).abs().amax(1)[1:].min() > 0.1


def test_prompts_of_other_lengths_and_parts_run_apart(shapes) -> None:
    class Lengths:
        """Encodes a text to as many tokens as it has words, in as many parts as it has lines."""

        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, text):
            return [[torch.zeros(1, len(line.split()), 64), {"pooled_output": None}] for line in text.splitlines()]

    listen = Listening(shapes[0], Lengths(), [], EMPTY, Sampling(0, 2))
    prompts = ["a b", "c d", "e", "f g", "h\ni", "k\nl"]
    assert list(listen.parts(prompts)) == [["a b", "c d"], ["e"], ["f g"], ["h\ni"], ["k\nl"]]


def test_how_many_go_together(drawing, shapes, monkeypatch) -> None:
    plain = Sampling(0, 2)
    assert drawing(plain).most() == memory.MOST_RUNS
    assert drawing(Sampling(0, 2, 1.0, "euler_ancestral")).most() == 1  # whose noise depends on the batch
    assert drawing(plain, {"samples": torch.zeros(1, 16, 128, 128)}).most() == 1  # large enough alone
    assert drawing(plain, {"samples": torch.zeros(2, 16, 32, 32)}).most() == 8
    wrapped = shapes[0].clone()
    wrapped.set_model_unet_function_wrapper(lambda call, given: call(given["input"], given["timestep"], **given["c"]))
    assert drawing(plain, model=wrapped).most() == 1
    cached = shapes[0].clone()
    cached.add_wrapper_with_key("diffusion_model", "cache", lambda executor, *given: executor(*given))
    assert drawing(plain, model=cached).most() == 1
    for rows in (1, 3):
        free = memory.SPARE * shapes[0].memory_required([rows + 0.5, 16, 16, 16])
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *given, free=free: free)
        monkeypatch.setattr(shapes[0], "model_size", shapes[0].loaded_size)  # nothing left to load
        assert drawing(plain).most() == rows


def test_cancel_stops_a_run_of_several_within_a_step(drawing, several, shapes) -> None:
    calls = []

    def cancel(module, inputs):
        calls.append(module)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()

    hook = shapes[0].model.diffusion_model.register_forward_pre_hook(cancel)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            drawing(Sampling(4, 8)).together(several, unheard)
    finally:
        hook.remove()
    comfy.model_management.interrupt_current_processing(False)
    assert len(calls) <= 3
