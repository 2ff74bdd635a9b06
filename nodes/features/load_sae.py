from __future__ import annotations

from comfy_api.latest import io

from ...sae.dictionary.sae_set import AnySae, saes_of
from ...sae.formats import AUTO, LAYOUT_NAMES
from ...sae.formats.sets import make_set
from ...sae.hosts.comfyui.model_folder import load_named, sae_names, set_names, state_of
from ..inputs.menu import FEATURES
from ..inputs.plain_inputs import expert_text
from ..inputs.sockets import Sae, location_input, stream_input

NONE = "(none in models/sae yet)"


class LoadSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadSAE",
            display_name="Load SAE",
            category=FEATURES,
            description=(
                "Loads a sparse autoencoder from models/sae. Its config is read from beside the weight file. "
                "Weights are read when they are needed: steering with 'add' reads a few kilobytes."
            ),
            search_aliases=["sparse autoencoder", "sae loader", "feature dictionary"],
            inputs=[
                io.Combo.Input(
                    "sae_name",
                    options=[*sae_names(), *set_names()] or [NONE],
                    tooltip="A weight file inside models/sae, sub-folders included (.safetensors, .pt, .pth, .bin, "
                    ".npz, .npy, .gguf, .zip). folder/* is all SAEs of a folder as one set, where their names tell "
                    "different places.",
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
        if sae_name == NONE:
            raise ValueError(
                "sae_name: there is no SAE in models/sae yet; put a file or folder there and press R. This node's help "
                "page tells where SAEs are; Load Shapes Demo has its own, and Concept Steer needs none."
            )
        return io.NodeOutput(load_named(sae_name, location, stream, architecture))


MOST = 8


class SAESet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAESet",
            display_name="SAE Set",
            category=FEATURES,
            description=(
                "Several SAEs of one model, each at its own place, as one: features are found at all places in one run "
                "and steered by one node with one strength."
            ),
            search_aliases=["combine saes", "several places", "sae list", "merge saes"],
            inputs=[
                Sae.Input("sae_1", tooltip="An SAE whose place is known, or a set."),
                Sae.Input("sae_2", tooltip="An SAE of the same model at another place, or a set."),
                io.String.Input("name", default="my set", tooltip="What the set is called in tables and recipes."),
                *(
                    Sae.Input(f"sae_{number}", optional=True, tooltip="One more, at another place.")
                    for number in range(3, MOST + 1)
                ),
            ],
            outputs=[Sae.Output(display_name="sae", tooltip="The set; its features are numbered through.")],
        )

    @classmethod
    def execute(cls, sae_1: AnySae, sae_2: AnySae, name: str, **more: AnySae | None) -> io.NodeOutput:
        given = [sae_1, sae_2, *(sae for _, sae in sorted(more.items()) if sae is not None)]
        return io.NodeOutput(make_set([one for sae in given for one in saes_of(sae)], name.strip() or "a set"))


NODES = [LoadSAE, SAESet]
