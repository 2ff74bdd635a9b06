"""The nodes for embeddings inside ComfyUI: words of core's own tokenizers, warnings, mistakes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comfy.sd1_clip import SD1Tokenizer
from comfy.text_encoders.flux import FluxTokenizer

from embeds import conditioning, sae_for, tensors_for, vision
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.dictionary.statistics import FeatureStatistics
from sae_steering_pack.sae.hosts.comfyui.embeddings import token_words, word_positions
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.known.labels import Label
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node

TEXT = "a photograph of an otherworldly, crystalline castle"
SD1_TEXT = conditioning(tokens=77, width=768, pooled=0)


@pytest.fixture
def steer(node_classes):
    def run(embed, sae, features=(3,), **more):
        edits = FeatureList(edit if isinstance(edit, Edit) else Edit(edit) for edit in features)
        inputs = {"method": "add", "strength": 0.3, "unit": "token_norm", **more}
        return run_node(node_classes["ClipEmbedSteer"], embed=embed, sae=sae, features=edits, **inputs)

    return run


def clip_of(tokenizer):
    return SimpleNamespace(
        tokenize=lambda text, return_word_ids=False: tokenizer.tokenize_with_weights(text, return_word_ids)
    )


@pytest.mark.parametrize(("made", "key", "length"), [(SD1Tokenizer, "l", 77), (FluxTokenizer, "t5xxl", 256)])
def test_words_are_those_of_cores_tokenizers(made, key, length):
    tokenizer = made()
    tokenized = tokenizer.tokenize_with_weights(TEXT, True)
    pieces = {v: k for k, v in getattr(tokenizer, f"clip_{key}" if key == "l" else key).tokenizer.get_vocab().items()}
    row = [pieces[token[0]] for token in tokenized[key][0]]
    found = word_positions(lambda text: tokenizer.tokenize_with_weights(text, True), TEXT, length)
    assert list(found) == [1, 2, 3, 4, 5, 6, 7]
    for number, word in enumerate(TEXT.split(), 1):
        joined = "".join(row[position] for position in found[number]).replace("</w>", "").replace("▁", "")
        assert joined == word
    taken = [position for positions in found.values() for position in positions]
    assert taken == sorted(set(taken)) and len(taken) > 7
    assert taken[0] == (1 if key == "l" else 0)
    words = token_words(clip_of(tokenizer), TEXT, length)
    assert [word for word in words if word] == TEXT.split() and len(words) == taken[-1] + 1
    assert [words[positions[0]] for positions in found.values()] == TEXT.split()


def test_tokens_of_words_are_steered(steer):
    tokenizer = SD1Tokenizer()
    embed = conditioning(tokens=77, width=768)
    words = word_positions(lambda text: tokenizer.tokenize_with_weights(text, True), TEXT, 77)
    steered = steer(embed, sae_for(768), clip=clip_of(tokenizer), text=TEXT, tokens="5,7", target="token_embeddings")
    chosen = words[5] + words[7]
    others = [position for position in range(77) if position not in chosen]
    before, after = embed[0][0], steered.result[0][0][0]
    assert torch.equal(after[:, others], before[:, others])
    direction = torch.nn.functional.normalize(tensors_for(768)["decoder"][3], dim=0)
    expected = before[:, chosen] + 0.3 * before[:, chosen].norm(dim=-1, keepdim=True) * direction
    assert torch.allclose(after[:, sorted(chosen)], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("embed", "more", "sentence"),
    [
        (SD1_TEXT, {"tokens": "8"}, "there is no 8 in this text; its words are numbered 1 to 7"),
        (SD1_TEXT, {"tokens": "1", "text": " "}, "text: it is empty, but with clip connected"),
        (vision(embeds=768), {"tokens": "1"}, "clip: a picture has no words"),
        (SD1_TEXT, {"tokens": "1", "text": "(a:1.2) cat"}, "text: its words cannot be counted"),
    ],
)
def test_words_that_are_not_there_are_told(steer, embed, more, sentence):
    with pytest.raises(ValueError, match=sentence) as failure:
        steer(embed, sae_for(768), clip=clip_of(SD1Tokenizer()), **{"text": TEXT, **more})
    assert "\n" not in str(failure.value)


def test_fluxs_pooled_vector_is_steered_with_a_warning(steer):
    embed = conditioning()
    node = steer(embed, sae_for(768))
    assert not torch.equal(node.result[0][0][1]["pooled_output"], embed[0][1]["pooled_output"])
    lines = node.ui["text"]
    assert lines[1] == "pooled_output 768 (CLIP-L text): the only one of width 768."
    assert lines[2].startswith("FLUX hardly reacts to its pooled CLIP vector; steer the picture embedding of Redux")
    other = steer(conditioning(width=2048, pooled=1280), sae_for(1280)).ui["text"]
    assert len(other) == 2 and other[1].startswith("pooled_output 1280 (CLIP-G text)")


def test_what_fails_is_told_on_the_node(steer):
    statistics = FeatureStatistics(None, None, torch.tensor([1.0, 0.0] * 20), 10)
    lines = steer(vision(), sae_for(1280, statistics=statistics), strength=1.2).ui["text"]
    assert lines[0] == "add feature 3 × 1: ‖Δ‖/‖x‖ 1.2."
    assert any(line.startswith("Δ reached 1.2 of the token norm") for line in lines)
    assert any(line.startswith("Dead in this SAE, it never fired while it was measured: feature 3.") for line in lines)
    assert "nothing changed, the strength is neutral" in steer(vision(), sae_for(1280), strength=0.0).ui["text"][0]


def test_top_features_with_a_baseline_and_swap_take_one_picture_to_another(node_classes, steer):
    one, other, sae = vision(seed=1), vision(seed=2), sae_for(1280)
    t = tensors_for(1280)
    codes = [torch.relu(x.image_embeds @ t["encoder"].T + t["encoder_bias"])[0] for x in (one, other)]

    def top(embed, baseline):
        return run_node(
            node_classes["TopEmbedFeatures"], embed=embed, sae=sae, count=5, rank_by="mean", baseline=baseline
        ).result

    found, table, chart = top(other, one)
    assert [edit.feature for edit in found] == (codes[1] - codes[0]).topk(5).indices.tolist()
    assert "difference" in table and chart.shape[-1] == 3
    lost = top(one, other)[0]
    swapped = steer(one, sae, features=found, method="swap", strength=1.0, replaces=lost).result[0].image_embeds
    w = [{edit.feature: edit.strength for edit in edits} for edits in (found, lost)]
    # at the very embedding that the features come from, the level of what fires is 1
    put = sum(strength * codes[1][k] * t["decoder"][k] for k, strength in w[0].items())
    taken = sum(strength * codes[0][k] * t["decoder"][k] for k, strength in w[1].items())
    assert torch.allclose(swapped, one.image_embeds + put - taken, atol=1e-4)


def test_top_features_of_nothing_are_told(node_classes):
    sae = sae_for(1280)
    with pytest.raises(ValueError, match="sae: no feature of some fires more for this embedding"):
        run_node(node_classes["TopEmbedFeatures"], embed=vision(), sae=sae, count=5, rank_by="mean", baseline=vision())


def test_blending_two_conditionings_needs_one_text(node_classes):
    inputs = {"sae": sae_for(768), "features": FeatureList([Edit(3)]), "amount": 1.0}
    node = node_classes["BlendEmbedFeatures"]
    with pytest.raises(ValueError, match="source: this conditioning has 2 entries"):
        run_node(node, embed=conditioning(), source=conditioning(entries=2), **inputs)
    blended = run_node(node, embed=conditioning(entries=2), source=conditioning(seed=5), **inputs)
    assert len(blended.result[0]) == 2 and "‖Δ‖/‖x‖" in blended.ui["text"][0]
    same = run_node(node, embed=conditioning(), source=conditioning(seed=5), **{**inputs, "amount": 0.0})
    assert "nothing changed, the amount is 0" in same.ui["text"][0]


def test_named_features_are_shown_by_name(node_classes):
    sae, embed = sae_for(1280), vision()
    inputs = {"embed": embed, "sae": sae, "count": 2, "rank_by": "mean"}
    found, plain, _ = run_node(node_classes["TopEmbedFeatures"], **inputs).result
    assert "name" not in plain
    store = notebooks()
    store.of_fingerprint(fingerprint(sae)).update({found[1].feature: Label("soft\n  light")})
    try:
        table = run_node(node_classes["TopEmbedFeatures"], **inputs).result[1]
        assert table.splitlines()[1].endswith("name")
        assert table.splitlines()[3] == f"{plain.splitlines()[3]}  soft light"
        store.labels_path(fingerprint(sae)).write_text("{broken")
        assert run_node(node_classes["TopEmbedFeatures"], **inputs).result[1] == plain
        assert store.labels_path(fingerprint(sae)).read_text() == "{broken"
    finally:
        store.labels_path(fingerprint(sae)).unlink()
