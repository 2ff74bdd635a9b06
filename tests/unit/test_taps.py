"""Hidden states side by side: which of them an SAE reads, and that nothing else is touched."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from embeds import conditioning, sae_for, tensors_for, vision
from sae.embeddings.editing import steer_tokens
from sae.embeddings.hidden_states import STACKS, stack_of, tap_at
from sae.embeddings.residual import state_of
from sae.formats import load
from sae.formats.known import KNOWN
from sae.hosts.comfyui.embeddings import edited, read, spot_in
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.record import SteeringRecord

KLEIN, KLEIN_9B, KREA, LUMINA = STACKS[0], STACKS[1], STACKS[3], STACKS[4]
IDEOGRAM, KLEIN_3, HIDREAM = STACKS[5:8]
SCOPE = "qwen-scope-qwen3-8b-layer17-L0_50/layer17.sae"
WIDE = KLEIN.width * len(KLEIN.layers)


def text_of(stack, tokens=5):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(1, len(stack.layers), tokens, stack.width, generator=generator)  # as an encoder has them
    if stack.interleaved:
        return [[states.permute(0, 2, 3, 1).flatten(2), {}]], states
    side_by_side = torch.cat([states[:, number] for number in range(len(stack.layers))], dim=-1)
    return [[side_by_side, {}]], states


def test_widths_tell_the_encoder():
    widths = (7680, 12288, 15360, 30720, 2304, 53248, 20480, 131072)
    assert [stack_of(width) for width in widths] == [stack for stack in STACKS if stack.whole not in (2560, 4096)]
    assert [stack_of(width) for width in (2560, 4096, 768, 2048, 7681)] == [None] * 5
    assert [len(stack.layers) for stack in STACKS] == [3, 3, 3, 12, 1, 13, 8, 32, 1, 1, 1] and KREA.layers[-1] == 35
    assert IDEOGRAM.layers == (1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 36)


@pytest.mark.parametrize(
    ("name", "tap", "layer"),
    [
        ("qwen3/resid_post_layer_9/ae", "auto", 9),  # after block 9 is hidden state 10: the nearest tap is 9
        ("qwen3/resid_post_layer_17/ae", "auto", 18),
        ("blocks.26.hook_resid_post", "auto", 27),
        ("resid_post_layer_18/ae", "27", 27),
        ("unnamed", " 18 ", 18),
    ],
)
def test_the_tap_is_the_one_beside_the_block(name, tap, layer):
    embed, states = text_of(KLEIN)
    spot = spot_in(embed, sae_for(KLEIN.width, name), tap=tap)
    assert (spot.target, spot.tap.layer) == ("token_embeddings", layer)
    assert torch.equal(read(embed, spot), states[:, KLEIN.layers.index(layer)])


@pytest.mark.parametrize(
    ("stack", "tap"), [(KLEIN, 18), (KREA, 35), (KREA, 2), (IDEOGRAM, 1), (IDEOGRAM, 36), (KLEIN_3, 32)]
)
def test_an_edit_changes_its_slice_and_nothing_else(stack, tap):
    embed, states = text_of(stack)
    before = embed[0][0].clone()
    sae = sae_for(stack.width, "unnamed")
    steering, record = Steering(sae, [Edit(3)], "add", 0.3, "raw"), SteeringRecord()
    spot = spot_in(embed, sae, tokens="1,3", tap=str(tap))
    changed = edited(embed, spot, lambda x: steer_tokens(x, steering, record))[0][0]
    wanted = states.clone()
    wanted[:, stack.layers.index(tap), [1, 3]] += 0.3 * sae.direction([3])[0]
    whole = changed.unflatten(-1, (-1, len(stack.layers)) if stack.interleaved else (len(stack.layers), -1))
    assert torch.allclose(whole.permute(0, 3, 1, 2) if stack.interleaved else whole.movedim(2, 1), wanted, atol=1e-6)
    same = changed == before
    assert bool(same.any()) and int((~same).any(-1).sum()) == 2
    assert torch.equal(embed[0][0], before)
    none = Steering(sae, [Edit(3)], "add", 0.0, "raw")
    assert edited(embed, spot, lambda x: steer_tokens(x, none, record))[0][0] is embed[0][0]


@pytest.mark.parametrize(
    ("width", "name", "tap", "message"),
    [
        (2560, "unnamed", "auto", "tap: the name of unnamed tells no single layer, .* 9, 18, 27 of Qwen3-4B"),
        (2560, "layer_3", "auto", "tap: layer_3 was trained after block 3, which is hidden state 4, .* 9, 18, 27"),
        (2560, "layer_9", "10", "tap: 10 is none of the hidden states 9, 18, 27 of Qwen3-4B"),
        (2560, "layer_9", "last", "tap: 'last' is no number of a hidden state"),
        (4096, "layer_9", "auto", "embed: layer_9 reads width 4096, .* 9, 18, 27 of Qwen3-4B"),
        (4096, "layer_9", "9", "embed: layer_9 reads width 4096, .* 2560 each"),
    ],
)
def test_bad_input_is_one_sentence(width, name, tap, message):
    with pytest.raises(ValueError, match=message):
        spot_in(text_of(KLEIN)[0], sae_for(width, name), tap=tap)


def test_a_text_of_one_hidden_state_has_no_taps():
    assert spot_in(conditioning(), sae_for(4096, "unnamed")).tap is None
    with pytest.raises(ValueError, match=r"tap: 18 was given, but these token embeddings are 4096 wide"):
        spot_in(conditioning(), sae_for(4096, "unnamed"), tap="18")


def test_lumina_reads_one_hidden_state():
    embed, states = text_of(LUMINA)
    for name in ("gemma-scope-2b-layer_24/layer_24/width_16k/average_l0_73/params", "layer_24", "unnamed"):
        spot = spot_in(embed, sae_for(2304, name))
        assert spot.tap.layer == 25 and torch.equal(read(embed, spot), states[:, 0])
    message = "after block 20, which is hidden state 21, but this text is the hidden state 25 of Gemma 2 2B"
    with pytest.raises(ValueError, match=message):
        spot_in(embed, sae_for(2304, "layer_20/width_16k/average_l0_71/params"))
    assert spot_in(embed, sae_for(2304, "layer_20/width_16k"), tap="25").tap.layer == 25


def test_public_saes_find_the_tap_that_the_table_names():
    """Each row is put where `python -m sae download` puts it."""
    rows = [row for row in KNOWN if row.embedding == ("token_embeddings", "all") and not row.model.startswith("T5")]
    assert len(rows) == 15
    for row in rows:
        stack = next(stack for stack in STACKS if stack.encoder == row.model)
        block = int(row.location.removeprefix("behind block ").split(":")[0])
        assert row.d_in == stack.width and row.location.endswith(f"hidden state {block + 1}")
        found = spot_in(text_of(stack)[0], sae_for(row.d_in, row.target)).tap
        assert found.layer in (block, block + 1) and found.encoder == row.model
        assert row.layout == "dictionary_learning" or found.layer == block + 1


@pytest.mark.parametrize(
    ("sae", "embed", "message"),
    [
        (sae_for(4096, SCOPE), conditioning(), "trained on Qwen3-8B-Base, but this text is 4096 wide; equal widths"),
        (
            sae_for(4096, SCOPE),
            text_of(KLEIN)[0],
            "on Qwen3-8B-Base, but this text is the hidden states 9, 18, 27 of Qwen3-4B",
        ),
        (
            sae_for(4096, "t5-matryoshka-top-300/x"),
            text_of(KLEIN_9B)[0],
            "on T5-XXL, but this text is the hidden states 9, 18",
        ),
    ],
)
def test_an_sae_of_another_encoder_is_refused_whatever_its_width(sae, embed, message):
    with pytest.raises(ValueError, match=message):
        spot_in(embed, sae)


def test_a_tap_without_an_sae():
    assert (tap_at(7680, "18").layer, tap_at(7680, "18").start) == (18, 2560)
    with pytest.raises(ValueError, match="tap: 'auto' tells none, and this text is the hidden states 9, 18, 27"):
        tap_at(7680, "auto")


# What the file says of the place


def told(width, folder, hook=None, model=None, name="sae_weights", **config):
    """An SAE of SAELens' layout whose file names its hook and its model."""
    metadata = {key: text for key, text in {"hook_name": hook, "model_name": model}.items() if text}
    place = folder / name
    place.mkdir(parents=True)
    t = tensors_for(width, 4)
    tensors = {"W_enc": t["encoder"].T, "b_enc": t["encoder_bias"], "W_dec": t["decoder"], "b_dec": t["output_bias"]}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, place / "sae_weights.safetensors")
    (place / "cfg.json").write_text(json.dumps({"architecture": "standard", "metadata": metadata, **config}))
    return load(place / "sae_weights.safetensors", name=f"{name}/sae_weights")


