"""How much a training may take, for those who do not want to say it number by number."""

from __future__ import annotations

from dataclasses import dataclass

FEWEST_BATCH, STEPS_A_PASS = 64, 16


@dataclass(frozen=True)
class Preset:
    tokens: int
    steps: int
    batch_tokens: int
    expansion: int  # features for each number of the width
    tried_features: int  # whose steering is measured on the result

    def batch_for(self, tokens: int) -> int:
        """Fewer a step where there are few: a power of two, so that a few more tokens do not change it."""
        return min(self.batch_tokens, max(FEWEST_BATCH, 2 ** (max(1, tokens // STEPS_A_PASS).bit_length() - 1)))


PRESETS = {
    "try it (5 minutes)": Preset(60_000, 1_500, 1024, 4, 20),
    "good (an hour)": Preset(1_000_000, 10_000, 4096, 8, 50),
    "publish (a night)": Preset(8_000_000, 60_000, 4096, 16, 100),
}
