"""The changes that the evidence asks for: another word of the same kind in a prompt, all else as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sae.demo.shapes import SLOTS, Prompt, held_out_prompts

# The features are found with the first of these, or with all of them, each word of a kind in its turn.
FINDING = (
    Prompt("red", "square", "center", "big", "grey"),
    Prompt("orange", "circle", "left", "small", "white"),
    Prompt("blue", "cross", "top", "big", "black"),
    Prompt("green", "triangle", "right", "small", "grey"),
    Prompt("yellow", "circle", "bottom", "big", "black"),
    Prompt("purple", "square", "top", "small", "white"),
    Prompt("red", "cross", "right", "big", "grey"),
    Prompt("blue", "triangle", "center", "small", "black"),
)
RUNS = 8  # pictures that a search looks at, shared by its prompts
FIRST_SEED = 1000


@dataclass(frozen=True)
class Change:
    """From one word of a kind (a slot of the prompts) to another. `number` counts the changes of this kind."""

    slot: str
    source: str
    target: str
    number: int

    def prompts(self, count: int) -> list[Prompt]:
        """Others for each change, spread over all held-out ones that say the source."""
        known = [prompt for prompt in held_out_prompts() if getattr(prompt, self.slot) == self.source]
        return [known[(self.number * 5 + 7 * i) % len(known)] for i in range(count)]

    def seeds(self, count: int) -> range:
        return range(FIRST_SEED + self.number * count, FIRST_SEED + (self.number + 1) * count)

    def worded(self, prompt: Prompt) -> Prompt:
        """The prompt with the target's word: what steering is compared with."""
        return saying(prompt, self.slot, self.target)


def saying(prompt: Prompt, slot: str, word: str) -> Prompt:
    return replace(prompt, **{slot: word})


def changes(slot: str) -> Iterator[Change]:
    """From every word of a kind to every other."""
    words = SLOTS[slot]
    pairs = [(source, target) for source in words for target in words if source != target]
    for number, (source, target) in enumerate(pairs):
        yield Change(slot, source, target, number)
