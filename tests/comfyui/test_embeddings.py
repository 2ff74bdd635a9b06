"""Embeddings between core's nodes, over HTTP: exactly the intended tensor changes, by the formula, and nothing else."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from comfy_client import PromptFailed
from embeds import tensors_for, write_saelens

torch.set_num_threads(1)

FEATURE, STRENGTH = 7, 0.4


def random_weights(hidden, embeds, class_token):
    """A CLIP vision model in core's own layout, three layers."""
    random = torch.Generator().manual_seed(6)

    def draw(*shape):
        return torch.randn(shape, generator=random) * 0.2

    positions = 4 + class_token
    weights = {
        "vision_model.embeddings.patch_embedding.weight": draw(hidden, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": draw(positions, hidden),
        "vision_model.post_layernorm.weight": 1 + draw(hidden),
        "vision_model.post_layernorm.bias": draw(hidden),
    }
    if class_token:
        weights["vision_model.embeddings.class_embedding"] = draw(hidden)
        weights["vision_model.pre_layrnorm.weight"] = 1 + draw(hidden)
        weights["vision_model.pre_layrnorm.bias"] = draw(hidden)
        weights["visual_projection.weight"] = draw(embeds, hidden)
    else:
        weights["vision_model.embeddings.patch_embedding.bias"] = draw(hidden)
    for layer in range(3):
        name = f"vision_model.encoder.layers.{layer}"
        for part in ("q", "k", "v", "out"):
            weights[f"{name}.self_attn.{part}_proj.weight"] = draw(hidden, hidden)
            weights[f"{name}.self_attn.{part}_proj.bias"] = draw(hidden)
        for part, shape in (("fc1", (128, hidden)), ("fc2", (hidden, 128))):
            weights[f"{name}.mlp.{part}.weight"] = draw(*shape)
            weights[f"{name}.mlp.{part}.bias"] = draw(shape[0])
        for number in (1, 2):
            weights[f"{name}.layer_norm{number}.weight"] = 1 + draw(hidden)
            weights[f"{name}.layer_norm{number}.bias"] = draw(hidden)
    return weights


def redux_weights():
    random = torch.Generator().manual_seed(8)
    shapes = {"redux_up.weight": (192, 72), "redux_up.bias": (192,), "redux_down.weight": (64, 192)}
    shapes["redux_down.bias"] = (64,)
    return {name: torch.randn(shape, generator=random) * 0.2 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def saes(server):
    models = server.place.models
    for kind, name, weights in (
        ("clip_vision", "tiny.safetensors", random_weights(64, 48, True)),
        ("clip_vision", "tiny-siglip.safetensors", random_weights(72, 0, False)),
        ("style_models", "tiny-redux.safetensors", redux_weights()),
    ):
        (models / kind).mkdir(exist_ok=True)
        save_file(weights, models / kind / name)
    yield {width: write_saelens(models / "sae", width, f"embeds-{width}") for width in (48, 64, 72)}
    for width in (48, 64, 72):
        shutil.rmtree(models / "sae" / f"embeds-{width}")


@pytest.fixture(scope="module")
def picture(server, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.effect_noise((60, 50), 90).convert("RGB").save(path)
    return server.client.upload(path)


def encoded(picture, siglip=False):
    name = "tiny-siglip.safetensors" if siglip else "tiny.safetensors"
    return {
        "image": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "clip": {"class_type": "ProbeTinyClipVision", "inputs": {"name": name, "siglip": siglip}},
        "encode": {
            "class_type": "CLIPVisionEncode",
            "inputs": {"clip_vision": ["clip", 0], "image": ["image", 0], "crop": "center"},
        },
        "text": {"class_type": "ShapesPrompt", "inputs": {"text": "red square"}},
    }


def steering(sae, strength=STRENGTH, method="add", **more):
    inputs = {"embed": ["encode", 0], "sae": ["sae", 0], "features": ["feature", 0]}
    inputs |= {"method": method, "strength": strength, "unit": "token_norm", **more}
    return {
        "sae": {"class_type": "LoadSAE", "inputs": {"sae_name": sae, "location": "auto", "stream": "auto"}},
        "feature": {"class_type": "SAEFeature", "inputs": {"feature": FEATURE, "strength": 1.0}},
        "steer": {"class_type": "ClipEmbedSteer", "inputs": inputs},
    }


def save(*names):
    return {
        f"save {name}": {"class_type": "ProbeSaveTensors", "inputs": {"what": [name, 0], "name": name}}
        for name in names
    }


def run(server, prompt, *names):
    """What travels out of the named nodes."""
    result = server.client.run({**prompt, **save(*names)})
    folder = server.place.output / "probe"
    return [load_file(folder / f"{name}.safetensors") for name in names], result["outputs"]


def pushed(x, width):
    direction = torch.nn.functional.normalize(tensors_for(width)["decoder"][FEATURE], dim=0)
    return x + STRENGTH * x.norm(dim=-1, keepdim=True) * direction


UNCLIP = {
    "class_type": "unCLIPConditioning",
    "inputs": {
        "conditioning": ["text", 0],
        "clip_vision_output": ["steer", 0],
        "strength": 1.0,
        "noise_augmentation": 0.0,
    },
}
REDUX = {
    "style": {"class_type": "ProbeTinyStyleModel", "inputs": {"name": "tiny-redux.safetensors"}},
    "redux": {
        "class_type": "StyleModelApply",
        "inputs": {
            "conditioning": ["text", 0],
            "style_model": ["style", 0],
            "clip_vision_output": ["steer", 0],
            "strength": 1.0,
            "strength_type": "multiply",
        },
    },
}


@pytest.mark.parametrize(
    ("width", "target", "chosen"),
    [
        (48, "auto", "image_embeds"),
        (64, "auto", "last_hidden_state"),
        (64, "penultimate_hidden_states", "penultimate_hidden_states"),
    ],
)
def test_exactly_one_tensor_changes_on_its_way_to_unclip(server, saes, picture, width, target, chosen):
    prompt = {**encoded(picture), **steering(saes[width], target=target), "unclip": UNCLIP}
    (before, steered, unclip, text), outputs = run(server, prompt, "encode", "steer", "unclip", "text")
    arrived = {
        name.removeprefix("0.1.unclip_conditioning.0.clip_vision_output."): tensor
        for name, tensor in unclip.items()
        if "clip_vision_output" in name
    }
    assert arrived.keys() == steered.keys() == before.keys() and len(before) >= 3
    for name, tensor in before.items():
        if name == chosen:
            assert torch.allclose(arrived[name], pushed(tensor, width), atol=1e-5)
        else:
            assert torch.equal(arrived[name], tensor)
    assert torch.equal(unclip["0.0"], text["0.0"])
    assert any(chosen in line for line in outputs["steer"]["text"])


def test_redux_projects_the_steered_patches(server, saes, picture):
    prompt = {**encoded(picture, siglip=True), **steering(saes[72]), **REDUX}
    (before, redux, text), _ = run(server, prompt, "encode", "redux", "text")
    weights = redux_weights()
    patches = pushed(before["last_hidden_state"], 72)
    hidden = torch.nn.functional.silu(patches @ weights["redux_up.weight"].T + weights["redux_up.bias"])
    projected = hidden @ weights["redux_down.weight"].T + weights["redux_down.bias"]
    assert before["last_hidden_state"].shape == (1, 4, 72)
    assert torch.equal(redux["0.0"][:, :5], text["0.0"])
    assert torch.allclose(redux["0.0"][:, 5:], projected, atol=1e-5)


def onwards(siglip, source):
    """From an embedding into Redux, or into unCLIP's conditioning, under the name of `end`."""
    end = {"end": REDUX["redux"], "style": REDUX["style"]} if siglip else {"end": UNCLIP}
    inputs = {**end["end"]["inputs"], "clip_vision_output": [source, 0]}
    return {**end, "end": {**end["end"], "inputs": inputs}}


@pytest.mark.parametrize(("siglip", "width"), [(False, 48), (True, 72)])
def test_strength_0_is_bit_identical(server, saes, picture, siglip, width):
    (unsteered,), _ = run(server, {**encoded(picture, siglip), **onwards(siglip, "encode")}, "end")
    steered_prompt = {**encoded(picture, siglip), **steering(saes[width], 0.0), **onwards(siglip, "steer")}
    (steered,), _ = run(server, steered_prompt, "end")
    assert steered.keys() == unsteered.keys()
    assert all(torch.equal(steered[name], tensor) for name, tensor in unsteered.items())


def test_text_embeddings_are_steered_token_by_token(server, saes, picture):
    prompt = {**encoded(picture), **steering(saes[64], embed=["text", 0], tokens="1,3")}
    (text, steered), _ = run(server, prompt, "text", "steer")
    expected = text["0.0"].clone()
    expected[:, [1, 3]] = pushed(text["0.0"][:, [1, 3]], 64)
    assert torch.allclose(steered["0.0"], expected, atol=1e-5)
    assert torch.equal(steered["0.0"][:, [0, 2, 4]], text["0.0"][:, [0, 2, 4]])
    assert torch.equal(steered["0.1.pooled_output"], text["0.1.pooled_output"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target": "pooled_output"}, "target: this embedding has no pooled_output; it has image_embeds 48"),
        (
            {"embed": ["text", 0]},
            "embed: embeds-48/sae_weights reads width 48, but this embedding has pooled_output 16",
        ),
        ({"tokens": "2"}, "tokens: image_embeds is one vector, so there are none to choose from; write all."),
        ({"embed": ["text", 0], "target": "token_embeddings"}, "reads token_embeddings 48, but this embedding has"),
    ],
)
def test_a_users_mistake_comes_back_as_one_sentence(server, saes, picture, changes, sentence):
    prompt = {**encoded(picture), **steering(saes[48], **changes), **save("steer")}
    with pytest.raises(PromptFailed) as failure:
        server.client.run(prompt)
    assert failure.value.kind == "ValueError" and sentence in failure.value.message


def test_features_of_one_picture_move_into_another(server, saes, picture):
    prompt = {
        **encoded(picture),
        **steering(saes[48]),
        "top": {
            "class_type": "TopEmbedFeatures",
            "inputs": {"embed": ["encode", 0], "sae": ["sae", 0], "count": 3, "rank_by": "mean"},
        },
        "blend": {
            "class_type": "BlendEmbedFeatures",
            "inputs": {
                "embed": ["steer", 0],
                "source": ["encode", 0],
                "sae": ["sae", 0],
                "features": ["top", 0],
                "amount": 1.0,
            },
        },
    }
    (before, steered, blended), outputs = run(server, prompt, "encode", "steer", "blend")
    t = tensors_for(48)
    centred = [x["image_embeds"] - t["output_bias"] for x in (before, steered)]  # SAELens' standard way
    codes = [torch.relu(x @ t["encoder"].T + t["encoder_bias"])[0] for x in centred]
    table = outputs["top"]["text"][0].splitlines()[2:]
    top = [int(line.split()[0]) for line in table]
    assert torch.allclose(codes[0][top], codes[0].topk(3).values, atol=1e-5)
    expected = steered["image_embeds"] + (codes[0] - codes[1])[top] @ t["decoder"][top]
    assert torch.allclose(blended["image_embeds"], expected, atol=1e-4)


@pytest.fixture
def qwen_scope(server):
    """Name and decoder of an SAE in Qwen-Scope's layout, behind block 26."""
    decoder = torch.randn(4096, 40, generator=torch.Generator().manual_seed(9))
    state = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_enc": torch.zeros(40), "b_dec": torch.zeros(4096)}
    name = "SAE-Res-Qwen3-8B-Base-W64K-L0_4/layer26.sae.pt"
    path = server.place.models / "sae" / name
    path.parent.mkdir()
    torch.save(state, path)
    yield name, decoder
    shutil.rmtree(path.parent)


def test_a_public_sae_of_a_text_encoder_steers_its_hidden_state_alone(server, qwen_scope):
    """That of the last of the three states of Klein 9B's text."""
    name, decoder = qwen_scope

    def prompt(width):
        text = {"class_type": "ProbeConditioning", "inputs": {"width": width, "tokens": 6, "seed": 3}}
        return {"text": text, **steering(name, embed=["text", 0], method="add", strength=STRENGTH)}

    (text, steered), outputs = run(server, prompt(3 * 4096), "text", "steer")
    before, after = (given["0.0"].unflatten(-1, (3, 4096)) for given in (text, steered))
    direction = torch.nn.functional.normalize(decoder[:, FEATURE], dim=0)
    expected = before[:, :, 2] + STRENGTH * before[:, :, 2].norm(dim=-1, keepdim=True) * direction
    assert torch.allclose(after[:, :, 2], expected, atol=1e-4) and torch.equal(after[:, :, :2], before[:, :, :2])
    assert "hidden state 27 of Qwen3-8B" in " ".join(outputs["steer"]["text"])
    with pytest.raises(PromptFailed) as failure:
        run(server, prompt(2304), "steer")
    assert failure.value.kind == "ValueError" and "the hidden state 25 of Gemma 2 2B" in failure.value.message
