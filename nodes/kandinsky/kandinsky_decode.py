from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_api.latest import io
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...sae.hosts.comfyui.embedding_encoders import load_parts
from ...sae.hosts.kandinsky import KandinskyHalf, Window, check_embeds, check_size, draw, movq_scale
from ..inputs.menu import KANDINSKY
from ..inputs.sockets import percent_input
from .load_kandinsky import NEGATIVE_TIP, KandinskyDecoder, guidance_input, seed_input, step_progress

PREVIEW_CELLS = 16  # latent cells of a preview's longer side
MOVQ_BYTES = 2178 * 64  # per latent cell and byte of a weight: what core reckons for a VAE of this shape


class KandinskyDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        more = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="KandinskyDecode",
            display_name="Kandinsky Decode",
            category=KANDINSKY,
            description=(
                "Draws what an embedding says; no text reaches the decoder. A steered embedding may take over for a "
                "part of the run."
            ),
            search_aliases=["kandinsky sampler", "unclip decoder"],
            inputs=[
                KandinskyDecoder.Input("decoder", tooltip="From Load Kandinsky 2.2."),
                io.ClipVisionOutput.Input("embed", tooltip="What to draw, one picture for each embedding."),
                io.ClipVisionOutput.Input("negative", tooltip=NEGATIVE_TIP),
                _side("width"),
                _side("height"),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Steps of the decoder; 25 to 50 do."),
                guidance_input("How closely the picture follows the embedding; 4 is Kandinsky's own value."),
                seed_input("Seed of the noise that the picture starts from."),
                io.ClipVisionOutput.Input(
                    "steered",
                    optional=True,
                    tooltip="An embedding that takes the place of embed between start_percent and end_percent.",
                ),
                percent_input(
                    "start_percent", 0.0, "Part of the run after which the steered embedding takes over.", **more
                ),
                percent_input("end_percent", 1.0, "Part of the run at which embed comes back.", **more),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures.")],
        )

    @classmethod
    def execute(
        cls,
        decoder: KandinskyHalf,
        embed: Any,
        negative: Any,
        width: int,
        height: int,
        steps: int,
        guidance: float,
        seed: int,
        steered: Any = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        half = load_parts(decoder, "decoder", ())
        check_size(half, width, height)
        rows, below = check_embeds(half, "embed", _embeds(embed)), check_embeds(half, "negative", _embeds(negative))
        window = None
        if steered is not None:
            window = Window(check_embeds(half, "steered", _embeds(steered)), start_percent, end_percent)
        cells = len(rows) * (width // movq_scale(half)) * (height // movq_scale(half))
        load_parts(half, "decoder", ("unet", "movq"), cells * MOVQ_BYTES * half.dtype.itemsize)
        progress = step_progress(steps, _previewer(half))
        return io.NodeOutput(draw(half, rows, below, (width, height), steps, guidance, [seed], progress, window))


def _side(name: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=512, min=16, max=4096, step=16, tooltip="In pixels, a multiple of 64; of 16 for the Shapes demo."
    )


def _embeds(output: Any) -> Tensor | None:
    return getattr(output, "image_embeds", None)


def _previewer(half: KandinskyHalf) -> Callable[[Tensor], Any] | None:
    """Small pictures of the latents under way, by the decoder's own MoVQ; None where previews are switched off."""
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return None

    def preview(latents: Tensor) -> tuple[str, Image.Image, int]:
        factor = max(1, max(latents.shape[-2:]) // PREVIEW_CELLS)
        small = functional.avg_pool2d(latents[:1], factor)
        with torch.no_grad():
            picture = half.part("movq").decode(small, force_not_quantize=True).sample[0]
        levels = (picture.float().clamp(-1, 1) * 127.5 + 127.5).movedim(0, -1).byte().cpu().numpy()
        return "JPEG", Image.fromarray(np.ascontiguousarray(levels)), args.preview_size

    return preview


NODES = [KandinskyDecode]
