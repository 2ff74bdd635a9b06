from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.contrast import Side, Way
from ...sae.finding.contrasted import Told
from ...sae.finding.two_sides import Runs
from ...sae.hosts.comfyui.contrasting import PromptRuns, contrasted_in, contrasted_texts, sites_in
from ...sae.hosts.comfyui.drawing import encoded, progress_bar
from ...sae.hosts.comfyui.model import Model
from ...sae.hosts.comfyui.sampling import Sampling
from ...sae.hosts.comfyui.steering import Watched
from ...sae.places.named_choices import first_text
from ..browser.feature_results import contrast_output, contrast_outputs, contrast_way_input
from ..inputs.menu import FIND
from ..inputs.plain_inputs import expert_text, lines_in, lines_input, model_input, steps_input
from ..inputs.sockets import places_input, seed_input, seeds_input, stream_input

IN_MODEL = "none"  # of the tap: directions are looked for in the model, not in the text's embedding


class ContrastDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ContrastDirection",
            display_name="Contrast Direction",
            category=FIND,
            description=(
                "Steering without an SAE: samples two prompts, or pairs of prompts, shortly and makes a direction of "
                "what differs inside the model. All nodes that take an SAE and features work with it."
            ),
            search_aliases=["steering vector", "no sae", "difference of means", "control vector", "concept direction"],
            inputs=[*_sides(), *_runs(), *_texts(), _tap(), contrast_way_input()],
            outputs=contrast_outputs(),
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        latent_image: dict[str, Any],
        seed: int,
        seeds: int,
        steps: int,
        location: str,
        stream: str,
        positive: Any = None,
        negative: Any = None,
        clip: Any = None,
        positive_texts: str = "",
        negative_texts: str = "",
        tap: str = IN_MODEL,
        contrast_by: Way = "auto",
    ) -> io.NodeOutput:
        in_model = tap.strip().lower() in ("", IN_MODEL)
        sites = sites_in(model, location, stream, first_text) if in_model else []
        told = _told(positive, negative, clip, positive_texts, negative_texts)
        prompts: dict[Side, list[Any]] = {"positive": [positive], "negative": [negative]}
        if clip is not None:
            prompts = {side: [encoded(clip, text) for text in texts] for side, texts in told.items()}
        if not in_model:
            return contrast_output(contrasted_texts(prompts, tap, told, contrast_by))
        watched = Watched(model, [(site, None) for site in sites])
        pairs = len(prompts["positive"])
        runs = Runs(pairs * seeds, pairs * seeds, paired=True, again=pairs, way=contrast_by)
        show = PromptRuns(watched, prompts, latent_image, Sampling(seed, steps))
        return contrast_output(contrasted_in(model, sites, show, runs, told, progress_bar(steps)))


def _sides() -> list[io.Input]:
    return [
        model_input(),
        io.Conditioning.Input(
            "positive", optional=True, tooltip="What you want. It should differ from the negative in one thing only."
        ),
        io.Conditioning.Input("negative", optional=True, tooltip="What it stands instead of."),
        io.Latent.Input("latent_image", tooltip="Size of the pictures, best as you draw; a smaller one is faster."),
    ]


def _runs() -> list[io.Input]:
    return [
        seed_input("First seed of the noise, the same for both sides."),
        seeds_input(),
        steps_input("Steps of each short sampling; 4 to 8 do."),
        places_input("'auto' is the text as it enters the first block, before the picture reads it."),
        stream_input(),
    ]


def _texts() -> list[io.Input]:
    return [
        io.Clip.Input("clip", optional=True, tooltip="Encodes the texts, in place of positive and negative."),
        lines_input(
            "positive_texts",
            "With clip: one prompt a line. Pairs that differ in all else too tell better what one thing is.",
            optional=True,
        ),
        lines_input(
            "negative_texts",
            "With clip: as many lines, each against the same one of positive_texts. Empty: against no words.",
            optional=True,
        ),
    ]


def _tap() -> io.Input:
    return expert_text(
        "tap",
        IN_MODEL,
        "none: in the model. Else the direction is one of the text's embedding, for CLIP Embed Steer, and nothing is "
        "sampled: all, or the number of a hidden state, such as 18, where several stand side by side.",
    )


def _told(positive: Any, negative: Any, clip: Any, positive_texts: str, negative_texts: str) -> Told:
    """The prompts of each side; empty of conditionings, which do not tell theirs. ValueError for all but one way."""
    if clip is None:
        missing = [name for name, given in (("positive", positive), ("negative", negative)) if given is None]
        if missing:
            raise ValueError(
                f"{missing[0]}: it is not connected; connect positive and negative, or clip and write one prompt a "
                "line into positive_texts and negative_texts."
            )
        if positive_texts.strip() or negative_texts.strip():
            raise ValueError("clip: texts are given, but what encodes them is not connected; connect the CLIP.")
        return {"positive": (), "negative": ()}
    if positive is not None or negative is not None:
        raise ValueError("clip: conditionings came as well; connect clip, or positive and negative, but not both.")
    return paired(tuple(lines_in(positive_texts)), tuple(lines_in(negative_texts)), "positive_texts", "negative_texts")


def paired(positive: tuple[str, ...], negative: tuple[str, ...], one: str, other: str) -> Told:
    """The lines of the inputs `one` and `other`; ValueError where they are no pairs of different prompts."""
    if not positive:
        raise ValueError(f"{one}: it is empty; write one prompt a line, each against the same line of {other}.")
    negative = negative or ("",) * len(positive)
    if len(positive) != len(negative):
        raise ValueError(
            f"{other}: {len(negative)} lines came for {len(positive)} in {one}; write as many, each against the same "
            "line, or none."
        )
    same = next((at for at, pair in enumerate(zip(positive, negative, strict=True), 1) if pair[0] == pair[1]), None)
    if same is not None:
        raise ValueError(
            f"{other}: line {same} says {negative[same - 1][:60]!r} as {one} does; write what it is told from."
        )
    return {"positive": positive, "negative": negative}


NODES = [ContrastDirection]
