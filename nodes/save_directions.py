from __future__ import annotations

from pathlib import PurePosixPath

from comfy_api.latest import io, ui

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.sae_set import AnySae, saes_of
from ..sae.export import export
from ..sae.formats.sets import MARK
from .shared.contrasting import place_name
from .shared.model_folder import output_folder
from .shared.saving import named_folder, writing_bar
from .shared.sockets import CATEGORY, Sae


class SaveDirections(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveDirections",
            display_name="Save Directions",
            category=CATEGORY,
            description=(
                "Keeps contrast directions as small files, with their prompts, their model and their places. Load SAE "
                "lists them at once."
            ),
            search_aliases=["save steering vector", "export directions", "control vector"],
            inputs=[
                Sae.Input("sae", tooltip="From Contrast Direction or Contrast Pictures."),
                io.String.Input(
                    "name",
                    default="my-directions",
                    tooltip="A folder inside output/sae, which is made. Load SAE lists what is in it.",
                ),
            ],
            outputs=[io.String.Output(display_name="sae_name", tooltip="What Load SAE calls it.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sae: AnySae, name: str) -> io.NodeOutput:
        members = [(one, _place(one)) for one in saes_of(sae)]
        folder, bar = named_folder(name, "name"), writing_bar()
        paths = [export(one, folder / place, "sae_steering", None, bar) for one, place in members]
        base = output_folder().resolve()
        listed = str(paths[0].relative_to(base)) if len(paths) == 1 else f"{folder.relative_to(base).as_posix()}{MARK}"
        lines = [f"Wrote {path.relative_to(base.parent.parent)}" for path in paths]
        return io.NodeOutput(listed, ui=ui.PreviewText("\n".join([f"Load SAE lists it as {listed}.", *lines])))


def _place(sae: SparseAutoencoder) -> str:
    """Where contrast directions belong, in a model or in an embedding; ValueError for an SAE."""
    if sae.contrast is None:
        raise ValueError(
            f"sae: {sae.name} was trained and is no contrast; write it with Export SAE, or connect what Contrast "
            "Direction makes."
        )
    return place_name(sae.site) if sae.site else PurePosixPath(sae.name).name


NODES = [SaveDirections]
