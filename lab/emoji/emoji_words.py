"""What a drawing is called, as a bag of words: FLUX gives text tokens no positions, so their order says nothing."""

from __future__ import annotations

import re

SKIN_TONES = ("light-skin", "medium-light-skin", "medium-skin", "medium-dark-skin", "dark-skin")
STYLES = ("noto", "fluent", "twemoji")
FILLERS = frozenset("a an and at for from in into like of or the to with emoji picture drawing style".split())

_SKIN = re.compile(r"\b(medium[- ]light|medium[- ]dark|light|medium|dark)[- ]skin(?:[- ]tone)?\b")
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")


def split_words(text: str) -> list[str]:
    """The words of a name or a prompt, each once, without fillers; "dark skin tone" is one word, dark-skin."""
    plain = _SKIN.sub(lambda found: f" {found[1].replace(' ', '-')}-skin ", text.lower().replace("’", "'"))
    words = (word for found in _WORD.findall(plain) for word in _parts(found))
    return list(dict.fromkeys(word for word in words if word not in FILLERS))


def _parts(word: str) -> list[str]:
    """A word with hyphens in its parts, so that "heart-eyes" and "heart eyes" are the same; skin tones stay whole."""
    return [word] if word in SKIN_TONES else [part for part in word.replace("'", "").split("-") if part]
