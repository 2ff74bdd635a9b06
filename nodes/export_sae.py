from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.export import TARGETS, Progress, export
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, Sae

AS_STORED = "as stored"
DTYPES = {AS_STORED: None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ExportSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExportSAE",
            display_name="Export SAE",
            category=CATEGORY,
            description=(
                "Writes an SAE in the layout of this pack or of another project, with the same codes and "
                "reconstructions. What a layout cannot hold is refused."
            ),
            search_aliases=["save sae", "convert sae", "sae_lens", "dictionary_learning"],
            inputs=[
                Sae.Input("sae", tooltip="The SAE to write, with its place in the model and its statistics."),
                io.Combo.Input(
                    "target",
                    options=list(TARGETS),
                    default=TARGETS[0],
                    tooltip="sae_steering: one safetensors file that holds every SAE exactly. saelens: SAELens 6. "
                    "reny_topk: RE-N-Y's TopK SAEs. dictionary_learning: ae.pt.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=AS_STORED,
                    tooltip="float16 and bfloat16 halve the file of a float32 SAE and round its weights.",
                ),
                io.String.Input(
                    "folder_name",
                    default="my-sae",
                    tooltip="A folder inside output/sae, which is made. To use the SAE here, move it into models/sae.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the weight file is.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sae: SparseAutoencoder, target: str, dtype: str, folder_name: str) -> io.NodeOutput:
        if dtype not in DTYPES:
            raise ValueError(f"dtype: {dtype!r} is not a type to write; use one of {', '.join(DTYPES)}.")
        path = Path(export(sae, _folder(folder_name), target, DTYPES[dtype], _progress()))
        shown = path.relative_to(output_folder().resolve().parent.parent)
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"Wrote {shown}"))


def _folder(name: str) -> Path:
    """The folder inside output/sae; ValueError for a name that leads out of it."""
    base = output_folder().resolve()
    plain = bool(name.strip()) and not set(name) & set('\\:*?"<>|') and name.isprintable()
    folder = (base / name.strip()).resolve() if plain else base
    if folder == base or not folder.is_relative_to(base):
        raise ValueError(
            f"folder_name: {name!r} is not the name of a folder inside output/sae; write one such as my-sae."
        )
    return folder


def _progress() -> Progress:
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()  # the bar asks only now and then
        bar.update_absolute(done, max(total, 1))

    return tell


NODES = [ExportSAE]
