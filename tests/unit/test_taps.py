"""Hidden states side by side: which of them an SAE reads, and that nothing else is touched."""

import pytest
import torch

from embeds import conditioning, sae_for
from sae.embeddings.editing import steer_tokens
from sae.embeddings.hidden_states import STACKS, stack_of, tap_at
from sae.formats.known import KNOWN
from sae.hosts.comfyui.embeddings import edited, read, spot_in
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.record import SteeringRecord

KLEIN, KLEIN_9B, KREA, LUMINA = STACKS[0], STACKS[1], STACKS[3], STACKS[4]
SCOPE = "qwen-scope-qwen3-8b-layer17-L0_50/layer17.sae"
WIDE = KLEIN.width * len(KLEIN.layers)


def text_of(stack, tokens=5):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(1, len(stack.layers), tokens, stack.width, generator=generator)  # as an encoder has them
    side_by_side = torch.cat([states[:, number] for number in range(len(stack.layers))], dim=-1)
    return [[side_by_side, {}]], states


def test_widths_tell_the_encoder():
    assert [stack_of(width) for width in (7680, 12288, 15360, 30720, 2304)] == list(STACKS)
    assert [stack_of(width) for width in (2560, 4096, 768, 2048, 7681)] == [None] * 5
    assert [len(stack.layers) for stack in STACKS] == [3, 3, 3, 12, 1] and KREA.layers[-1] == 35


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


@pytest.mark.parametrize(("stack", "tap"), [(KLEIN, 18), (KREA, 35), (KREA, 2)])
def test_an_edit_changes_its_slice_and_nothing_else(stack, tap):
    embed, states = text_of(stack)
    before = embed[0][0].clone()
    sae = sae_for(stack.width, "unnamed")
    steering, record = Steering(sae, [Edit(3)], "add", 0.3, "raw"), SteeringRecord()
    spot = spot_in(embed, sae, tokens="1,3", tap=str(tap))
    changed = edited(embed, spot, lambda x: steer_tokens(x, steering, record))[0][0]
    wanted = states.clone()
    wanted[:, stack.layers.index(tap), [1, 3]] += 0.3 * sae.direction([3])[0]
    assert torch.allclose(changed.unflatten(-1, (len(stack.layers), -1)).movedim(2, 1), wanted, atol=1e-6)
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
    assert len(rows) == 10
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
        (sae_for(4096, SCOPE), conditioning(), "trained on Qwen3-8B .*, but this text is 4096 wide; equal widths"),
        (sae_for(4096, SCOPE), text_of(KLEIN)[0], "but this text is the hidden states 9, 18, 27 of Qwen3-4B"),
        (sae_for(4096, "t5-matryoshka-top-300/x"), text_of(KLEIN_9B)[0], "this embedding has token_embeddings 12288"),
    ],
)
def test_an_sae_of_another_encoder_is_refused_whatever_its_width(sae, embed, message):
    with pytest.raises(ValueError, match=message):
        spot_in(embed, sae)


def test_a_tap_without_an_sae():
    assert (tap_at(7680, "18").layer, tap_at(7680, "18").start) == (18, 2560)
    with pytest.raises(ValueError, match="tap: 'auto' tells none, and this text is the hidden states 9, 18, 27"):
        tap_at(7680, "auto")
