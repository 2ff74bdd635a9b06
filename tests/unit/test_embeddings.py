"""Steering, reading and blending embeddings before the generator."""

import pytest
import torch

from embeds import conditioning, gytis_edit, load_gytis, sae_for, siglip, tensors_for, vision
from sae.embeddings.editing import blend_tokens, embedding_record, steer_tokens
from sae.embeddings.spot import home_of, spot_for, token_positions
from sae.finding.features import tally_tokens
from sae.hosts.comfyui.embeddings import edited, read, spot_in, tensors_of, word_positions
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.record import SteeringRecord

CLS = ("penultimate_hidden_states", "0")


def steer(
    embed, sae, features=(3,), method="add", strength=0.3, unit="token_norm", target="auto", tokens="all", **more
):
    edits = [edit if isinstance(edit, Edit) else Edit(edit) for edit in features]
    steering = Steering(sae, edits, method, strength, unit, more.pop("replaces", ()))
    place = spot_in(embed, sae, target, tokens)
    record = SteeringRecord()
    return edited(embed, place, lambda x: steer_tokens(x, steering, record), more.pop("words", None)), record.summary()


def names_of(output):
    return [name for name in vars(output) if name.endswith(("embeds", "state", "states"))]


# Which tensor


@pytest.mark.parametrize(
    ("name", "width", "embed", "target", "tokens"),
    [
        ("clip-sae-128/sparse_autoencoder_128", 1280, vision(), "image_embeds", "all"),
        ("cc3m-vision-topk-lr-3e-4-k-64-expansion-4/model", 1024, vision(embeds=768, hidden=1024), *CLS),
        ("cc3m-text-topk-lr-3e-4-k-16-expansion-4/model", 768, conditioning(), "pooled_output", "all"),
        ("t5-matryoshka-top-300/matryoshka/pytorch_model", 4096, conditioning(), "token_embeddings", "all"),
        ("my-image_embeds", 1280, vision(), "image_embeds", "all"),
        ("unknown", 1664, vision(), "last_hidden_state", "all"),
        ("unknown", 1152, siglip(), "last_hidden_state", "all"),
        ("unknown", 768, conditioning(), "pooled_output", "all"),
    ],
)
def test_auto_takes_what_the_sae_was_trained_on_else_its_width(name, width, embed, target, tokens):
    place = spot_in(embed, sae_for(width, name))
    assert (place.target, place.tokens) == (target, tokens)


def test_auto_explains_its_choice():
    assert spot_in(vision(), sae_for(1280)).reason == "the only one of width 1280"
    two = spot_in(vision(), sae_for(1664)).reason
    assert two == (
        "last_hidden_state and penultimate_hidden_states have width 1664; auto takes the first, target chooses another"
    )
    assert spot_in(vision(), sae_for(1280, "clip-sae-128/x")).reason == "what it was trained on"
    chosen = spot_in(vision(), sae_for(1664), "penultimate_hidden_states")
    assert (chosen.target, chosen.reason) == ("penultimate_hidden_states", "as chosen")


def test_names_that_tell_two_tensors_tell_none():
    assert home_of(sae_for(8, "image_embeds-or-pooled_output")) is None
    assert home_of(sae_for(8, "a/pooled_output-b")) == ("pooled_output", "all")


def refusals():
    bigg = "image_embeds 1280 (CLIP ViT-bigG); last_hidden_state 1664 (CLIP ViT-bigG)"
    other = vision(embeds=1024, hidden=1280)
    yield other, "clip-sae-128/x", 1280, {}, r"reads image_embeds 1280 \(CLIP ViT-bigG\), but.*1024 \(CLIP ViT-H\)"
    yield (
        vision(),
        "some",
        999,
        {},
        rf"reads width 999, but this embedding has {bigg}".replace("(", r"\(").replace(")", r"\)"),
    )
    yield vision(), "some", 1280, {"target": "pooled_output"}, "target: this embedding has no pooled_output"
    yield vision(), "some", 1280, {"target": "last_hidden_state"}, "reads last_hidden_state 1280"
    yield vision(), "some", 1280, {"target": "nonsense"}, "target: 'nonsense' is not a tensor of an embedding"
    yield (
        conditioning(),
        "clip-sae-128/x",
        1280,
        {},
        "trained on image_embeds, but this embedding has pooled_output 768",
    )
    yield (
        conditioning(pooled=0),
        "a-pooled_output",
        768,
        {},
        r"trained on pooled_output, but.*token_embeddings 4096 \(T5",
    )
    yield [], "some", 768, {}, "embed: this conditioning is empty"
    yield object(), "some", 768, {}, "embed: object came; connect a CLIP_VISION_OUTPUT or a CONDITIONING"
    yield siglip(), "some", 1152, {"target": "image_embeds"}, "this embedding has no image_embeds"


