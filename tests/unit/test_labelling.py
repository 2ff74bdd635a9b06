"""Names of features: the words that raise them most, against formulas written out here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab.evidence.name_features import measure_names, name_embed_features, selectivity
from sae.demo.shapes import Prompt, all_prompts, read_prompt
from sae.demo.shipped_weights import ATTENTION_SAE, EMBED_SAE, TEXT_SAE, load_sae, load_transformer
from sae.dictionary.fingerprint import fingerprint
from sae.finding.labelling import SOURCE, UNCLEAR, WordTally, read_contexts, read_words
from sae.finding.labelling_directions import label_directions, text_rows
from sae.known.labels import Label, Labels, merge, shipped_labels
from small_saes import small_sae

WORDS = ["red", "blue", "big", "small"]
CONTEXTS = ["{} cat", "{} dog on red", "{} house"]


def filled(activations: torch.Tensor) -> WordTally:
    """activations (W, C, d_sae)."""
    tally = WordTally.new(WORDS, CONTEXTS, activations.shape[-1])
    prompts = []
    while tally.done < tally.runs:
        word, context = divmod(tally.done, len(CONTEXTS))
        prompts.append(tally.next())
        tally.add(activations[word, context])
    assert prompts[:4] == ["red cat", "red dog on red", "red house", "blue cat"]
    return tally


def test_names_from_more_contexts_stay() -> None:
    known = {k: Label("old", source=SOURCE, contexts=contexts) for k, contexts in enumerate((48, 6, None, 5))}
    found = {k: Label("new", source=SOURCE, contexts=6) for k in range(4)}
    assert sorted(merge(known, found)) == [1, 2, 3]
    assert sorted(merge(known, {k: Label("new", source=SOURCE) for k in range(4)})) == [2]


def test_what_is_kept_does_not_grow_with_the_words(tmp_path: Path) -> None:
    """Of each feature the best few words, and of each word that a context says three rows."""
    sizes = []
    for count in (10, 1000):
        tally = WordTally.new([f"word{i}" for i in range(count)], ["{}", "{} on word3"], 4096)
        tally.add(torch.ones(4096))
        tally.save(tmp_path / "kept.safetensors", "key")
        sizes.append((tmp_path / "kept.safetensors").stat().st_size)
    assert sizes[1] < sizes[0] + 1000 < 20 * 4 * 4096


def test_contexts_that_say_too_many_words_are_refused_before_anything_runs() -> None:
    words = [f"word{i}" for i in range(200)]
    WordTally.new(words, ["{} " + " ".join(words[:100]), "{}"], 200_000)
    with pytest.raises(
        ValueError, match=r"^contexts: they say 200 of the words, but .* 200000 features .* at most 111 "
    ):
        WordTally.new(words, ["{} " + " ".join(words), "{}"], 200_000)


@pytest.mark.parametrize(
    "words", [["red", "blue", "big", "small", "cat", "dog", "sun"], ["red", "cat"], ["sun", "red"], ["sun", "big"]]
)
def test_the_best_words_are_those_of_the_whole_table(words: list[str]) -> None:
    """Against the table (words, contexts, features) that is not kept; a context that says a word is left out there."""
    random = torch.Generator().manual_seed(0)
    contexts = ["{} cat", "{} dog on red", "{} house", "a {}"]
    count, kept = len(words), min(3, len(words))
    table = torch.rand(count, 4, 300, generator=random) * (torch.rand(count, 4, 300, generator=random) > 0.5)
    tally = WordTally.new(words, contexts, 300)
    for activation in table.flatten(0, 1):
        tally.add(activation)
    raised = []
    for number, word in enumerate(words):
        places = [i for i, context in enumerate(contexts) if word not in context.split()]
        rest = [other for other in range(count) if other != number]
        raised.append(table[number].mean(0) - table[rest][:, places].mean((0, 1)))
    height, order = (part[:kept] for part in torch.stack(raised).sort(dim=0, descending=True))
    found = tally.best_words()
    assert torch.equal(found.words, order)
    torch.testing.assert_close(found.raised, height)
    torch.testing.assert_close(found.mean, table.mean(1).gather(0, order))
    assert torch.equal(found.fired, (table > 0).sum(1).float().gather(0, order))


def test_names_scores_and_what_is_unclear() -> None:
    x = torch.zeros(4, 3, 6)
    x[0, :, 0] = 2.0  # red alone
    x[1, :, 1], x[2, :, 1] = 1.0, 0.9  # blue and big alike
    x[:3, :, 2] = 1.0  # three words alike
    x[:, :, 3] = 1.0  # everything
    x[3, 0, 4] = 5.0  # small, in one context of three
    labels = filled(x).labels(0.6)
    assert {k: label.name for k, label in labels.items()} == {
        0: "red", 1: "blue, big", 2: UNCLEAR, 3: UNCLEAR, 4: UNCLEAR,
    }  # fmt: skip
    assert labels[0] == Label("red", "raised most by red 2", SOURCE, 1.0, 3)
    assert labels[1].score == pytest.approx(1 - 0.9 / 3, abs=1e-3)
    assert filled(x).labels(0.71)[1].name == UNCLEAR
    assert 5 not in labels  # it never fired, so nothing is said of it


def test_contexts_that_all_say_a_word() -> None:
    with pytest.raises(ValueError, match=r"^contexts: each of them says 'cat'; give one that does not\.$"):
        WordTally.new(["cat", "dog"], ["{} and a cat"], 3)


@pytest.mark.parametrize("contexts", [CONTEXTS, ["{}", "a {}", "{} house"]], ids=["said words", "none said"])
@pytest.mark.parametrize("stopped", range(1, 12))
def test_a_cancelled_run_is_taken_up_where_it_stopped(contexts: list[str], stopped: int, tmp_path: Path) -> None:
    activations = torch.rand(12, 7, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "sub" / "kept.safetensors"
    whole, tally = (WordTally.new(WORDS, contexts, 7) for _ in range(2))
    for activation in activations:
        whole.add(activation)
    for activation in activations[:stopped]:
        tally.add(activation)
    tally.save(path, "key")
    assert WordTally.resumed(path, "other key", WORDS, contexts, 7).done == 0
    assert WordTally.resumed(path, "key", WORDS, contexts, 8).done == 0
    again = WordTally.resumed(path, "key", WORDS, contexts, 7)
    assert again.done == stopped
    for activation in activations[stopped:]:
        again.add(activation)
    assert again.labels(0.5) == whole.labels(0.5) != {}


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"a": 1}'])
def test_a_broken_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kept.safetensors"
    path.write_bytes(content)
    assert WordTally.resumed(path, "key", WORDS, CONTEXTS, 7).done == 0


def test_words_and_contexts() -> None:
    assert read_words("red, blue\n# no\nbig cat\nred") == ["red", "blue", "big cat"]
    shipped = read_words(" ")
    assert 300 <= len(shipped) <= 350
    assert {"red", "oil painting", "calm", "dog"} <= set(shipped)
    assert read_contexts("") == ["{}"]
    assert read_contexts("a {} b\n\n{}") == ["a {} b", "{}"]
    with pytest.raises(ValueError, match=r"^words: 1 came; give 2 to 5000"):
        read_words("red")
    for wrong in ("no place", "{} and {}"):
        with pytest.raises(ValueError, match=r"^contexts: .* each line needs \{\} once"):
            read_contexts(wrong)


def test_names_that_people_gave_stay() -> None:
    found = {k: Label("red", source=SOURCE) for k in range(4)}
    known = {0: Label("mine"), 1: Label("old", source=SOURCE), 2: Label("x", source="a.csv")}
    assert sorted(merge(known, found)) == [1, 3]


def test_directions_are_named_by_the_text_that_points_there() -> None:
    sae = small_sae("relu")
    directions = sae.direction([2, 5])
    embeds = torch.stack([directions[0] * 3 + 10, directions[1] * 2 + 10, torch.randn(sae.d_in) * 0.01 + 10])
    labels = label_directions(sae, ["a", "b", "c"], text_rows(embeds, 1), 0.5)
    unit = torch.nn.functional.normalize(embeds, dim=-1)
    unit = torch.nn.functional.normalize(unit - unit.mean(0), dim=-1)
    for k, label in labels.items():
        cosines = (unit @ sae.direction([k])[0] / sae.direction([k])[0].norm()).sort(descending=True)
        score = min(1.0, float(1 - cosines.values[1] / cosines.values[0]))
        assert label.score == pytest.approx(score, abs=1e-3)
        expected = "abc"[int(cosines.indices[0])] if score >= 0.5 else UNCLEAR
        assert label.name == expected
    with pytest.raises(ValueError, match=r"^encoder: its texts have width 3, but .* width"):
        label_directions(sae, ["a", "b"], torch.eye(3)[:2], 0.5)


def test_selectivity_counts_words_that_the_feature_owes_everything_to() -> None:
    prompts = all_prompts()
    red = torch.tensor([float(prompt.colour == "red") for prompt in prompts])
    left_too = torch.tensor([float(prompt.place == "left" and prompt.colour == "red") for prompt in prompts])
    found = selectivity(torch.stack([red, left_too, torch.ones(len(prompts)), torch.zeros(len(prompts))], 1), prompts)
    assert found.specific == {0: "red"}
    assert found.unspecific == [2]


# The attention's outputs have few features that answer to one word: 14 of 512, of which 8 get it.
NAMED = {TEXT_SAE: (0.75, 40), ATTENTION_SAE: (0.5, 10)}


def found_alone(labels: Labels) -> Labels:
    """Without what somebody wrote, which stands where no word won."""
    return {k: replace(label, name=UNCLEAR) if label.source == "by hand" else label for k, label in labels.items()}


def test_shapes_features_have_the_right_word() -> None:
    saes = [load_sae(name) for name in NAMED]
    shipped = [shipped_labels(sae).read(fingerprint(sae)) for sae in saes]
    measured = measure_names(load_transformer(), saes, [found_alone(labels) for labels in shipped])
    for found, (share, least) in zip(measured, NAMED.values(), strict=True):
        assert found.specific >= least and found.right >= share * found.specific
        assert found.wrong <= max(1, 0.05 * found.specific)
        assert found.unclear >= 0.75 * found.unspecific
    # those written by hand are surer to say something than to be right: 10 of 58 that answer to one word lack it
    [with_ours, _] = measure_names(load_transformer(), saes, shipped)
    assert with_ours.right == measured[0].right and with_ours.wrong <= 0.2 * with_ours.specific


def test_shipped_labels_are_those_of_the_shipped_saes() -> None:
    for name in (TEXT_SAE, ATTENTION_SAE, EMBED_SAE):
        sae = load_sae(name)
        labels = shipped_labels(sae).read(fingerprint(sae))
        assert len({label.name for label in labels.values()}) > 8
    found = {k: label.name for k, label in name_embed_features(sae).items()}
    assert found == {k: label.name for k, label in found_alone(labels).items()}


def test_the_demo_reads_texts_as_an_encoder_does() -> None:
    assert read_prompt("a photo of a blue circle, red, big") == Prompt("blue", "circle", None, "big", None)
