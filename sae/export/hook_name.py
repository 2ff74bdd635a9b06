"""Where an SAE belongs, in the words of layouts that have a text for it."""

from __future__ import annotations

from ..dictionary.autoencoder import SparseAutoencoder
from ..places.site import Site, site_from_name


def hook_name(sae: SparseAutoencoder) -> str | None:
    """The config's own words for the place if they still mean it, else such as `transformer_blocks.18-image`."""
    told = sae.origin.hook if sae.origin else None
    if sae.site is None or (told is not None and site_from_name(told) == sae.site):
        return told
    return name_of(sae.site)


def name_of(site: Site) -> str | None:
    """The site as file names tell it; None for one of several blocks."""
    name = f"{site.location}-{site.stream}"
    return name if site_from_name(name) == site else None


def refuse_place(sae: SparseAutoencoder) -> str | None:
    """Why no name tells the place, or None."""
    if sae.site is not None and name_of(sae.site) is None:
        return f"it has no word for a place of several blocks such as {sae.site}"
    return None