@pytest.mark.parametrize(
    ("hook", "state"),
    [
        ("blocks.17.hook_resid_post", 18),
        ("blocks.18.hook_resid_pre", 18),
        ("model.layers.17", 18),
        ("language_model.layers.17", 18),
        ("model.language_model.layers.17", 18),
        ("model.layers.17.output", 18),
        ("model.layers.18.input", 18),
        ("resid_post_layer_17", 18),
        ("resid_pre_layer_18", 18),
        ("transformer.h.17", 18),
        ("blocks.18.hook_resid_post", 19),
    ],
)
def test_the_hook_of_the_file_tells_the_hidden_state(hook, state, tmp_path):
    sae = told(2560, tmp_path, hook, name="a-folder-without-a-number")
    assert state_of(sae).state == state
    spot = spot_in(text_of(KLEIN)[0], sae)
    assert spot.tap.layer == 18
    assert ("one block beside its own, hidden state 19" in spot.reason) == (state == 19)


def test_the_hook_goes_before_the_name(tmp_path):
    sae = told(2560, tmp_path, "blocks.26.hook_resid_post", name="layer_8")
    assert spot_in(text_of(KLEIN)[0], sae).tap.layer == 27


@pytest.mark.parametrize(
    ("hook", "point"),
    [
        ("blocks.8.hook_mlp_out", "mlp_out"),
        ("blocks.8.hook_attn_out", "attn_out"),
        ("blocks.8.attn.hook_z", "attn"),
        ("blocks.8.ln2.hook_normalized", "ln2"),
        ("model.layers.8.mlp", "mlp"),
        ("model.layers.8.self_attn", "self_attn"),
        ("model.layers.8.input_layernorm", "input_layernorm"),
        ("model.layers.8.mlp.down_proj", "mlp"),
        ("blocks.8.hook_resid_mid", "resid_mid"),
    ],
)
def test_another_point_of_the_network_is_refused_by_name(hook, point, tmp_path):
    sae = told(2560, tmp_path, hook)
    for embed in (text_of(KLEIN)[0], conditioning(width=2560)):
        with pytest.raises(ValueError, match=rf"another point of the network \({point}: its file names '{hook}'\)"):
            spot_in(embed, sae)
    assert spot_in(text_of(KLEIN)[0], sae, tap="9").tap.layer == 9  # who writes it means it


