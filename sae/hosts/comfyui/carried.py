"""What a steered MODEL tells of its steering: set-ups travel with it, and with its clones, as core's attachments."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher as Model

from ...steering.set_up import SetUp

KEY = "sae_steering"  # of the attachment


def carry(model: Model, set_up: SetUp) -> None:
    """Adds to what the MODEL carries already; other clones of it do not notice."""
    model.set_attachments(KEY, (*carried(model), set_up))


def carried(model: Model) -> tuple[SetUp, ...]:
    """The set-ups in the order in which they were added; none where nothing steers the MODEL."""
    found: tuple[SetUp, ...] = model.get_attachment(KEY) or ()
    return found
