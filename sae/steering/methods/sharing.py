"""How the strengths of places that follow one another make one total: rules of `spread`."""

from __future__ import annotations


def each_the_total(total: float, places: int) -> float:
    """Each place fixes what it finds, whatever was done before."""
    return total


def equal_parts(total: float, places: int) -> float:
    """Pushes add up."""
    return total / places


def part_of_the_rest(total: float, places: int) -> float:
    """Each place takes a part out of what the one before left: 1 - total is left in the end."""
    left = 1 - total
    return total if places == 1 or left <= 0 else 1 - left ** (1 / places)


def root(total: float, places: int) -> float:
    """Each place multiplies what the one before left."""
    return total if places == 1 or total <= 0 else total ** (1 / places)
