"""What is told of where an SAE comes from, by its config or by our table of public SAEs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import TrainedOn
from ..places.families import family_named
from .known import known_checkpoint

_KEYS = {
    "model": ("model_name", "lm_name", "base_model", "model"),
    "licence": ("license", "licence"),
    "source": ("source", "repository", "repo", "repo_id", "url", "homepage", "hf_repo", "wandb_project"),
}
_FAMILY, _IDENTITY = "family", "model_identity"  # of our own layout
# The uploads cc3m-transformer_blocks.18-1 and their like, and what was made after them, are of FLUX.1-schnell.
_FLUX_NAME = re.compile(r"(?<![a-z0-9])cc3m-(single_)?transformer_blocks\.")
_K = ("k", "top_k", "trained_k")
# What the models are called in which published SAEs were trained, by how the name begins.
_TRAINED_ON: dict[str, str] = {
    "sdxl refiner": "SDXL Refiner",
    "stable-diffusion-xl-refiner": "SDXL Refiner",
    "sdxl": "SDXL",
    "stable-diffusion-xl": "SDXL",
    "stable diffusion xl": "SDXL",
    "stable-diffusion-v1": "Stable Diffusion 1",
    "stable-diffusion-1": "Stable Diffusion 1",
    "stable diffusion 1": "Stable Diffusion 1",
    "sd-turbo": "Stable Diffusion 2",
    "stable-diffusion-2": "Stable Diffusion 2",
    "stable diffusion 2": "Stable Diffusion 2",
    "flux.2": "FLUX.2",
    "flux2": "FLUX.2",
    "flux.1": "FLUX.1",
    "flux1": "FLUX.1",
    "chroma": "Chroma",
    "hunyuanvideo": "HunyuanVideo",
    "longcat": "LongCat",
    "qwen-image": "Qwen-Image",
    "z-image": "Z-Image",
    "lumina-image-2": "Lumina 2",
    "lumina 2": "Lumina 2",
    "wan2": "Wan 2",
    "wan 2": "Wan 2",
    "stable-diffusion-3": "Stable Diffusion 3",
    "stable diffusion 3": "Stable Diffusion 3",
    "krea-2": "Krea 2",
    "krea 2": "Krea 2",
    "anima": "Anima",
}


def provenance(sae: SparseAutoencoder) -> dict[str, str]:
    """`model`, `licence` and `source`, those that are known."""
    places = _places(sae)
    known = known_checkpoint(sae.name)
    table = {"model": known.model, "licence": known.licence, "source": known.repository} if known else {}
    found = {name: _first(places, keys) or table.get(name) for name, keys in _KEYS.items()}
    return {name: text for name, text in found.items() if text}


def told_model(sae: SparseAutoencoder) -> str | None:
    """The model that the SAE's own file names."""
    return _first(_places(sae), _KEYS["model"])


def trained_on(sae: SparseAutoencoder) -> TrainedOn | None:
    """The model of an SAE of blocks, where its file, its name or our table tells the family; None else."""
    if sae.trained_on is not None:
        return sae.trained_on
    places, model = _places(sae), provenance(sae).get("model", "")
    told = _first(places, (_FAMILY,))
    if told is not None and family_named(told):
        return TrainedOn(told, model, _first(places, (_IDENTITY,)) or "")
    family = family_of_text(model) or ("FLUX.1" if _FLUX_NAME.search(sae.name) else None)
    return TrainedOn(family, model) if family else None


def family_note(sae: SparseAutoencoder) -> dict[str, str]:
    """`family`, `model_identity` and `model` as our own layout keeps them, those that are known."""
    found = trained_on(sae)
    told = {_FAMILY: found.family, _IDENTITY: found.identity, "model": found.model} if found else {}
    return {key: text for key, text in told.items() if text}


def trained_k(sae: SparseAutoencoder) -> int | None:
    """The k that a BatchTopK SAE was trained with; its codes do not need it."""
    if sae.architecture.kind != "batchtopk":
        return None
    found = (place.get(key) for place in _places(sae) for key in _K)
    return next((k for k in found if isinstance(k, int) and not isinstance(k, bool) and k > 0), None)


def _places(sae: SparseAutoencoder) -> list[Mapping[str, Any]]:
    """The config and, as SAELens and dictionary_learning have it, what is one level down."""
    config: Mapping[str, Any] = sae.origin.config if sae.origin else {}
    nested = (config.get(key) for key in ("metadata", "trainer"))
    return [config, *(place for place in nested if isinstance(place, Mapping))]


def _first(places: list[Mapping[str, Any]], keys: tuple[str, ...]) -> str | None:
    found = (place.get(key) for place in places for key in keys)
    return next((text for text in found if isinstance(text, str) and text), None)


def family_of_text(model: str) -> str | None:
    """The family's name for a model's, such as `black-forest-labs/FLUX.1-schnell`; None where it is none of ours."""
    short = model.lower().rsplit("/", 1)[-1].strip()
    return next((family for start, family in _TRAINED_ON.items() if short.startswith(start)), None)