@pytest.mark.parametrize(("embed", "name", "width", "more", "message"), list(refusals()))
def test_what_does_not_fit_is_told(embed, name, width, more, message):
    with pytest.raises(ValueError, match=message):
        spot_in(embed, sae_for(width, name), **more)


# Which tokens


def test_positions_of_tokens():
    assert token_positions("all", 9) is None
    assert token_positions(" 2, 5-7 ,2", 9) == [2, 5, 6, 7]
    assert token_positions("2", 9, {1: [1], 2: [2, 3]}) == [2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9", "there is no 9 in this text; its tokens are numbered 0 to 8"),
        ("3-12", "there is no 9 in this text"),
        ("5-3", "there is no 5-3 in this text"),
        ("first", "tokens: 'first' does not name tokens; write all, or positions"),
        ("", "does not name tokens"),
        ("-1", "does not name tokens"),
        ("1,,2", "does not name tokens"),
    ],
)
def test_wrong_positions_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        token_positions(text, 9)
    if text == "9":
        with pytest.raises(ValueError, match="there is no 9 in this text; its words are numbered 1 to 2"):
            token_positions(text, 9, {1: [1], 2: [2]})


def clip_tokens(text):
    """Start, two tokens for words of more than four letters, end, padding: CLIP in small."""
    body = [(word, 1.0, 1) for word in text.split() for _ in range(1 + (len(word) > 4))]
    row = [("start", 1.0, 0), *body, ("end", 1.0, 0)]
    return {"l": [[*row, *[("pad", 1.0, 0)] * (10 - len(row))]]}


def test_words_are_found_by_their_prefixes():
    assert word_positions(clip_tokens, "red square left", 10) == {1: [1], 2: [2, 3], 3: [4]}
    chunked = lambda text: {"l": [clip_tokens("a")["l"][0], clip_tokens(text)["l"][0]], "t5xxl": clip_tokens(text)["l"]}  # noqa: E731
    assert word_positions(chunked, "red square", 10) == {1: [1], 2: [2, 3]}
    with pytest.raises(ValueError, match="weights in parentheses"):
        word_positions(clip_tokens, "(red:1.2) square", 10)
    with pytest.raises(ValueError, match=r"it has 4 tokens, which are not those of this conditioning \(3\)"):
        word_positions(clip_tokens, "red square left", 3)


# Steering


@pytest.mark.parametrize("target", ["image_embeds", "last_hidden_state", "penultimate_hidden_states"])
def test_exactly_the_chosen_tensor_changes_and_by_the_formula(target):
    embed = vision(batch=2, embeds=1664)
    before = {name: getattr(embed, name).clone() for name in names_of(embed)}
    sae = sae_for(1664)
    after, summary = steer(embed, sae, features=[3, Edit(7, -2.0)], strength=0.3, target=target)
    d = torch.nn.functional.normalize(tensors_for(1664)["decoder"][[3, 7]], dim=1)
    x = before[target]
    expected = x + 0.3 * x.norm(dim=-1, keepdim=True) * (d[0] - 2 * d[1])
    assert torch.allclose(getattr(after, target), expected, atol=1e-5)
    assert type(after) is type(embed) and after is not embed
    for name, tensor in before.items():
        assert torch.equal(getattr(embed, name), tensor)
        assert name == target or getattr(after, name) is getattr(embed, name)
    ratio = 0.3 * (d[0] - 2 * d[1]).norm()
    assert summary.mean_ratio == pytest.approx(float(ratio), rel=1e-5)


