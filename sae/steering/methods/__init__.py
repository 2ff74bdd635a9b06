"""The methods of steering: one file each, which holds the formula, its source and what others ask of it.

A new method is a new file here whose `METHOD` is a `SteeringMethod`; nodes, recipes, sets and help follow it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from ..edits import Auto, Edit, Method
from . import add, swap
from .steering_method import SteeringMethod


def collected() -> dict[str, SteeringMethod]:
    """Those of the files in this folder, in the order in which people see them."""
    modules = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    found = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return {method.name: method for method in sorted(found, key=lambda method: (method.listed, method.name))}


METHODS: dict[Method, SteeringMethod] = collected()

DEFAULT: Method = add.METHOD.name  # where nobody says which, and what `auto` means
WITH_REPLACES: Method = swap.METHOD.name  # what `auto` means where there is something to take out


def method_for(method: Method | Auto, replaces: Iterable[Edit] | None) -> Method:
    """The method that `auto` means: WITH_REPLACES where there is something to take out, else DEFAULT."""
    if method != "auto":
        return method
    return WITH_REPLACES if replaces else DEFAULT


def is_method(name: object) -> bool:
    """Whether that is a method's name, of anything that may stand in a file."""
    return isinstance(name, str) and name in METHODS
