"""What training tells of a drawing: its words, some left out, some joined by keywords; and the list of known words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from .drawings import Drawing
from .emoji_flux import TEXT_TOKENS
from .emoji_words import SKIN_TONES, STYLES, split_words

PROMPT_DROPOUT = 0.08  # so that the empty prompt works as the negative one
WORD_DROPOUT = 0.1
STYLE_DROPOUT = 0.1
KEYWORDS = 0.2  # share of prompts with keywords beside the name's words
ONLY_KEYWORDS = 0.05  # share of prompts with keywords instead of the name's words
COMMON = 4  # names that a keyword must belong to
TONED_WEIGHT = 0.3  # of each drawing with a skin tone, while one without counts 1


def known_words(drawings: Iterable[Drawing]) -> list[str]:
    """Styles, skin tones, words of names, and the keywords that several names share."""
    names: dict[str, Drawing] = {drawing.base: drawing for drawing in drawings}
    counts: dict[str, int] = {}
    for drawing in names.values():
        for tag in drawing.tags:
            counts[tag] = counts.get(tag, 0) + 1
    spoken = {word for drawing in drawings for word in drawing.words}
    common = {tag for tag, count in counts.items() if count >= COMMON}
    return [*STYLES, *SKIN_TONES, *sorted((spoken | common) - {*STYLES, *SKIN_TONES})]


class Words:
    """Known words and their rows in the model's table; row 0 says nothing."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.rows = {word: 1 + row for row, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    def row_of(self, words: Iterable[str]) -> list[int]:
        """Rows (8) of the words that are known, padded by row 0; further ones are left out."""
        known = [self.rows[word] for word in words if word in self.rows][:TEXT_TOKENS]
        return known + [0] * (TEXT_TOKENS - len(known))

    def read(self, text: str) -> list[int]:
        return self.row_of(split_words(text))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.words), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Words:
        return cls(json.loads(path.read_text(encoding="utf-8")))


def full_prompt(drawing: Drawing) -> list[str]:
    """All words of the name, and the style."""
    return [*drawing.words, drawing.style]


def told(drawing: Drawing, rng: random.Random) -> list[str]:
    """The words of one training prompt; a skin tone goes only where the whole prompt goes."""
    if rng.random() < PROMPT_DROPOUT:
        return []
    words = [word for word in drawing.words if word == drawing.tone or rng.random() >= WORD_DROPOUT]
    chance = rng.random()
    if drawing.tags and chance < KEYWORDS + ONLY_KEYWORDS:
        if chance < ONLY_KEYWORDS:
            words = [word for word in words if word == drawing.tone]
        some = rng.sample(drawing.tags, min(len(drawing.tags), rng.randint(1, 3)))
        words += [tag for tag in some if tag not in words]
    if rng.random() >= STYLE_DROPOUT:
        words.insert(0, drawing.style)  # first, where too many words cut it off last
    return words


def sampling_weights(drawings: Iterable[Drawing]) -> list[float]:
    return [TONED_WEIGHT if drawing.tone else 1.0 for drawing in drawings]