def test_every_entry_of_a_conditioning_is_edited_and_the_rest_shared():
    embed = conditioning(entries=2, guidance=3.5)
    sae = sae_for(768)
    after, _ = steer(embed, sae, method="set", strength=2.0, unit="raw")
    t = tensors_for(768)
    for (tokens, extra), (new_tokens, new_extra) in zip(embed, after, strict=True):
        x = extra["pooled_output"]
        f = torch.relu(x @ t["encoder"][3] + t["encoder_bias"][3])
        expected = x + (2.0 - f) * t["decoder"][3]
        assert torch.allclose(new_extra["pooled_output"], expected, atol=1e-5)
        assert new_tokens is tokens and new_extra["guidance"] == 3.5 and new_extra is not extra
    words, _ = steer(embed, sae_for(4096), tokens="1,3")
    kept = [0, 2, 4, 5, 6]
    assert torch.equal(words[1][0][:, kept], embed[1][0][:, kept])
    assert not torch.equal(words[1][0][:, [1, 3]], embed[1][0][:, [1, 3]])
    assert words[0][1] == embed[0][1] and words[0][1] is not embed[0][1]


@pytest.mark.parametrize(
    ("method", "strength"), [("add", 0.0), ("scale", 1.0), ("boost_if_active", 0.0), ("project_out", 0.0)]
)
def test_a_neutral_strength_returns_the_very_tensors(method, strength):
    for embed in (vision(), conditioning()):
        sae = sae_for(1280 if embed is not None and not isinstance(embed, list) else 4096)
        after, summary = steer(embed, sae, method=method, strength=strength)
        before, now = tensors_of(embed)[0], tensors_of(after)[0]
        assert all(now[name] is before[name] for name in before) and summary.steps == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_gradients_behave(dtype):
    embed = vision(dtype=dtype)
    embed.image_embeds.requires_grad_(True)
    exact = vision(dtype=dtype)
    exact.image_embeds = embed.image_embeds.detach().float()
    sae = sae_for(1280)
    after, _ = steer(embed, sae, strength=0.5)
    expected, _ = steer(exact, sae, strength=0.5)
    assert after.image_embeds.dtype == dtype and not after.image_embeds.requires_grad
    error = (after.image_embeds.float() - expected.image_embeds).abs().max()
    assert float(error) <= 2 * torch.finfo(dtype).eps * float(expected.image_embeds.abs().max())
    assert embed.image_embeds.requires_grad and embed.image_embeds.grad is None


def test_half_precision_that_overflows_is_told():
    embed = vision(dtype=torch.float16)
    embed.image_embeds *= 1000
    with pytest.raises(ValueError, match=r"strength: 900 takes the embedding out of torch.float16; lower the strength"):
        steer(embed, sae_for(1280), strength=900.0)


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite")])
def test_broken_embeddings_are_told(value, message):
    embed = vision()
    embed.image_embeds[0, 5] = value
    with pytest.raises(ValueError, match=f"embed: its image_embeds has {message}"):
        steer(embed, sae_for(1280))
    with pytest.raises(ValueError, match=r"embed: its image_embeds is empty, \[0, 1280\]"):
        steer(vision(batch=0), sae_for(1280))
    with pytest.raises(ValueError, match="tokens: image_embeds is one vector"):
        steer(vision(), sae_for(1280), tokens="2")


# Gytis' SAE in front of Kandinsky


def edits_of_his():
    yield "set", 4.0, "raw", lambda f: f.index_fill(1, torch.tensor([5, 9]), 4.0)
    yield "scale", 0.0, "raw", lambda f: f * torch.ones(60).index_fill(0, torch.tensor([5, 9]), 0.0)
    yield "scale", 3.0, "raw", lambda f: f * torch.ones(60).index_fill(0, torch.tensor([5, 9]), 3.0)
    yield "add", 2.5, "raw", lambda f: f + 2.5 * torch.zeros(60).index_fill(0, torch.tensor([5, 9]), 1.0)


