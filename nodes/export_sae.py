from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..sae.dictionary.sae_set import AnySae
from ..sae.export import TARGETS, export
from .shared.model_folder import output_folder
from .shared.saving import named_folder, writing_bar
from .shared.sockets import CATEGORY, Sae, one_sae

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
                    tooltip="A folder inside output/sae, which is made; Load SAE lists what is in it.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the weight file is.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sae: AnySae, target: str, dtype: str, folder_name: str) -> io.NodeOutput:
        sae = one_sae(sae)
        if dtype not in DTYPES:
            raise ValueError(f"dtype: {dtype!r} is not a type to write; use one of {', '.join(DTYPES)}.")
        path = Path(export(sae, named_folder(folder_name, "folder_name"), target, DTYPES[dtype], writing_bar()))
        shown = path.relative_to(output_folder().resolve().parent.parent)
        return io.NodeOutput(str(path), ui=ui.PreviewText(f"Wrote {shown}"))


NODES = [ExportSAE]
