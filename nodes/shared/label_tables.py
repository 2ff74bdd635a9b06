"""What both nodes that name features ask for, keep and show."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import fingerprint
from ...sae.naming.label_store import shipped_labels
from ...sae.naming.labelling import UNCLEAR
from ...sae.naming.labels import Labels
from .feature_names import label_store

MOST_LINES = 200  # of the table


def word_inputs(contexts: str, threshold: float, threshold_tip: str) -> list[io.Input]:
    return [
        io.String.Input(
            "words",
            default="",
            multiline=True,
            tooltip="Words or short phrases, one a line or between commas. Empty: about 300 that come with the pack.",
        ),
        io.String.Input(
            "contexts",
            default=contexts,
            multiline=True,
            tooltip="Prompts with {} for the word, one a line. More, and such as you write yourself, name better.",
        ),
        io.Float.Input("threshold", default=threshold, min=0.0, max=1.0, step=0.01, tooltip=threshold_tip),
    ]


def written(sae: SparseAutoencoder, found: Labels) -> io.NodeOutput:
    """Keeps the labels, but never over a name that somebody gave; the table of them."""
    store = label_store()
    new = store.add(fingerprint(sae), found, shipped_labels(sae)) if found else found
    named = {k: label for k, label in found.items() if label.name != UNCLEAR}
    lines = [
        f"{len(named)} of {sae.d_sae} features named, {len(found) - len(named)} unclear, "
        f"{sae.d_sae - len(found)} fired for no word.",
        *([f"{len(found) - len(new)} kept the name that somebody gave."] if len(new) < len(found) else []),
        *store.warnings,
        f"{'feature':>8} {'score':>6}  name",
    ]
    best = sorted(named.items(), key=lambda entry: -(entry[1].score or 0))
    lines += [f"{k:>8} {label.score:>6.2f}  {label.name}" for k, label in best[:MOST_LINES]]
    if len(best) > MOST_LINES:
        lines.append(f"… and {len(best) - MOST_LINES} more")
    table = "\n".join(lines)
    return io.NodeOutput(table, ui=ui.PreviewText(table))
