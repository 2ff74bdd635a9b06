from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.contrast import Way
from ...sae.dictionary.sae_set import AnySae
from ...sae.finding.effect import EFFECT
from ...sae.finding.features import RANKINGS
from ...sae.hosts.comfyui.concepts import Concept, Texts, of_contrast, of_sae
from ...sae.hosts.comfyui.finding_features import Finder, Ranking
from ...sae.hosts.comfyui.model import Model
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.hosts.comfyui.sampling import Sampling
from ...sae.hosts.comfyui.steering import mask_fault
from ...sae.places.moment import Schedule, Side
from ...sae.steering.methods import method_for
from ...sae.steering.set_up import Wanted
from ..browser.feature_results import contrast_way_input, table_of
from ..browser.server_memory import kept_concepts, show_progress_text
from ..inputs.menu import STEER
from ..inputs.plain_inputs import amount_input, lines_input, steered_model_input, steps_input
from ..inputs.sockets import Sae, SaeFeatures, location_input, percent_input, seed_input, side_input, stream_input
from .steered_run import steered

log = logging.getLogger(__name__)

SIDE = 512  # pixels of the pictures that are looked at where no latent is connected


class ConceptSteer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptSteer",
            display_name="Concept Steer",
            category=STEER,
            description=(
                "Steers by words: say what you want, and instead of what. A short sampling finds the features of both, "
                "once; then the one is put in place of the other while any sampler runs. The prompt that you draw "
                "stays as it is. It works without an SAE too."
            ),
            search_aliases=[
                *("steering", "steer model", "steer", "concept", "concept slider", "lora slider", "style slider"),
                *("slider", "lora", "flux control", "control", "edit concept", "remove concept", "erase", "edit"),
                *("change color", "change colour", "prompt", "attribute", "interpretability", "sae steering"),
            ],
            inputs=[*_what(), *_finding(), *_acting()],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The steered copy of the model."),
                SaeFeatures.Output(display_name="features", tooltip="The features of what is wanted."),
                SaeFeatures.Output(
                    display_name="replaces", tooltip="The features of what it stands instead of; none without such."
                ),
                Sae.Output(
                    display_name="sae", tooltip="What the features belong to: the SAE, or the directions without one."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Any,
        wanted: str,
        instead_of: str,
        strength: float,
        sae: AnySae | None = None,
        latent_image: dict[str, Any] | None = None,
        mask: Tensor | None = None,
        seed: int = 0,
        steps: int = 4,
        count: int = 8,
        rank_by: str = "mean",
        location: str = "auto",
        stream: str = "auto",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        apply_to: Side = "both",
        contrast_by: Way = "auto",
    ) -> io.NodeOutput:
        texts = _texts(wanted, instead_of, clip)
        latent = _empty(model) if latent_image is None else latent_image
        sampling, kept = Sampling(seed, steps), kept_concepts()
        if sae is None:
            concept = of_contrast(model, texts, latent, sampling, location, stream, mask is not None, kept, contrast_by)
            location = stream = "auto"  # its places are those that were asked for
        else:
            finder = Finder(model, sae, location, stream, latent, sampling)
            concept = of_sae(finder, texts, Ranking(rank_by, count), kept, partial(_tell, cls.hidden.unique_id))
        tables = _tables(concept)  # which introduce the SAE, before its use is noted
        features, replaces = concept.features, concept.replaces
        method, schedule = method_for("auto", replaces), Schedule(start_percent, end_percent)
        how = Wanted(features, method, strength, "auto", replaces, schedule, apply_to, mask)
        given = steered(cls, model, concept.sae, how, location, stream, features, replaces, concept.sae)
        warnings = _mask_warning(model, mask, latent_image)
        told = [*concept.lines, *(text for text, _ in tables), *given.ui["text"], *warnings]
        return io.NodeOutput(*given.result, ui={"text": told, "sae_steering": [table for _, table in tables]})


def _tell(node_id: str | None, line: str) -> None:
    log.info("ConceptSteer: %s", line)
    show_progress_text(node_id, line)


def _tables(concept: Concept) -> list[tuple[str, dict[str, Any]]]:
    """Of each text, as text and as the browser draws it."""
    notebook = notebooks().of(concept.sae)
    return [
        table_of(concept.sae, notebook, one.ranked, one.title, one.lines, setting=concept.setting)
        for one in concept.found
    ]


def _what() -> list[io.Input]:
    return [
        steered_model_input(),
        io.Clip.Input("clip", tooltip="Encodes the two texts, as for CLIP Text Encode."),
        Sae.Input(
            "sae",
            optional=True,
            tooltip="An SAE that was trained on this model, or a set, which steers at all its places. Without one, "
            "what differs between the two texts inside the model is used as it is.",
        ),
        lines_input(
            "wanted",
            "What you want to see, as a prompt: a snowy street. It should differ from the other in one thing.",
        ),
        lines_input(
            "instead_of",
            "What it stands instead of: a street in summer. Empty: nothing is taken out, the concept is added.",
        ),
        amount_input("strength", 4.0, "1 is the natural amount, 0 changes nothing."),
        io.Latent.Input(
            "latent_image",
            optional=True,
            tooltip=f"Size of the pictures that are looked at, best as you draw; without one {SIDE}×{SIDE}.",
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="Where on the picture to steer; of its proportions. Image tokens only."
        ),
    ]


def _finding() -> list[io.Input]:
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        seed_input("Seed of the noise that the features are found with.", **more),
        steps_input("Steps of that short sampling.", **more),
        io.Int.Input(
            "count", default=8, min=1, max=200, step=1, tooltip="Features of each text at most; of a set, at each "
            "place.", **more,
        ),
        io.Combo.Input(
            "rank_by",
            options=[*RANKINGS, EFFECT],
            default="mean",
            tooltip="How features are chosen: by how much more they fire, or by their effect alone on the picture, "
            "which takes longer.",
            **more,
        ),
    ]  # fmt: skip


def _acting() -> list[io.Input]:
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        location_input(optional=True),
        stream_input(optional=True),
        percent_input("start_percent", 0.0, "Part of the run after which steering begins, by noise level.", **more),
        percent_input("end_percent", 1.0, "Part of the run at which steering ends, by noise level.", **more),
        side_input("Side of guidance when CFG is above 1.", **more),
        contrast_way_input(),
    ]


def _texts(wanted: str, instead_of: str, clip: Any) -> Texts:
    texts = Texts(wanted.strip(), instead_of.strip(), clip)
    if not texts.wanted:
        raise ValueError("wanted: it is empty; write what you want to see, such as a snowy street.")
    if texts.wanted == texts.instead_of:
        raise ValueError(
            f"instead_of: it says {texts.wanted[:60]!r} as wanted does; write what should give way, or nothing."
        )
    return texts


def _empty(model: Model) -> dict[str, Any]:
    """An empty picture of SIDE pixels, as the model's latents are."""
    form = model.get_model_object("latent_format")
    side = SIDE // getattr(form, "spacial_downscale_ratio", 8)
    return {"samples": torch.zeros(1, form.latent_channels, side, side)}


def _mask_warning(model: Model, mask: Tensor | None, latent: dict[str, Any] | None) -> list[str]:
    """As far as it can be known here: the pictures that are drawn may have another size than those looked at."""
    if mask is None or latent is None:
        return []
    fault = mask_fault(model, mask, latent["samples"])
    return [f"On pictures as large as latent_image this will fail: {fault}"] if fault else []


NODES = [ConceptSteer]
