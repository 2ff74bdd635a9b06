"""Recipes as files in output/sae/recipes: which there are, reading one, and writing one over no other."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from ...sae.files.quote import quoted
from ...sae.files.small_json import parse_object, read_json, write_json
from ...sae.hosts.comfyui.own_folders import output_folder
from ...sae.steering.recipe import MOST_CHARACTERS, Recipe, recipe_from

SUFFIX = ".json"
MOST_NUMBERS = 10_000  # of files of one name


def recipes_folder() -> Path:
    """Where SaveRecipe writes: output/sae/recipes."""
    return output_folder() / "recipes"


def recipe_names() -> list[str]:
    """The files as paths inside the folder, sub-folders included; links that lead out of it are left out."""
    folder = recipes_folder()
    found = [path for path in folder.rglob(f"*{SUFFIX}") if inside(path, folder)]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def saved_path(name: str) -> Path:
    """Where a listed recipe lies; ValueError for any other name."""
    if name not in recipe_names():
        raise ValueError(
            f"saved: {quoted(name)} is not among the recipes in output/sae/recipes; choose one of the list."
        )
    return recipes_folder() / name


def read_saved(name: str) -> Recipe:
    """A listed recipe; ValueError for any other name, and for a file that is none."""
    return recipe_from(read_json(saved_path(name), "recipe", most=4 * MOST_CHARACTERS))


def write_recipe_file(name: str, text: str, overwrite: bool) -> tuple[Path, bool]:
    """Writes a recipe's JSON as `name`, and tells whether a file was written: not where the same one lies there.

    Another recipe of that name stays, and the new one gets a number, unless it may be overwritten. ValueError for a
    name that leads out of the folder.
    """
    plain = _checked(name)
    for number in count(1):
        path = recipes_folder() / f"{plain}{f'-{number}' if number > 1 else ''}{SUFFIX}"
        if path.is_file() and _holds(path, text):
            return path, False
        if overwrite or not path.exists():
            break
        if number == MOST_NUMBERS:
            raise ValueError(f"name: there are {MOST_NUMBERS} recipes called {quoted(plain)}; give another name.")
    write_json(path, parse_object(text, "recipe: the text"))
    return path, True


def _checked(name: str) -> str:
    plain = name.strip().removesuffix(SUFFIX)
    if not plain or set(plain) & set('/\\:*?"<>|') or not plain.isprintable() or plain.startswith("."):
        raise ValueError(f"name: {name!r} is no name of a file; write one such as my-recipe.")
    return plain


def _holds(path: Path, text: str) -> bool:
    try:
        return path.stat().st_size <= 4 * MOST_CHARACTERS and path.read_text(encoding="utf-8").strip() == text
    except (OSError, UnicodeDecodeError):
        return False  # so it is another file, which stays


def inside(path: Path, folder: Path) -> bool:
    """Whether there is a file, and no link that leads out of the folder."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())
