"""SAEs as the browser names them: by the node that loads them and what is set there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ...sae.demo.shipped_weights import ATTENTION_SAE, EMBED_SAE, ENTERING_SAE, IMAGE_SAE, TEXT_SAE, load_attention_set
from ...sae.demo.shipped_weights import load_sae as load_demo_sae
from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae
from ...sae.files.recent import Newest
from ...sae.formats import AUTO
from ...sae.hosts.comfyui.model_folder import load_named, state_of
from .server_memory import SeenSaes

DEMO: dict[tuple[str, str], Callable[[], AnySae]] = {
    ("LoadShapesDemo", "sae_text"): partial(load_demo_sae, TEXT_SAE),
    ("LoadShapesDemo", "sae_attention"): partial(load_demo_sae, ATTENTION_SAE),
    ("LoadShapesDemo", "sae_image"): partial(load_demo_sae, IMAGE_SAE),
    ("LoadShapesDemo", "sae_set"): load_attention_set,
    ("LoadShapesDemo", "sae_entering"): partial(load_demo_sae, ENTERING_SAE),
    ("LoadShapesKandinsky", "sae"): partial(load_demo_sae, EMBED_SAE),
}
MOST = 4  # SAEs kept; their weights are read when they are needed, so they are small


class SaeSources:
    """Opens SAEs for the routes, and keeps the last few so that a file is hashed once. `seen` are those of graphs."""

    def __init__(self, seen: SeenSaes | None = None) -> None:
        self._kept = Newest[AnySae](MOST)
        self.seen = seen or SeenSaes()

    def open(self, query: Mapping[str, str]) -> AnySae | None:
        """The SAE of `loader`, with `sae_name` and `architecture` or `output`; else the one of
        `fingerprint`, if a graph had it; None for another.

        Raises ValueError for a file that is not among the listed ones, or that cannot be read.
        """
        loader, output = query.get("loader", ""), query.get("output", "")
        if (loader, output) in DEMO:
            return self._kept.get((loader, output), DEMO[loader, output])
        if loader != "LoadSAE":
            return self.seen.by_fingerprint.get(query.get("fingerprint", ""))
        name, architecture = query.get("sae_name", ""), query.get("architecture", AUTO)
        return self._kept.get((name, architecture, state_of(name)), lambda: load_named(name, AUTO, AUTO, architecture))

    def opened(self, query: Mapping[str, str]) -> tuple[AnySae, str]:
        """As `open`, with its fingerprint; ValueError for an SAE that the server does not have."""
        sae = self.open(query)
        if sae is None:
            raise ValueError(
                "fingerprint: no graph has worked with this SAE since ComfyUI started; connect its loader, or run the "
                "graph once."
            )
        return sae, fingerprint(sae)
