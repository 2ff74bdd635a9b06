from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.statistics import SUFFIX
from ..sae.formats import ARCHITECTURES, AUTO, load, with_statistics
from ..sae.places.site import parse_location, resolve_site
from .shared.model_folder import KIND, measured_statistics, sae_folders, sae_names, sae_path
from .shared.sockets import CATEGORY, Sae, location_input, stream_input

log = logging.getLogger(__name__)


class LoadSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadSAE",
            display_name="Load SAE",
            category=CATEGORY,
            description=(
                "Loads a sparse autoencoder from models/sae. Its config is read from beside the weight file. "
                "Weights are read when they are needed: steering with 'add' reads a few kilobytes."
            ),
            search_aliases=["sparse autoencoder", "sae loader", "feature dictionary"],
            inputs=[
                io.Combo.Input(
                    "sae_name",
                    options=sae_names(),
                    tooltip="A weight file inside models/sae, sub-folders included (.safetensors, .pt, .pth, .bin).",
                ),
                location_input(),
                stream_input(),
                io.String.Input(
                    "architecture",
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="'auto' reads it off the file. Where the file leaves it open, one of "
                    f"{', '.join(ARCHITECTURES)}, with :k where k is not in the file: overcomplete_topk:32.",
                ),
            ],
            outputs=[Sae.Output(display_name="sae", tooltip="The SAE with the place in the model where it belongs.")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, sae_name: str, location: str, stream: str, architecture: str = AUTO
    ) -> tuple[str, str, str, str, tuple[tuple[str, int], ...]]:
        return sae_name, location, stream, architecture, state_of(sae_name)

    @classmethod
    def execute(cls, sae_name: str, location: str, stream: str, architecture: str = AUTO) -> io.NodeOutput:
        return io.NodeOutput(load_named(sae_name, location, stream, architecture))


def state_of(sae_name: str) -> tuple[tuple[str, int], ...]:
    """Names and times of the files of the SAE's folder: weights, shards, config, statistics."""
    path = folder_paths.get_full_path(KIND, sae_name)
    if path is None:
        return ()
    beside = [file for file in Path(path).parent.iterdir() if file.is_file()]
    measured = measured_statistics(_name_of(sae_name))
    named = measured.name.removesuffix(SUFFIX)
    known = [file for file in measured.parent.glob(f"*{SUFFIX}") if file.name.startswith(named)]
    files = sorted([*beside, *known])
    return tuple((file.name, file.stat().st_mtime_ns) for file in files)


def _name_of(sae_name: str) -> str:
    return str(Path(sae_name).with_suffix(""))


def load_named(sae_name: str, location: str, stream: str, architecture: str) -> SparseAutoencoder:
    sae = load(sae_path(sae_name), name=_name_of(sae_name), architecture=architecture, within=sae_folders())
    if sae.statistics is None:
        sae = _with_measured_statistics(sae)
    if location.strip() not in ("", "auto"):
        return sae.at(parse_location(location, stream))
    if stream == "auto" or sae.site is None:
        return sae
    return sae.at(resolve_site("auto", stream, sae.site))


def _with_measured_statistics(sae: SparseAutoencoder) -> SparseAutoencoder:
    """What TopActivatingFeatures measured on this very SAE; else what version 0.1 measured on one of its name."""
    measured, old = measured_statistics(sae.name, sae.owner), measured_statistics(sae.name)
    if measured.is_file():
        return with_statistics(sae, measured)
    if not old.is_file():
        return sae
    log.warning(
        "LoadSAE: %s does not say on which weights it was measured; if %s was trained anew since, measure again with "
        "TopActivatingFeatures.", old.name, sae.name,
    )  # fmt: skip
    return with_statistics(sae, old)


NODES = [LoadSAE]