@pytest.mark.parametrize(
    "name",
    [
        "layers.8.mlp/sae",
        "mlp_out_layer_8/ae",
        "attn_out_layer_8/ae",
        "gemma-2b-pt-att/layer_8/params",
        "x-transcoders/layer_8",
    ],
)
def test_another_point_in_the_name_is_refused_too(name):
    with pytest.raises(ValueError, match="was trained at another point of the network"):
        spot_in(text_of(KLEIN)[0], sae_for(2560, name))


def test_embeddings_are_hidden_state_0():
    sae = sae_for(2304, "embedding/width_4k/average_l0_6/params")
    assert state_of(sae).state == 0
    with pytest.raises(
        ValueError, match="was trained on the embeddings, which is hidden state 0, but this text is the"
    ):
        spot_in(text_of(LUMINA)[0], sae)


@pytest.mark.parametrize(
    ("stack", "model"),
    [
        (KLEIN_9B, "meta-llama/Llama-3.1-8B-Instruct"),
        (KLEIN_9B, "Qwen/Qwen3.5-9B"),
        (KLEIN_9B, "Qwen/Qwen3-4B"),
        (LUMINA, "google/gemma-3-1b-it"),
        (KLEIN, "google/gemma-3-4b-it"),
    ],
)
def test_another_model_is_refused_whatever_its_width(stack, model, tmp_path):
    sae = told(stack.width, tmp_path, f"blocks.{stack.layers[0] - 1}.hook_resid_post", model)
    with pytest.raises(ValueError, match=re.escape(f"was trained on {model}, but this text is {stack}")):
        spot_in(text_of(stack)[0], sae)


@pytest.mark.parametrize(
    ("width", "model"), [(768, "gpt2-small"), (4096, "meta-llama/Llama-3.1-8B"), (1280, "EleutherAI/pythia-1b")]
)
def test_another_model_on_an_encoder_without_taps_is_refused(width, model, tmp_path):
    with pytest.raises(ValueError, match=f"was trained on {model}, but this text is {width} wide"):
        spot_in(conditioning(width=width, pooled=512), told(width, tmp_path, model=model))


def test_a_clip_of_another_size_is_refused(tmp_path):
    sae = told(768, tmp_path, model="open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K")
    with pytest.raises(ValueError, match="trained on open-clip:laion/CLIP-ViT-B-32"):
        spot_in(vision(embeds=768), sae)


