"""Names of emoji as words: how prompts are read, what training tells, and which names it never sees."""

import random

import pytest

from lab.emoji.drawings import Drawing
from lab.emoji.emoji_words import SKIN_TONES, STYLES, split_words
from lab.emoji.prompts import Words, full_prompt, known_words, sampling_weights, told


def drawing(name="woman firefighter", style="noto", tone=None, tags=("fire", "firetruck")):
    label = f"{name}: {tone.removesuffix('-skin')} skin tone" if tone else name
    return Drawing(style, label, name, "people-body", tuple(split_words(label)), tags, tone)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("woman firefighter: medium-dark skin tone", ["woman", "firefighter", "medium-dark-skin"]),
        ("A firefighter with Medium Light Skin Tone", ["firefighter", "medium-light-skin"]),
        ("dark skin", ["dark-skin"]),
        ("dark night", ["dark", "night"]),
        ("the smiling face with heart-eyes", ["smiling", "face", "heart", "eyes"]),
        ("cat, cat CAT!", ["cat"]),
        ("twelve o’clock", ["twelve", "oclock"]),
        ("", []),
    ],
)
def test_a_prompt_is_read_as_a_bag_of_words(text, words):
    assert split_words(text) == words


def test_each_skin_tone_is_read_back_as_itself():
    for tone in SKIN_TONES:
        assert split_words(tone) == split_words(tone.replace("-skin", " skin tone")) == [tone]


def test_the_name_says_gender_and_skin():
    toned = drawing(tone="dark-skin")
    assert toned.words == ("woman", "firefighter", "dark-skin")
    assert toned.gender == "woman"
    assert drawing("cat face").gender is None


def test_one_in_twelve_combinations_is_held_out_and_always_the_same():
    names = [drawing(f"thing {number}", style) for number in range(2000) for style in STYLES]
    held_out = [one for one in names if one.held_out]
    assert len(held_out) / len(names) == pytest.approx(1 / 12, abs=0.012)
    assert [(one.name, one.style) for one in held_out[:2]] == [("thing 1", "fluent"), ("thing 14", "twemoji")]
    both = {style: {one.name for one in held_out if one.style == style} for style in STYLES}
    assert len(both["noto"] & both["fluent"]) < len(both["noto"]) / 6  # a style is held out, not a name


def test_rows_of_words():
    words = Words(["noto", "fluent", "cat", "face"])
    assert words.read("a cat, noto, unheard") == [3, 1, 0, 0, 0, 0, 0, 0]
    assert words.row_of(["cat"] * 9) == [3] * 8
    assert words.read("") == [0] * 8


def test_words_are_read_back(tmp_path):
    words = Words(["noto", "cat"])
    words.save(tmp_path / "words.json")
    assert Words.load(tmp_path / "words.json").rows == {"noto": 1, "cat": 2}


def test_known_words_hold_names_and_common_keywords_once():
    cats = [
        drawing(f"{kind} cat", tags=("pet", "rare" if kind == "black" else "cat")) for kind in "big black red".split()
    ]
    dog = drawing("dog", tags=("pet",))
    words = known_words([*cats, dog, dog])
    assert words[: len(STYLES) + len(SKIN_TONES)] == [*STYLES, *SKIN_TONES]
    assert "pet" in words and "rare" not in words
    assert len(words) == len(set(words))
    assert {"big", "black", "red", "cat", "dog"} < set(words)


def test_what_training_tells():
    rng = random.Random(0)
    one = drawing(tone="dark-skin")
    every = [told(one, rng) for _ in range(4000)]
    said = [words for words in every if words]
    assert 1 - len(said) / len(every) == pytest.approx(0.08, abs=0.015)
    assert all("dark-skin" in words for words in said)  # without it, yellow would be told of a brown picture
    assert sum("noto" in words for words in said) / len(said) == pytest.approx(0.9, abs=0.015)
    assert sum("woman" in words for words in said) / len(said) == pytest.approx(0.9 * 0.95, abs=0.02)
    assert sum("fire" in words or "firetruck" in words for words in said) / len(said) == pytest.approx(0.25, abs=0.04)
    assert set().union(*said) == {*full_prompt(one), "fire", "firetruck"}


def test_skin_tones_count_less():
    assert sampling_weights([drawing(), drawing(tone="dark-skin")]) == [1.0, 0.3]
