"""Nodes for the tests alone: core's own classes in small sizes, and a look at the tensors that travel over wires."""

import sys
import time
from pathlib import Path

import comfy.clip_vision
import comfy.sd
import folder_paths
import torch
from comfy.ldm.flux.redux import ReduxImageEncoder
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file, save_file

CLIP_VISION = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 64,
    "image_size": 28,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "projection_dim": 48,
}
SIGLIP = {**CLIP_VISION, "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "hidden_size": 72}
del SIGLIP["projection_dim"]
TEXT_WIDTH = 64  # of the Shapes model's text tokens


class TinyClipVision(io.ComfyNode):
    """Core's loader in all but the sizes, which core takes from a few fixed files."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeTinyClipVision",
            inputs=[io.String.Input("name"), io.Boolean.Input("siglip", default=False)],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, name, siglip):
        model = comfy.clip_vision.ClipVisionModel(SIGLIP if siglip else CLIP_VISION)
        missing, unexpected = model.load_sd(load_file(folder_paths.get_full_path_or_raise("clip_vision", name)))
        if missing or unexpected:
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        return io.NodeOutput(model)


class TinyStyleModel(io.ComfyNode):
    """Core's Redux in another size."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeTinyStyleModel", inputs=[io.String.Input("name")], outputs=[io.StyleModel.Output()]
        )

    @classmethod
    def execute(cls, name):
        model = ReduxImageEncoder(redux_dim=72, txt_in_features=TEXT_WIDTH)
        model.load_state_dict(load_file(folder_paths.get_full_path_or_raise("style_models", name)))
        return io.NodeOutput(comfy.sd.StyleModel(model))


class TinyModel(io.ComfyNode):
    """A model of a family whose tiny ones core's loader cannot read."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="ProbeTinyModel", inputs=[io.String.Input("family")], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, family):
        sys.path.append(str(Path(__file__).parent))  # where they lie in a server's copy of the pack
        import tiny_families

        return io.NodeOutput(tiny_families.build(tiny_families.CASES[family]))


class NoteForwards(io.ComfyNode):
    """A MODEL that writes the rows of each call before it and takes at least `seconds` for it."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("name"), io.Float.Input("seconds", default=0.0)]
        return io.Schema(node_id="ProbeNoteForwards", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, name, seconds):
        folder = Path(folder_paths.get_output_directory()) / "probe"
        folder.mkdir(exist_ok=True)

        def call(apply, args):
            with (folder / name).open("a") as file:
                file.write(f"{args['input'].shape[0]}\n")
            time.sleep(seconds)
            return apply(args["input"], args["timestep"], **args["c"])

        noted = model.clone()
        noted.set_model_unet_function_wrapper(call)
        return io.NodeOutput(noted)


class SaveTensors(io.ComfyNode):
    """Writes what a CLIP_VISION_OUTPUT or a CONDITIONING holds, the vision outputs inside a conditioning too."""

    @classmethod
    def define_schema(cls):
        inputs = [io.AnyType.Input("what"), io.String.Input("name")]
        return io.Schema(node_id="ProbeSaveTensors", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, what, name):
        folder = Path(folder_paths.get_output_directory()) / "probe"
        folder.mkdir(exist_ok=True)
        save_file({key: tensor.clone().contiguous() for key, tensor in _tensors(what)}, folder / f"{name}.safetensors")
        return io.NodeOutput(ui={"text": [name]})


class RandomConditioning(io.ComfyNode):
    """A prompt of random numbers, of the width that a tiny model reads."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("width"), io.Int.Input("tokens"), io.Int.Input("seed")]
        inputs.append(io.Int.Input("pooled", default=16, optional=True))
        return io.Schema(node_id="ProbeConditioning", inputs=inputs, outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls, width, tokens, seed, pooled=16):
        random = torch.Generator().manual_seed(seed)
        text, vector = torch.randn(1, tokens, width, generator=random), torch.randn(1, pooled, generator=random)
        return io.NodeOutput([[text, {"pooled_output": vector}]])


def _tensors(what, prefix=""):
    if isinstance(what, torch.Tensor):
        yield prefix, what
    elif isinstance(what, comfy.clip_vision.Output):
        yield from _tensors(vars(what), prefix)
    elif isinstance(what, dict):
        for key, value in what.items():
            yield from _tensors(value, f"{prefix}.{key}".strip("."))
    elif isinstance(what, (list, tuple)):
        for key, value in enumerate(what):
            yield from _tensors(value, f"{prefix}.{key}".strip("."))


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [TinyClipVision, TinyStyleModel, TinyModel, NoteForwards, SaveTensors, RandomConditioning]


async def comfy_entrypoint():
    return Probes()
