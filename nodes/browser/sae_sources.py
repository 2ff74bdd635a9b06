"""SAEs as the browser names them: by the node that loads them and what is set there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from aiohttp import web

from ...sae.demo.shipped_weights import ATTENTION_SAE, EMBED_SAE, IMAGE_SAE, TEXT_SAE, load_attention_set
from ...sae.demo.shipped_weights import load_sae as load_demo_sae
from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae
from ...sae.formats import AUTO
from ...sae.hosts.comfyui.model_folder import load_named, state_of
from ...sae.known.ranges import Setting
from ...sae.steering.edits import Method
from .kept_results import Newest

DEMO: dict[tuple[str, str], Callable[[], AnySae]] = {
    ("LoadShapesDemo", "sae_text"): partial(load_demo_sae, TEXT_SAE),
    ("LoadShapesDemo", "sae_attention"): partial(load_demo_sae, ATTENTION_SAE),
    ("LoadShapesDemo", "sae_image"): partial(load_demo_sae, IMAGE_SAE),
    ("LoadShapesDemo", "sae_set"): load_attention_set,
    ("LoadShapesKandinsky", "sae"): partial(load_demo_sae, EMBED_SAE),
}
MOST = 4  # SAEs kept; their weights are read when they are needed, so they are small


@dataclass(frozen=True)
class Use:
    """How a graph steers with an SAE."""

    method: Method
    setting: Setting


class SaeSources:
    """Opens SAEs for the routes, and keeps the last few so that a file is hashed once.

    `seen` has those that graphs have worked with, wherever they came from, as long as somebody else holds them; `used`
    has, by fingerprint, how a graph steered or calibrated with one last.
    """

    def __init__(self) -> None:
        self._kept = Newest[AnySae](MOST)
        self.seen: WeakValueDictionary[str, AnySae] = WeakValueDictionary()
        self.used: dict[str, Use] = {}

    def open(self, query: Mapping[str, str]) -> AnySae | None:
        """The SAE of `loader`, with `sae_name` and `architecture` or `output`; else the one of
        `fingerprint`, if a graph had it; None for another.

        Raises ValueError for a file that is not among the listed ones, or that cannot be read.
        """
        loader, output = query.get("loader", ""), query.get("output", "")
        if (loader, output) in DEMO:
            return self._kept.get((loader, output), DEMO[loader, output])
        if loader != "LoadSAE":
            return self.seen.get(query.get("fingerprint", ""))
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


SOURCES = web.AppKey("sae_steering.sources", SaeSources)  # in the server's application


def introduce(sae: AnySae, mark: str) -> None:
    """Lets the routes know an SAE of the graph under way by its fingerprint."""
    sources = _sources()
    if sources is not None:
        sources.seen[mark] = sae


def note_use(sae: SparseAutoencoder, use: Use) -> None:
    """Lets the routes know how the graph under way steers with an SAE that was introduced."""
    sources = _sources()
    if sources is not None:
        marks = [mark for mark, known in list(sources.seen.items()) if known is sae]
        sources.used.update(dict.fromkeys(marks, use))


def _sources() -> SaeSources | None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server.app[SOURCES] if server is not None and SOURCES in server.app else None
