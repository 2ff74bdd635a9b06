"""Hidden states side by side as core's own text encoders make them, edited by the nodes."""

from __future__ import annotations

import inspect

import comfy.ops
import comfy.text_encoders.flux as flux
import comfy.text_encoders.krea2 as krea2
import comfy.text_encoders.llama as llama
import comfy.text_encoders.lumina2 as lumina2
import pytest
import torch
from comfy import sd1_clip

from embeds import sae_for
from sae_steering_pack.sae.embeddings.hidden_states import STACKS
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node

KLEIN_4B, KLEIN_9B, MISTRAL, KREA, LUMINA = STACKS[:5]
MODELS = {
    "klein 4B": (KLEIN_4B, flux.Flux2TEModel, "qwen3_4b"),
    "klein 9B": (KLEIN_9B, flux.Flux2TEModel, "qwen3_8b"),
    "krea": (KREA, krea2.Krea2TEModel, "qwen3vl_4b"),
}


def test_layers_and_widths_are_cores():
    for model, stack in (
        (flux.Qwen3_4BModel, KLEIN_4B),
        (flux.Qwen3_8BModel, KLEIN_9B),
        (flux.Mistral3_24BModel, MISTRAL),
    ):
        assert tuple(inspect.signature(model.__init__).parameters["layer"].default) == stack.layers
    assert tuple(krea2.KREA2_TAP_LAYERS) == KREA.layers
    configs = (llama.Qwen3_4BConfig, llama.Qwen3_8BConfig, llama.Mistral3Small24BConfig, llama.Gemma2_2B_Config)
    assert [config.hidden_size for config in configs] == [one.width for one in (KLEIN_4B, KLEIN_9B, MISTRAL, LUMINA)]


def test_luminas_hidden_state_is_behind_the_block_that_is_named():
    """A tiny Gemma 2 of core's own class, asked as Lumina's text encoder asks."""
    asked = inspect.signature(lumina2.Gemma2_2BModel.__init__).parameters
    assert (asked["layer"].default, asked["layer_idx"].default) == ("hidden", -2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 50, "num_attention_heads": 2}
    config = llama.Gemma2_2B_Config(**sizes, num_key_value_heads=1)
    torch.manual_seed(1)
    model = llama.Llama2_(config, device="cpu", dtype=torch.float32, ops=comfy.ops.manual_cast)
    seen = []
    [block] = LUMINA.layers
    model.layers[block - 1].register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    tokens = torch.tensor([[2, 7, 11]])
    with torch.no_grad():
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
        given = model(tokens, intermediate_output=-2, final_layer_norm_intermediate=False)[1]
    assert len(model.layers) == 26 and torch.equal(given, seen[0]) and given.std() > 0


@pytest.fixture(params=MODELS)
def encoded(request, monkeypatch):
    """A conditioning as core puts it together from hidden states (batch, layers, tokens, width), and these states."""
    stack, model, name = MODELS[request.param]
    states = torch.randn(1, len(stack.layers), 4, stack.width, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(sd1_clip.SD1ClipModel, "encode_token_weights", lambda self, pairs: (states, None, {}))
    bare = model.__new__(model)
    pairs = {name: [[(1, 1.0)] * 4]}
    more = {"template_end": 0} if model is krea2.Krea2TEModel else {}
    return stack, [[bare.encode_token_weights(pairs, **more)[0], {}]], states


def test_the_node_edits_one_hidden_state_alone(node_classes, encoded):
    stack, embed, states = encoded
    sae, at = sae_for(stack.width, f"resid_post_layer_{stack.layers[1] - 1}"), 1
    inputs = {"method": "add", "strength": 0.5, "unit": "raw", "features": FeatureList([Edit(3)])}
    output = run_node(node_classes["ClipEmbedSteer"], embed=embed, sae=sae, **inputs)
    changed = output.result[0][0][0].unflatten(-1, (len(stack.layers), stack.width)).movedim(2, 1)
    wanted = states.clone()
    wanted[:, at] += 0.5 * sae.direction([3])[0]
    assert torch.allclose(changed, wanted, atol=1e-6)
    others = [number for number in range(len(stack.layers)) if number != at]
    assert torch.equal(changed[:, others], states[:, others])
    assert f"hidden state {stack.layers[at]} of {stack.encoder}" in " ".join(output.ui["text"])


def test_the_features_of_a_tap_are_found(node_classes, encoded):
    stack, embed, states = encoded
    sae = sae_for(stack.width, "unnamed")
    tap = stack.layers[1]
    inputs = {"embed": embed, "sae": sae, "count": 5, "rank_by": "mean", "tap": str(tap)}
    output = run_node(node_classes["TopEmbedFeatures"], **inputs)
    codes = sae.codes(states[:, 1], list(range(sae.d_sae))).mean((0, 1))
    assert [edit.feature for edit in output.result[0]] == codes.argsort(descending=True)[:5].tolist()


def test_a_width_that_fits_no_tap_is_refused_with_the_taps(node_classes, encoded):
    stack, embed, _ = encoded
    inputs = {"method": "add", "strength": 0.5, "unit": "raw", "features": FeatureList([Edit(3)])}
    with pytest.raises(ValueError, match=f"the hidden states {stack.layers[0]}, {stack.layers[1]}, "):
        run_node(node_classes["ClipEmbedSteer"], embed=embed, sae=sae_for(1000, "unnamed"), **inputs)
