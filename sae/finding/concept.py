"""What a search comes to: the features of what is wanted and of what gives way, ready to steer with."""

from __future__ import annotations

from dataclasses import dataclass

from ..dictionary.sae_set import AnySae
from ..steering.edits import Auto, FeatureList, Method, Unit
from ..steering.methods import METHODS, method_for
from ..steering.set_up import SetUp, Wanted


@dataclass(frozen=True)
class Concept:
    """Features of `sae` that what is wanted has over the other side (`features`), the reverse (`replaces`), a table."""

    sae: AnySae
    features: FeatureList
    replaces: FeatureList
    table: str

    def steering(self, strength: float = 1.0, method: Method | Auto = "auto", unit: Unit = "auto") -> SetUp:
        """What `sae.steer` takes. `auto` swaps where there is something to take out, and else adds.

        `strength` 1 is the natural amount of a swap, and a fifth of a token's length where features are added.
        Raises ValueError for a method or unit that there is not, and where the method lacks what it needs.

        >>> import sae, torch
        >>> blue, red = torch.eye(8)[None, :2], torch.eye(8)[None, 2:4]  # (1, 2 tokens, 8 wide)
        >>> concept = sae.contrast([blue, blue * 1.1], [red, red * 1.1])
        >>> concept.steering().wanted.method
        'swap'
        >>> concept.steering(0.5, "add").wanted.strength
        0.5
        """
        chosen = method_for(method, self.replaces)
        replaces = self.replaces if METHODS[chosen].needs_replaces else ()
        return SetUp(self.sae, Wanted(self.features, chosen, strength, unit, replaces))
