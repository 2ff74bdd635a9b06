"""Recipes as presets of FeatureMixer: those that lie in output/sae/recipes, and a recipe as the panel's value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae
from ...sae.files.quote import quoted, shown
from ...sae.files.small_json import read_json
from ...sae.steering.mixer_value import beyond_mix, mix_of
from ...sae.steering.recipe import Recipe, read_recipe, recipe_from
from .recipe_files import SUFFIX, inside, recipe_names, recipes_folder
from .sae_sources import SaeSources

MOST_LISTED = 200
MOST_BYTES = 2**20  # of a recipe's file
LONGEST_NOTE = 500
PICTURES = (".webp", ".png", ".jpg", ".jpeg")


def list_presets(sources: SaeSources, query: Mapping[str, str]) -> dict[str, Any]:
    """The recipes in the folder, those of the SAE that the query tells first; what cannot be read is told.

    A picture of a recipe's name beside it is named, to be had from ComfyUI's own route /view.
    """
    sae = sources.open(query)
    mark = query.get("fingerprint", "") if sae is None else fingerprint(sae)
    files = _files()
    listed = [_listed(name, path, mark) for name, path in list(files.items())[:MOST_LISTED]]
    found = [one for one in listed if isinstance(one, dict)]
    warnings = [one for one in listed if isinstance(one, str)]
    if len(files) > MOST_LISTED:
        warnings.append(f"recipes: the first {MOST_LISTED} of {len(files)} are listed.")
    folder = recipes_folder().relative_to(folder_paths.get_output_directory()).as_posix()
    return {"recipes": sorted(found, key=lambda one: not one["fits"]), "folder": folder, "warnings": warnings}


def open_preset(sources: SaeSources, body: Mapping[str, Any]) -> dict[str, Any]:
    """The panel's value of a recipe, given by its `name` in the folder or as a text, `recipe`.

    `source` tells the SAE that is connected to the panel. ValueError where the recipe needs another one.
    """
    source = body.get("source")
    if not isinstance(source, Mapping) or not all(isinstance(value, str) for value in source.values()):
        raise ValueError("source: the SAE that is connected to the panel is needed; connect one.")
    recipe = _asked(body)
    sae, _ = sources.opened(source)
    _check_sae(recipe, sae)
    return {"mix": mix_of(recipe, sae.owner), "told": beyond_mix(recipe)}


def _asked(body: Mapping[str, Any]) -> Recipe:
    name, text = body.get("name"), body.get("recipe")
    if isinstance(text, str):
        return read_recipe(text)
    files = _files()
    if not isinstance(name, str) or name not in files:
        raise ValueError(f"name: {quoted(name)} is no recipe in {recipes_folder().name}; choose one of the list.")
    return _read(files[name])


def _files() -> dict[str, Path]:
    """The recipes' files by their names."""
    return {name.removesuffix(SUFFIX): recipes_folder() / name for name in recipe_names()}


def _read(path: Path) -> Recipe:
    content = read_json(path, "recipe", most=MOST_BYTES)
    try:
        return recipe_from(content)
    except ValueError as error:
        raise ValueError(f"{shown(path.name)}: {error}") from error


def _listed(name: str, path: Path, mark: str) -> dict[str, Any] | str:
    """What the list shows of a recipe, or what is wrong with it."""
    try:
        recipe = _read(path)
    except ValueError as error:
        return str(error)
    picture = next((p.name for p in map(path.with_suffix, PICTURES) if inside(p, recipes_folder())), None)
    return {
        "name": name,
        "note": recipe.note[:LONGEST_NOTE],
        "features": len(recipe.features),
        "sae": recipe.sae.name,
        "fits": recipe.sae.fingerprint == mark,
        "picture": picture,
    }


def _check_sae(recipe: Recipe, sae: AnySae) -> None:
    if recipe.sae.fingerprint != fingerprint(sae):
        theirs, ours = shown(recipe.sae.name) or "another SAE", f"{shown(sae.name)} ({fingerprint(sae)[:12]}…)"
        raise ValueError(
            f"recipe: it was made with {theirs} ({recipe.sae.fingerprint[:12]}…), but {ours} is connected to this "
            "panel; connect the recipe's."
        )
