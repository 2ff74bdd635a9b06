from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...sae.dictionary.sae_set import AnySae
from ...sae.drawing.overlay import heat_overlay, token_bars
from ...sae.finding.heatmap import HeatReader, on_picture, region_of
from ...sae.hosts.comfyui.embeddings import token_words
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, members_in
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.hosts.comfyui.sampling import look
from ...sae.hosts.comfyui.steering import observe
from ...sae.places.site import Site
from ...sae.steering.edits import FeatureList, check_owner
from ..inputs.menu import FIND
from ..inputs.plain_inputs import encoded_text_inputs, model_input
from ..inputs.sockets import Sae, SaeFeatures, location_input, one_sae, seed_input, stream_input

MOST_PICTURES = 64  # features times pictures that one sheet may have
LONGEST_NAME = 24  # characters of a caption


class FeatureHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FeatureHeatmap",
            display_name="Feature Heatmap",
            category=FIND,
            description=(
                "Shows where on a picture features fire: the finished picture is noised back and the model looks at it "
                "once. The mask steers where they fire."
            ),
            search_aliases=["where features fire", "activation map", "attention map", "region mask"],
            inputs=[*_what(), *_how(), *_words_below()],
            outputs=[
                io.Image.Output(display_name="heatmap", tooltip="The picture under each feature's heat."),
                io.Mask.Output(display_name="mask", tooltip="Where any of the features fires; empty for a text."),
                io.String.Output(display_name="table", tooltip="Each feature's mean, largest value and place."),
            ],
            is_output_node=True,  # it shows the pictures, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: AnySae,
        features: FeatureList,
        positive: Any,
        image: Tensor,
        latent: dict[str, Any],
        percent: float,
        steps: int,
        threshold: float,
        seed: int,
        location: str,
        stream: str,
        clip: Any = None,
        text: str = "",
    ) -> io.NodeOutput:
        sae = one_sae(sae)
        [member] = members_in(model, sae, location, stream)
        site = member.site
        check_owner(features, sae.owner, "features")
        numbers = list(dict.fromkeys(edit.feature for edit in features))
        _check(numbers, image, latent)
        reader = HeatReader(sae, site, numbers)
        progress = comfy.utils.ProgressBar(steps)
        look(
            observe(model, site, reader, sae), positive, latent, seed, percent, steps,
            lambda step, denoised, x, total: progress.update_absolute(step + 1, steps),
        )  # fmt: skip
        known = notebooks().of(sae).names
        names = [_caption(number, known.get(number, ""), site) for number in numbers]
        if site.stream == "text":
            words = _words(clip, text, reader.heat.shape[-1])
            bars = [token_bars(heat[0], name, words) for heat, name in zip(reader.heat, names, strict=True)]
            sheet, mask = torch.stack(bars), torch.zeros(image.shape[:3])
        else:
            size = (int(image.shape[1]), int(image.shape[2]))
            maps = on_picture(reader.cells, size)
            drawn = [
                heat_overlay(picture, heat, name)
                for feature, name in zip(maps, names, strict=True)
                for picture, heat in zip(image[..., :3], feature, strict=True)
            ]
            sheet, mask = torch.stack(drawn), region_of(maps, threshold)
        table = "\n".join([_table(numbers, reader.heat, known), *elsewhere_lines(model, [member])])
        return io.NodeOutput(sheet, mask, table, ui={**ui.PreviewImage(sheet).as_dict(), "text": [table]})


def _what() -> list[io.Input]:
    return [
        model_input(),
        Sae.Input("sae", tooltip="An SAE that was trained on this model."),
        SaeFeatures.Input("features", tooltip="The features to look for; one overlay for each."),
        io.Conditioning.Input("positive", tooltip="The prompt of the picture."),
        io.Image.Input("image", tooltip="The finished picture, under the overlay."),
        io.Latent.Input("latent", tooltip="Its latent, from the sampler or VAE Encode."),
    ]


def _how() -> list[io.Input]:
    return [
        io.Float.Input(
            "percent",
            default=0.5,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="The part of the run to look at, by noise level: 0 is pure noise, 1 the finished picture.",
        ),
        io.Int.Input(
            "steps",
            default=1,
            min=1,
            max=100,
            tooltip="1 looks once, at that noise level. More follow the run from there to its end; the heat is "
            "their mean.",
        ),
        io.Float.Input(
            "threshold",
            default=0.3,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="A place belongs to the mask from this share of a feature's largest activation on; 0 "
            "gives a soft mask.",
        ),
        seed_input("Seed of the noise."),
        location_input(),
        stream_input(),
    ]


def _words_below() -> list[io.Input]:
    return encoded_text_inputs(
        "For a text stream: what encoded the prompt.",
        "For a text stream, with clip: the prompt, whose words are then written below the bars.",
    )


def _caption(number: int, name: str, site: Site) -> str:
    named = f" · {' '.join(name.split())[:LONGEST_NAME]}" if name else ""
    return f"feature {number}{named} · {site}"


def _words(clip: Any, text: str, tokens: int) -> list[str]:
    if not text.strip():
        return []
    if clip is None:
        raise ValueError("clip: text is given, but what encoded it is not connected; connect the CLIP, or empty text.")
    return token_words(clip, text, tokens)


def _check(numbers: list[int], image: Tensor, latent: dict[str, Any]) -> None:
    if not numbers:
        raise ValueError("features: the list is empty; connect SAEFeature or TopActivatingFeatures.")
    batch = latent["samples"].shape[0]
    if image.shape[0] != batch:
        raise ValueError(f"image: {image.shape[0]} pictures came for a latent of {batch}; connect those of the latent.")
    if batch * len(numbers) > MOST_PICTURES:
        raise ValueError(
            f"features: {len(numbers)} for {batch} pictures are more than the {MOST_PICTURES} overlays of one sheet; "
            "give fewer."
        )


def _table(numbers: list[int], heat: Tensor, names: Mapping[int, str]) -> str:
    """heat (features, batch, tokens)."""
    lines = [f"{'feature':>8} {'mean':>9} {'max':>9} {'tokens':>7}"]
    for number, values in zip(numbers, heat, strict=True):
        share = float((values > 0).float().mean())
        name = " ".join(names.get(number, "").split())
        line = f"{number:>8} {float(values.mean()):>9.4g} {float(values.max()):>9.4g} {share:>7.1%}  {name}"
        lines.append(line.rstrip())
    return "\n".join(lines)


NODES = [FeatureHeatmap]
