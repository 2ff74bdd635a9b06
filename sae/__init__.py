"""Look inside image models with sparse autoencoders (SAEs), and steer them by what is found there.

    import sae

    shapes = sae.Shapes()  # a very small FLUX that comes with the project, and its SAE
    blue, red = shapes.draws("blue square"), shapes.draws("red square")
    found = sae.find(shapes.sae, blue, red, model=shapes.model)
    print(found.table)
    with sae.steer(shapes.model, found.steering()) as steered:
        shapes.draws("red circle left small white", seed=1)(steered.result).save("blue.png")
    print(steered.summary)

The same calls take a FLUX pipeline's `transformer`, a MODEL of ComfyUI, or an embedding. Names are read when they are
first used, so that importing this costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .demo.try_it import Shapes
    from .finding.concept import Concept
    from .formats import load
    from .hosts.any_model import contrast, find, steer
    from .steering.delta import Steering
    from .steering.edits import Edit

_FROM = {
    "Concept": "finding.concept",
    "Edit": "steering.edits",
    "Shapes": "demo.try_it",
    "Steering": "steering.delta",
    "contrast": "hosts.any_model",
    "find": "hosts.any_model",
    "load": "formats",
    "steer": "hosts.any_model",
}
__all__ = ["Concept", "Edit", "Shapes", "Steering", "contrast", "find", "load", "steer"]


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_FROM[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
