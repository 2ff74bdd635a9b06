"""What a steering refuses, each in one sentence that names the input."""

from __future__ import annotations

import math
import re

import pytest

from sae.steering.delta import Steering
from sae.steering.edits import Edit
from small_saes import small_sae


def refused(message: str, edits: list[Edit] | None = None, **given: object) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Steering(**{"sae": small_sae(), "edits": [Edit(3)] if edits is None else edits} | given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_mistakes_in_the_list() -> None:
    refused("features: the list is empty, so there is nothing to steer with; connect SAEFeature", edits=[])
    refused("features: feature 40 does not exist in my topk, which has the features 0 to 39", [Edit(39), Edit(40)])
    refused("features: feature 99 does not exist in my topk", method="swap", replaces=[Edit(99, mean=1.0, density=1.0)])
    for method in ("set", "scale"):
        refused(
            f"features: feature 5 is named twice, which '{method}' cannot", [Edit(5), Edit(6), Edit(5)], method=method
        )


def test_mistakes_in_the_settings() -> None:
    refused("method: 'clamp' is not a method; use one of add, set, scale, boost_if_active", method="clamp")
    refused("unit: 'sigma' is not a unit; use one of token_norm, raw, mean, max", unit="sigma")
    for strength in (math.nan, math.inf, -math.inf):
        refused("is not a finite number", strength=strength)
        with pytest.raises(ValueError, match=r"strength: .* is not a finite number; feature 3 needs one"):
            Edit(3, strength)
    for feature in (-1, 1.5, True, "3"):
        with pytest.raises(ValueError, match="is not a feature; give its index, a whole number from 0 up"):
            Edit(feature)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["mean", "max"])
@pytest.mark.parametrize("method", ["add", "boost_if_active", "surgery", "set"])
def test_missing_statistics(method: str, unit: str) -> None:
    refused(f"unit: '{unit}' needs the activation of feature 7, and my topk", [Edit(7)], method=method, unit=unit)
    known = [Edit(3, mean=1.0, max=2.0), Edit(7)]
    refused(f"unit: '{unit}' needs the activation of feature 7, and my topk", known, method=method, unit=unit)
    Steering(small_sae(), known[:1], method, unit=unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["swap", "replace"])
def test_mistakes_of_a_swap(method: str) -> None:
    known = Edit(3, mean=1.0, density=0.5)
    refused(f"replaces: '{method}' needs the features to take out, but none came", method=method)
    refused("replaces: 'add' takes no features out; use swap or replace, or disconnect them", replaces=[Edit(9)])
    needs = f"method: '{method}' needs the activation of feature 9"
    refused(needs, [known], method=method, replaces=[Edit(9)])
    refused(needs, [Edit(9)], method=method, replaces=[known])
    refused("replaces: feature 3 is named twice", [known], method=method, replaces=[known, known])
    silent = Edit(9, mean=0.0, density=0.0)
    refused("replaces: feature 9 never fires", [known], method=method, replaces=[silent])
