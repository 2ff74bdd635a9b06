from __future__ import annotations

from comfy_api.latest import io

from ..sae.formats import AUTO, LAYOUT_NAMES
from .shared.inputs import expert_text
from .shared.loading import load_named, state_of
from .shared.model_folder import sae_names, set_names
from .shared.sockets import CATEGORY, Sae, location_input, stream_input


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
                    options=[*sae_names(), *set_names()],
                    tooltip="A weight file inside models/sae, sub-folders included (.safetensors, .pt, .pth, .bin, "
                    ".npz). folder/* is all SAEs of a folder as one set, where their names tell different places.",
                ),
                location_input(),
                stream_input(),
                expert_text(
                    "architecture",
                    AUTO,
                    "The layout. 'auto' reads it off the file. Where the file leaves it open, one of "
                    f"{', '.join(LAYOUT_NAMES)}, with :k where k is not in the file: overcomplete_topk:32.",
                ),
            ],
            outputs=[
                Sae.Output(
                    display_name="sae", tooltip="The SAE with the place in the model where it belongs, or the set."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, sae_name: str, location: str, stream: str, architecture: str = AUTO
    ) -> tuple[str, str, str, str, tuple[tuple[str, int], ...]]:
        return sae_name, location, stream, architecture, state_of(sae_name)

    @classmethod
    def execute(cls, sae_name: str, location: str, stream: str, architecture: str = AUTO) -> io.NodeOutput:
        return io.NodeOutput(load_named(sae_name, location, stream, architecture))


NODES = [LoadSAE]