@pytest.mark.parametrize(("method", "strength", "unit", "change"), list(edits_of_his()))
def test_gytis_layout_edits_as_his_playground_does(tmp_path, method, strength, unit, change):
    sae, state = load_gytis(tmp_path)
    embed = vision(batch=3)
    after, _ = steer(embed, sae, features=[5, 9], method=method, strength=strength, unit=unit)
    expected = gytis_edit(embed.image_embeds, state, change)
    assert torch.allclose(after.image_embeds, expected, atol=1e-5)
    assert not torch.allclose(after.image_embeds, embed.image_embeds, atol=1e-2)


# Reading and blending


def test_reading_ranks_what_fires():
    embed = conditioning(entries=2)
    sae = sae_for(4096)
    x = read(embed, spot_in(embed, sae, tokens="1-3"))
    assert x.shape == (1, 6, 4096)
    t = tensors_for(4096)
    codes = torch.relu(torch.cat([entry[0][0, 1:4] for entry in embed]) @ t["encoder"].T + t["encoder_bias"])
    tally = tally_tokens(sae, x)
    assert torch.allclose(tally.mean, codes.mean(0), atol=1e-5) and tally.tokens == 6
    assert torch.allclose(tally.max, codes.max(0).values, atol=1e-5)


def test_blending_gives_the_features_of_the_source_and_leaves_the_rest():
    embed, source, sae, record = vision(batch=2), vision(seed=2), sae_for(1280), SteeringRecord()
    x, given = embed.image_embeds.unsqueeze(1), source.image_embeds.unsqueeze(1)
    blended = blend_tokens(x, given, sae, [Edit(3), Edit(7, 0.5)], 0.8, record)
    t = tensors_for(1280)
    codes = [torch.relu(z @ t["encoder"][[3, 7]].T + t["encoder_bias"][[3, 7]]) for z in (x, given)]
    expected = x + 0.8 * (torch.tensor([1.0, 0.5]) * (codes[1] - codes[0])) @ t["decoder"][[3, 7]]
    assert torch.allclose(blended, expected, atol=1e-5)
    assert blend_tokens(x, given, sae, [Edit(3)], 0.0, record) is x
    for edits, other, message in (
        ([], given, "features: the list is empty"),
        ([Edit(3), Edit(3)], given, "feature 3 is named twice"),
        ([Edit(3)], given.expand(-1, 4, -1), r"source: its shape is \[1, 4, 1280\]"),
    ):
        with pytest.raises(ValueError, match=message):
            blend_tokens(x, other, sae, edits, 1.0, record)


def test_blending_from_several_pictures_takes_the_mean_of_their_activations():
    x, sources = (vision(batch=n, seed=n).image_embeds.unsqueeze(1) for n in (2, 3))
    t = tensors_for(1280)
    codes = [torch.relu(z @ t["encoder"][[3, 7]].T + t["encoder_bias"][[3, 7]]) for z in (x, sources)]
    expected = x + (codes[1].mean(0) - codes[0]) @ t["decoder"][[3, 7]]
    blended = blend_tokens(x, sources, sae_for(1280), [Edit(3), Edit(7)], 1.0, SteeringRecord())
    assert torch.allclose(blended, expected, atol=1e-5)


@pytest.mark.parametrize(("fraction", "told"), [(0.9, []), (1.1, ["Δ reached 1.1 of the token norm; above 1 it"])])
def test_an_embedding_stands_more_than_a_block_before_it_warns(fraction, told):
    record = embedding_record()
    steer_tokens(vision().image_embeds.unsqueeze(1), Steering(sae_for(1280), [Edit(3)], "add", fraction), record)
    assert [warning[: len(start)] for warning, start in zip(record.summary().warnings, told, strict=True)] == told


def test_widths_without_a_known_family_are_named_by_their_number():
    with pytest.raises(ValueError, match="this embedding has image_embeds 77;"):
        spot_for(sae_for(12), {"image_embeds": 77})
