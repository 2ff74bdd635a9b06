"""Kinds of inputs that many nodes have: each gets its name, and what it says."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

FAMILIAR = "A model of a known family, such as FLUX"


def model_input() -> io.Model.Input:
    """A model that is looked at."""
    return io.Model.Input("model", tooltip=f"{FAMILIAR}; it stays as it is.")


def steered_model_input() -> io.Model.Input:
    """A model of which a steered copy is given."""
    return io.Model.Input("model", tooltip=f"{FAMILIAR}. It stays as it is; the output is a steered copy.")


def steps_input(tooltip: str, name: str = "steps", **more: Any) -> io.Int.Input:
    """Of a short sampling; `more` goes to the input."""
    return io.Int.Input(name, default=4, min=1, max=100, step=1, tooltip=tooltip, **more)


def amount_input(name: str, most: float, tooltip: str) -> io.Float.Input:
    """A factor of what is done, 1 by itself, and as far below 0 as above."""
    return io.Float.Input(name, default=1.0, min=-most, max=most, step=0.05, round=False, tooltip=tooltip)


def lines_input(name: str, tooltip: str, default: str = "", **more: Any) -> io.String.Input:
    """A text of several lines; `more` goes to the input."""
    return io.String.Input(name, default=default, multiline=True, tooltip=tooltip, **more)


def lines_in(text: str) -> list[str]:
    """What stands in such a text, one a line; empty lines are none."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def expert_text(name: str, default: str, tooltip: str) -> io.String.Input:
    return io.String.Input(name, default=default, optional=True, advanced=True, tooltip=tooltip)


def expert_switch(name: str, default: bool, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=default, optional=True, advanced=True, tooltip=tooltip)


def expert_number(name: str, tooltip: str, most: int, default: int = 0, least: int = 0) -> io.Int.Input:
    """A whole number."""
    return io.Int.Input(
        name, default=default, min=least, max=most, step=1, optional=True, advanced=True, tooltip=tooltip
    )


def encoded_text_inputs(clip_tip: str, text_tip: str) -> list[io.Input]:
    """A CLIP and the text that it encoded, by which a node knows words."""
    return [io.Clip.Input("clip", optional=True, tooltip=clip_tip), expert_text("text", "", text_tip)]
