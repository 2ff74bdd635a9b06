from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sae.autoencoder import SparseAutoencoder
from ..sae.formats import load
from ..sae.site import parse_location, resolve_site
from .model_folder import KIND, sae_names, sae_path
from .sockets import CATEGORY, Sae, location_input, stream_input


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
                    tooltip="A weight file inside models/sae, sub-folders included (.safetensors).",
                ),
                location_input(),
                stream_input(),
            ],
            outputs=[Sae.Output(display_name="sae", tooltip="The SAE with the place in the model where it belongs.")],
        )

    @classmethod
    def fingerprint_inputs(cls, sae_name: str, location: str, stream: str) -> tuple[str, str, str, int]:
        path = folder_paths.get_full_path(KIND, sae_name)
        changed = Path(path).stat().st_mtime_ns if path is not None else 0
        return sae_name, location, stream, changed

    @classmethod
    def execute(cls, sae_name: str, location: str, stream: str) -> io.NodeOutput:
        return io.NodeOutput(_load(sae_name, location, stream))


def _load(sae_name: str, location: str, stream: str) -> SparseAutoencoder:
    sae = load(sae_path(sae_name), name=str(Path(sae_name).with_suffix("")))
    if location.strip() not in ("", "auto"):
        return sae.at(parse_location(location, stream))
    if stream == "auto" or sae.site is None:
        return sae
    return sae.at(resolve_site("auto", stream, sae.site))


NODES = [LoadSAE]
