"""What was measured, line by line, as JSON keeps it and as Markdown tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sae.demo.shapes import SLOTS

from ..judge.score import Score

UNSTEERED, WORDED = "unsteered", "the prompt says the target's word"


@dataclass
class Line:
    """One way of steering, over all changes of a kind; `random` is its control."""

    where: str
    what: str
    score: Score
    random: Score | None = None

    def markdown(self) -> str:
        score, random = self.score, self.random
        ratio = {UNSTEERED: "0", WORDED: ""}.get(self.what, f"{score.ratio / max(score.runs, 1):.2f}")
        counts = [score.changed, *score.kept.values(), score.all_kept, score.strict]
        control = ["", ""] if random is None else [percent(random, random.changed), percent(random, random.strict)]
        return _row([self.where, self.what, ratio, *(percent(score, count) for count in counts), *control])


@dataclass
class Table:
    """The lines of one kind of change, and how many unsteered pictures show each word of their prompt."""

    slot: str
    lines: list[Line]
    shown: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SLOTS, 0))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Table:
        """From `content`."""
        return cls(content["slot"], [_read_line(line) for line in content["lines"]], content["shown"])

    def content(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def pictures(self) -> int:
        return self.lines[0].score.pictures

    def drawn(self) -> str:
        """Of unsteered pictures, the share that shows what the prompt says."""
        return " · ".join(f"{slot} {count / max(self.pictures, 1):.0%}" for slot, count in self.shown.items())

    def markdown(self) -> str:
        kept = self.lines[0].score.kept
        head = ["where", "steering", "‖Δ‖/‖x‖", "changed", *kept, "all kept", "strict"]
        head += ["random: changed", "random: strict"]
        return "\n".join([_row(head), "|---" * len(head) + "|", *(line.markdown() for line in self.lines), ""])


def percent(score: Score, count: int) -> str:
    return f"{score.share(count):.0%}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read_line(content: Mapping[str, Any]) -> Line:
    random = content["random"]
    return Line(
        content["where"],
        content["what"],
        Score(**content["score"]),
        None if random is None else Score(**random),
    )
