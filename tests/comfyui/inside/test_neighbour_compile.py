"""Steering inside blocks that another node compiled one by one.

The backend "eager" does what the code says, at once. INDUCTOR=1 runs the same with "inductor", which compiles C++ for
minutes, as users' compiling nodes do.
"""

import os
import shutil

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from tiny_flux import relative_difference, sample, steer

PLACE = ("transformer_blocks.0.attn", "image")
SENTENCE = "transformer_blocks.0.attn (image) lies inside blocks that another node compiled one by one, where steering"


def why_not_inductor():
    """Why it is left out, or nothing."""
    if not os.environ.get("INDUCTOR"):
        return "compiles C++ for minutes: INDUCTOR=1 runs it"
    found = shutil.which(os.environ.get("CXX", "cl" if os.name == "nt" else "g++"))
    return None if found else "needs a C++ compiler, as torch's inductor does"


INDUCTOR = pytest.param(
    "inductor", marks=pytest.mark.skipif(why_not_inductor() is not None, reason=str(why_not_inductor()))
)


@pytest.fixture(params=["eager", INDUCTOR])
def compiled(model, request):
    """Its first double block alone, with core's filter of guards."""
    torch._dynamo.reset()
    one = model.clone()
    set_torch_compile_wrapper(
        one, request.param, {"guard_filter_fn": skip_torch_compile_dict}, keys=["diffusion_model.double_blocks.0"]
    )
    yield one
    torch._dynamo.reset()


@pytest.mark.parametrize("order", ["compile, steer", "steer, compile"])
def test_attention_inside_a_compiled_block_is_steered_and_it_is_told(model, sae, compiled, order):
    """After a run without, with two strengths; and afterwards the model is as it was."""
    plain, reports = sample(compiled, steps=1), []
    for strength in (0.2, 0.4):
        expected = sample(steer(model, sae, *PLACE, strength=strength), steps=1)
        steered = steer(compiled, sae, *PLACE, strength=strength, report=reports.append)
        if order == "steer, compile":  # as if the compiling node came last
            steered.wrappers["apply_model"] = dict(reversed(steered.wrappers["apply_model"].items()))
            assert list(steered.wrappers["apply_model"]) == ["sae_steering", "torch.compile"]
        assert relative_difference(sample(steered, steps=1), expected) < 1e-5
        assert relative_difference(expected, plain) > 1e-3
        (warning,) = reports.pop().warnings
        assert warning.startswith(SENTENCE)
    assert torch.equal(sample(compiled, steps=1), plain)


def test_the_output_of_a_compiled_block_is_steered_as_it_runs(model, sae, compiled):
    """Core's filter remembers `patches_replace` where a run with it is compiled first, so here one without is."""
    plain, reports = sample(compiled, steps=1), []
    steered = steer(compiled, sae, "transformer_blocks.0", "image", strength=0.3, report=reports.append)
    expected = sample(steer(model, sae, "transformer_blocks.0", "image", strength=0.3), steps=1)
    assert relative_difference(sample(steered, steps=1), expected) < 1e-5 and reports[0].warnings == []
    assert torch.equal(sample(compiled, steps=1), plain)
