from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch
from comfy_api.latest import io, ui

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae, saes_of
from ...sae.export import TARGETS, export
from ...sae.export.as_control_vector import FORMS, write_directions
from ...sae.formats.sets import MARK
from ...sae.hosts.comfyui.drawing import writing_bar
from ...sae.hosts.comfyui.own_folders import named_folder, output_folder
from ..inputs.menu import KEEP
from ..inputs.sockets import Sae, one_sae

OWN_FORM = "safetensors"


class SaveDirections(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveDirections",
            display_name="Save Directions",
            category=KEEP,
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
                io.Combo.Input(
                    "format",
                    options=[OWN_FORM, *FORMS],
                    default=OWN_FORM,
                    optional=True,  # since 0.2
                    tooltip="safetensors: everything, as Load SAE gives it back. gguf (control vectors, as repeng and "
                    "llama.cpp read them) and npz: the positive side's direction of each block alone, for other tools.",
                ),
            ],
            outputs=[io.String.Output(display_name="sae_name", tooltip="What Load SAE calls it.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sae: AnySae, name: str, format: str = OWN_FORM) -> io.NodeOutput:
        members = [(one, _place(one)) for one in saes_of(sae)]
        folder, bar = named_folder(name, "name"), writing_bar()
        if format == OWN_FORM:
            paths = [export(one, folder / place, "sae_steering", None, bar) for one, place in members]
        else:
            paths = [write_directions([one for one, _ in members], folder / folder.name, format)]
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
    return sae.site.name if sae.site else PurePosixPath(sae.name).name


AS_STORED = "as stored"
DTYPES = {AS_STORED: None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class ExportSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExportSAE",
            display_name="Export SAE",
            category=KEEP,
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


NODES = [SaveDirections, ExportSAE]
