from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.contrast import SIDES, Side
from ...sae.finding.contrasted import Told
from ...sae.finding.two_sides import Runs
from ...sae.hosts.comfyui.contrasting import PictureRuns, contrasted_in, sites_in
from ...sae.hosts.comfyui.drawing import progress_bar
from ...sae.hosts.comfyui.model import Model
from ...sae.hosts.comfyui.steering import Watched
from ...sae.places.named_choices import picture_attention
from ..browser.feature_results import contrast_output, contrast_outputs
from ..inputs.menu import FIND
from ..inputs.plain_inputs import model_input, steps_input
from ..inputs.sockets import places_input, seed_input, seeds_input, stream_input


class ContrastPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ContrastPictures",
            display_name="Contrast Pictures",
            category=FIND,
            description=(
                "A direction from pictures, without an SAE: two small sets, such as a style and no style, are noised "
                "back, the model looks at them, and what differs inside it is the direction."
            ),
            search_aliases=["style direction", "steering vector", "no sae", "image contrast"],
            inputs=[*_pictures(), *_looks()],
            outputs=contrast_outputs(),
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        vae: Any,
        positive_pictures: Tensor,
        negative_pictures: Tensor,
        prompt: Any,
        seed: int,
        seeds: int,
        levels: int,
        location: str,
        stream: str,
    ) -> io.NodeOutput:
        sites = sites_in(model, location, stream, picture_attention)
        given: dict[Side, Tensor] = {"positive": positive_pictures, "negative": negative_pictures}
        latents = {side: _latents(vae, pictures) for side, pictures in given.items()}
        parts = [(number + 0.5) / levels for number in range(levels)]
        watched = Watched(model, [(site, None) for site in sites])
        counts = [len(latents[side]) for side in SIDES]
        runs = Runs(counts[0] * seeds, counts[1] * seeds, paired=False, again=max(counts))
        told: Told = {"positive": _words(counts[0]), "negative": _words(counts[1])}
        show = PictureRuns(watched, latents, prompt, seed, parts)
        return contrast_output(contrasted_in(model, sites, show, runs, told, progress_bar(levels)))


def _pictures() -> list[io.Input]:
    return [
        model_input(),
        io.Vae.Input("vae", tooltip="Encodes the pictures."),
        io.Image.Input("positive_pictures", tooltip="Pictures that have it: a style, a person. Two or more."),
        io.Image.Input("negative_pictures", tooltip="Pictures like them in all else that do not have it. Two or more."),
        io.Conditioning.Input(
            "prompt", tooltip="What the model reads meanwhile, the same for all; what they have in common, or nothing."
        ),
    ]


def _looks() -> list[io.Input]:
    return [
        seed_input("First seed of the noise."),
        seeds_input(),
        steps_input("Noise levels at which each picture is looked at.", "levels"),
        places_input("'auto' is every block's attention output, in the picture's stream."),
        stream_input(),
    ]


def _latents(vae: Any, pictures: Tensor) -> list[dict[str, Any]]:
    return [{"samples": vae.encode(picture[None, ..., :3])} for picture in pictures]


def _words(count: int) -> tuple[str, ...]:
    return (f"{count} picture{'s' if count > 1 else ''}",)


NODES = [ContrastPictures]
