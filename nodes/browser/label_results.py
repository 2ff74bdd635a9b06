"""What both nodes that name features ask for, keep and show."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io, ui

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.finding.labelling import UNCLEAR
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.known.labels import Labels
from ..inputs.plain_inputs import expert_switch, lines_input

MOST_LINES = 200  # of the table


def word_inputs(contexts: str, threshold: float, threshold_tip: str) -> list[io.Input]:
    return [
        lines_input(
            "words", "Words or short phrases, one a line or between commas. Empty: about 300 that come with the pack."
        ),
        lines_input(
            "contexts",
            "Prompts with {} for the word, one a line. More, and such as you write yourself, name better.",
            contexts,
        ),
        io.Float.Input("threshold", default=threshold, min=0.0, max=1.0, step=0.01, tooltip=threshold_tip),
    ]


def save_names_input() -> io.Boolean.Input:
    return expert_switch(
        "save", True, "Keeps the names, but never over a name that somebody gave or that more contexts found."
    )


def written(
    saes: Sequence[tuple[SparseAutoencoder, int]], found: Labels, save: bool, told: Sequence[str] = ()
) -> io.NodeOutput:
    """Keeps the labels, but never over better ones; the table of them, with what else is `told`.

    `found` numbers the features of the SAEs through; each comes with the number that its first feature has for people.
    """
    known, kept, passed, warnings = notebooks(), 0, 0, list[str]()
    shown: Labels = {}
    for sae, first in saes:
        own = {k - passed: label for k, label in found.items() if passed <= k < passed + sae.d_sae}
        if own and save:
            notebook = known.of(sae)
            kept += len(own) - len(notebook.add(own))
            warnings += notebook.warnings
        shown |= {first + k: label for k, label in own.items()}
        passed += sae.d_sae
    named = {k: label for k, label in shown.items() if label.name != UNCLEAR}
    lines = [
        f"{len(named)} of {passed} features named, {len(found) - len(named)} unclear, "
        f"{passed - len(found)} fired for no word.",
        *([f"{kept} kept the name that somebody gave or that more contexts found."] if kept else []),
        *warnings,
        *told,
        f"{'feature':>8} {'score':>6}  name",
    ]
    best = sorted(named.items(), key=lambda entry: -(entry[1].score or 0))
    lines += [f"{k:>8} {label.score:>6.2f}  {label.name}" for k, label in best[:MOST_LINES]]
    if len(best) > MOST_LINES:
        lines.append(f"… and {len(best) - MOST_LINES} more")
    table = "\n".join(lines)
    return io.NodeOutput(table, ui=ui.PreviewText(table))