def test_a_model_that_is_not_known_is_told(tmp_path):
    spot = spot_in(text_of(KLEIN)[0], told(2560, tmp_path, "blocks.17.hook_resid_post", "mine/blue-whale"))
    assert spot.tap.layer == 18 and "trained on mine/blue-whale, which is not known here" in spot.reason


@pytest.mark.parametrize(
    ("stack", "model", "words"),
    [
        (KLEIN_9B, "Qwen/Qwen3-8B", None),
        (KLEIN_9B, "Qwen/Qwen3-8B-Base", "the base model, where this encoder is its chat version"),
        (KLEIN_9B, "Qwen/Qwen3-VL-8B-Instruct", "the vision model, where this encoder is the text model"),
        (IDEOGRAM, "Qwen/Qwen3-VL-8B-Instruct", None),
        (IDEOGRAM, "Qwen/Qwen3-8B", "the text model, where this encoder is the VL one"),
        (IDEOGRAM, "Qwen/Qwen3-8B-Base", "the text model, where this encoder is the VL one, and base"),
        (KLEIN_9B, "someone/qwen3-8b-abliterated", "another training of the same model"),
        (LUMINA, "gemma-2-2b-it", "the chat version, where this encoder is the base"),
    ],
)
def test_how_near_a_model_is_to_the_encoder_is_said(stack, model, words, tmp_path):
    layer = stack.layers[0]
    spot = spot_in(text_of(stack)[0], told(stack.width, tmp_path, f"model.layers.{layer - 1}", model))
    assert spot.tap.layer == layer and "its own, after block" in spot.reason
    assert (f"it was trained on {model}: {words}" in spot.reason) if words else "trained on" not in spot.reason


def test_a_state_behind_the_last_norm_is_told(tmp_path):
    embed = conditioning(conditioning_llama3=torch.zeros(1, 32, 3, 4096))
    spot = spot_in(embed, told(4096, tmp_path, "model.layers.31", "meta-llama/Llama-3.1-8B-Instruct"))
    assert spot.tap.layer == 32 and "behind the last norm" in spot.reason


@pytest.mark.parametrize(
    ("width", "model", "layer", "encoder"),
    [
        (4096, "meta-llama/Meta-Llama-3-8B", 29, "Llama 3 8B (HunyuanVideo)"),
        (2560, "Qwen/Qwen3-4B", 34, "Qwen3-4B (Z-Image)"),
        (2560, "google/gemma-3-4b-it", 32, "Gemma 3 4B (NewBie)"),
    ],
)
def test_of_several_encoders_of_one_width_the_saes_model_decides(width, model, layer, encoder, tmp_path):
    embed = conditioning(width=width)
    spot = spot_in(embed, told(width, tmp_path, f"model.layers.{layer}", model))
    assert (spot.target, spot.tap.layer, spot.tap.encoder) == ("token_embeddings", layer + 1, encoder)
    assert torch.equal(read(embed, spot), embed[0][0])


def test_hidreams_llama_has_all_its_states(tmp_path):
    """(batch, states, tokens, width), beside T5's tokens, which stay as they are."""
    states = torch.randn(1, 32, 5, 4096, generator=torch.Generator().manual_seed(3))
    embed = conditioning(conditioning_llama3=states)
    sae = told(4096, tmp_path, "blocks.16.hook_resid_post", "meta-llama/Llama-3.1-8B-Instruct")
    spot = spot_in(embed, sae)
    assert (spot.target, spot.tap.layer, spot.tap.encoder) == ("conditioning_llama3", 17, HIDREAM.encoder)
    assert torch.equal(read(embed, spot), states[:, 16])
    record = SteeringRecord()
    steering = Steering(sae, [Edit(3)], "add", 0.3, "raw")
    [[tokens, extra]] = edited(embed, spot, lambda x: steer_tokens(x, steering, record))
    wanted = states.clone()
    wanted[:, 16] += 0.3 * sae.direction([3])[0]
    assert torch.allclose(extra["conditioning_llama3"], wanted, atol=1e-6) and tokens is embed[0][0]
    assert torch.equal(embed[0][1]["conditioning_llama3"], states)
    t5 = sae_for(4096, "t5-matryoshka-top-300/matryoshka_sae_top_300/pytorch_model")
    assert spot_in(embed, t5).target == "token_embeddings"
    assert spot_in(embed, sae_for(4096, "unnamed"), tap="3").target == "conditioning_llama3"


def test_names_that_speak_of_embeddings_tell_no_layer():
    assert state_of(sae_for(2304, "my-token_embeddings/model")) is None
    assert state_of(sae_for(2304, "token_embeddings-layer_24/model")).state == 25
