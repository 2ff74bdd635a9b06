from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ...sae.demo.shapes import PICTURE_SIZE, SLOTS, Prompt, parse_prompt, read_prompt
from ...sae.demo.shapes_model import LATENT_CHANNELS, LATENT_SIDE, POOLED_WIDTH, embed_prompts, encode_pictures
from ...sae.demo.shipped_weights import (
    ATTENTION_SAE,
    EMBED_SAE,
    ENTERING_SAE,
    IMAGE_SAE,
    KANDINSKY_DECODER,
    KANDINSKY_PRIOR,
    TEXT_SAE,
    TRANSFORMER,
    load_attention_set,
    load_decoder,
    load_sae,
)
from ...sae.hosts.kandinsky import KandinskyHalf
from ..browser.server_memory import show_on_node
from ..inputs.menu import DEMO
from ..inputs.sockets import Sae
from ..kandinsky.load_kandinsky import KandinskyDecoder, KandinskyPriorModel

log = logging.getLogger(__name__)


class LoadShapesDemo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadShapesDemo",
            display_name="Load Shapes Demo",
            category=DEMO,
            description=(
                "A very small real FLUX that draws coloured shapes, its decoder and SAEs for three of its places. It "
                "comes with the pack, so steering can be tried at once. Draw at 128×128."
            ),
            search_aliases=["shapes", "demo model", "tiny flux"],
            inputs=[],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The Shapes FLUX; sample it at 128×128 with CFG 1."),
                io.Vae.Output(display_name="vae", tooltip="Decodes (and encodes) pictures of the Shapes model."),
                Sae.Output(display_name="sae_text", tooltip="SAE of transformer_blocks.0, text stream."),
                Sae.Output(display_name="sae_attention", tooltip="SAE of transformer_blocks.1.attn, image stream."),
                Sae.Output(display_name="sae_image", tooltip="SAE of transformer_blocks.1, image stream."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Encodes texts for Shapes, as CLIP Text Encode wants it; words that "
                    "Shapes does not know are passed over.",
                ),
                Sae.Output(
                    display_name="sae_set",
                    tooltip="The SAEs of all six attention outputs, image stream, as one: they steer the picture.",
                ),
                io.Latent.Output(display_name="latent", tooltip="An empty picture of the size that Shapes draws."),
                Sae.Output(
                    display_name="sae_entering",
                    tooltip="SAE of transformer_blocks.0.input, text stream: words before the picture reads them.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        model = comfy.sd.load_diffusion_model(str(TRANSFORMER))
        saes = [load_sae(name) for name in (TEXT_SAE, ATTENTION_SAE, IMAGE_SAE)]
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "sae_steering_shapes", _size_check(cls.hidden.unique_id))
        empty = {"samples": torch.zeros(1, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)}
        return io.NodeOutput(
            model, ShapesVAE(), *saes, ShapesCLIP(), load_attention_set(), empty, load_sae(ENTERING_SAE)
        )


def _size_check(node_id: str | None) -> Callable[..., Any]:
    """A wrapper of sampling runs: where they draw another size, the node that loaded the model says what will come."""
    warned = False

    def run_sampling(executor: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal warned
        noise = args[0] if args else kwargs["noise"]
        height, width = (int(side) * 8 for side in noise.shape[-2:])
        warnings = []
        if (width, height) != (PICTURE_SIZE, PICTURE_SIZE):
            warnings = [
                f"Pictures of {width}×{height} are drawn, but Shapes knows {PICTURE_SIZE}×{PICTURE_SIZE} and makes "
                "grey of others: connect its output latent."
            ]
            log.warning("LoadShapesDemo: %s", warnings[0])
        if warnings or warned:  # or to take the warning away
            show_on_node(node_id, {"kind": "report", "text": "", "warnings": warnings, "curve": []})
        warned = bool(warnings)
        return executor(*args, **kwargs)

    return run_sampling


class ShapesPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        words = "; ".join(f"{slot}: {', '.join(known)}" for slot, known in SLOTS.items())
        return io.Schema(
            node_id="ShapesPrompt",
            display_name="Shapes Prompt",
            category=DEMO,
            description="Text for the Shapes demo model, one word of each kind; what is left out is left to the model.",
            search_aliases=["shapes text", "demo prompt"],
            inputs=[
                io.String.Input("text", default="red square left big white", multiline=True, tooltip=f"Knows {words}."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The prompt, for KSampler.")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(_conditioning(parse_prompt(text)))


def _conditioning(prompt: Prompt) -> list[list[Any]]:
    return [[embed_prompts([prompt]), {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]]


class ShapesCLIP:
    """What core's CLIPTextEncode calls, for the Shapes model's words."""

    known_words = f", such as those of this demo: {'; '.join(', '.join(words) for words in SLOTS.values())}"

    def tokenize(self, text: str, **options: object) -> Prompt:
        return read_prompt(text)

    def token_words(self, text: str) -> list[str]:
        """Shapes has one token for each kind of word, and one for a kind that is left out."""
        return [word or "–" for word in read_prompt(text).words]

    def encode_from_tokens_scheduled(self, tokens: Prompt, **options: object) -> list[list[Any]]:
        return _conditioning(tokens)


class ShapesVAE:
    """What core's VAEDecode and VAEEncode call, for the Shapes model's latents."""

    def __init__(self) -> None:
        self.decoder = load_decoder()
        self.format = comfy.latent_formats.Flux()  # latents travel as FLUX's autoencoder makes them

    def decode(self, samples: Tensor, vae_options: object = None) -> Tensor:
        """Latents (batch, 16, h, w) as FLUX's autoencoder makes them, to pictures (batch, 8h, 8w, 3) in 0..1."""
        with torch.inference_mode():
            pictures = self.decoder(self.format.process_in(samples.float().cpu()))
        return pictures.movedim(1, -1).to(comfy.model_management.intermediate_device())

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures (batch, height, width, 3 or more) in 0..1 to latents (batch, 16, height/8, width/8)."""
        height, width = (side // 8 * 8 for side in pixels.shape[1:3])
        pictures = pixels[:, :height, :width, :3].float().cpu().movedim(-1, 1)
        latents = self.format.process_out(encode_pictures(pictures))
        return latents.to(comfy.model_management.intermediate_device())


class LoadShapesKandinsky(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadShapesKandinsky",
            display_name="Load Shapes Kandinsky",
            category=DEMO,
            description=(
                "A very small real Kandinsky 2.2 that draws coloured shapes, and an SAE of its picture embeddings. It "
                "comes with the pack, so steering can be tried at once. Draw at 64×64. Needs diffusers."
            ),
            search_aliases=["shapes", "demo model", "tiny kandinsky"],
            inputs=[],
            outputs=[
                KandinskyPriorModel.Output(
                    display_name="prior",
                    tooltip="Texts such as 'red square left big white', or pictures, to embeddings.",
                ),
                KandinskyDecoder.Output(display_name="decoder", tooltip="Draws embeddings at 64×64."),
                Sae.Output(display_name="sae", tooltip="SAE of the picture embeddings."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            KandinskyHalf(KANDINSKY_PRIOR, "prior"), KandinskyHalf(KANDINSKY_DECODER, "decoder"), load_sae(EMBED_SAE)
        )


NODES = [LoadShapesDemo, ShapesPrompt, LoadShapesKandinsky]
