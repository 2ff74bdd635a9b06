"""The pack's own socket types, and inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.places.moment import SIDES
from ...sae.places.site import STREAMS
from ...sae.steering.delta import Steering
from ...sae.steering.edits import UNITS, FeatureList
from ...sae.steering.methods import DEFAULT, METHODS, WITH_REPLACES
from .plain_inputs import amount_input

UNSTEERED = "With none, nothing is steered."  # of features that need not come

Sae = io.Custom("SAE")
SaeFeatures = io.Custom("SAE_FEATURES")

LOCATION_TIP = (
    "Where in the model; Inspect Model lists its places. 'auto' takes the place that the SAE's file name tells. "
    "Otherwise diffusers' module paths: transformer_blocks.5, transformer_blocks.0-18.attn, transformer_blocks.3,7.ff, "
    "transformer_blocks.2.ff_context, "
    "single_transformer_blocks.0-9, single_transformer_blocks.4.attn; ComfyUI's names such as double_blocks.5 work too."
)
STREAM_TIP = (
    "Which tokens: image, text, or joint (both, in single blocks). 'auto' takes the stream the SAE was trained on, "
    "else image in double blocks and joint in single blocks."
)


def location_input(optional: bool = False) -> io.String.Input:
    """For experts: SAEs and sets know their own."""
    return io.String.Input("location", default="auto", tooltip=LOCATION_TIP, optional=optional, advanced=True)


def stream_input(optional: bool = False) -> io.Combo.Input:
    return io.Combo.Input(
        "stream", options=["auto", *STREAMS], default="auto", tooltip=STREAM_TIP, optional=optional, advanced=True
    )


def seed_input(tooltip: str, **more: Any) -> io.Int.Input:
    """The seed of a node's own noise, which stays as it is from run to run; `more` goes to the input."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip=tooltip,
        **more,
    )


def seeds_input() -> io.Int.Input:
    """For nodes that look at noise from several seeds, the first of which is `seed`."""
    return io.Int.Input(
        "seeds",
        default=3,
        min=1,
        max=64,
        step=1,
        tooltip="How many seeds are looked at. Two or more tell how much chance alone gives; more find less clear "
        "directions.",
    )


def places_input(auto: str) -> io.String.Input:
    """The locations of nodes that make directions; `auto` says what 'auto' chooses."""
    return io.String.Input(
        "location",
        default="auto",
        tooltip=f"One direction for each block that is named, such as transformer_blocks.0-18.attn; several locations "
        f"with ; between them. {auto}",
    )


def percent_input(name: str, default: float, tooltip: str, **more: Any) -> io.Float.Input:
    """A part of the run, 0 to 1; `more` goes to the input."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, **more)


def side_input(tooltip: str, **more: Any) -> io.Combo.Input:
    """Which side of guidance is meant; `more` goes to the input."""
    return io.Combo.Input("apply_to", options=list(SIDES), default="both", tooltip=tooltip, **more)


def replaces_input(such_as: str = "") -> io.Input:
    """The features that swap takes out; `such_as` names some."""
    return SaeFeatures.Input(
        "replaces", optional=True, tooltip=f"For swap and replace: the features to take out{such_as}."
    )


def steering_inputs(finder: str, unit_tip: str, *, without: str = "") -> list[io.Input]:
    """Features, method, strength and unit; `finder` is the node that lists features for this place.

    Features are needed, unless `without` tells what happens when none come, as from a bypassed Feature Mixer.
    """
    tip = f"From {finder} or Feature Mixer. {without}".strip()
    return [
        SaeFeatures.Input("features", optional=bool(without), tooltip=tip),
        method_input(),
        amount_input(
            "strength",
            1000.0,
            "Multiplies the strength of every feature. With the unit auto, 1 is an amount that shows, and 0 changes "
            "nothing.",
        ),
        io.Combo.Input("unit", options=list(UNITS), default="auto", tooltip=unit_tip),
    ]


def method_input() -> io.Combo.Input:
    """The choice of a method, with what the panel says of its strengths and of what `auto` means."""
    told = [f"{name}: {method.words.en}" for name, method in METHODS.items()]
    return io.Combo.Input(
        "method",
        options=[*METHODS, "auto"],
        default="auto",
        tooltip=" · ".join([*told, f"auto: {WITH_REPLACES} where 'replaces' is wired, else {DEFAULT}."]),
        extra_dict={
            "strength_means": {name: method.strength_means for name, method in METHODS.items()},
            "auto_means": {"with_replaces": WITH_REPLACES, "alone": DEFAULT},
        },
    )


def unit_tip(whole: str, usual: str, more: str = "") -> str:
    """What strength 1 means in each unit, of steering a `whole` token or embedding; `more` tells of further units."""
    pushing = [name for name, method in METHODS.items() if method.pushes]
    return (
        f"What strength 1 means for {', '.join(pushing[:-1])} and {pushing[-1]}. auto: what Calibrate Strength found, "
        f"else a fifth of the {whole}'s length, shared by the features · token_norm: as long as the {whole} itself "
        f"(try {usual}) · raw: the feature's activation · mean, max: multiples of the feature's own mean or largest "
        f"activation{more}. set takes raw, mean or max."
    )


def one_sae(sae: AnySae) -> SparseAutoencoder:
    """For nodes that work with one SAE; ValueError where a set came."""
    if isinstance(sae, SaeSet):
        sites = ", ".join(str(member.site) for member in sae.members)
        raise ValueError(
            f"sae: {sae.name} is a set of {len(sae.members)} SAEs, but this node takes one; connect that of one place "
            f"({sites})."
        )
    return sae


def nothing_to_steer_with(features: FeatureList | None) -> str:
    """What a node says that is given no feature and hands on what came."""
    why = "No features are connected" if features is None else "Every feature is switched off"
    return f"{why}, so nothing is steered."


def steering_warnings(steering: Steering, first: int = 0) -> list[str]:
    """What is known to fail wherever the steering acts; feature 0 is called `first`."""
    found = steering.warnings
    statistics = steering.statistics
    dead = [] if statistics is None else [first + k for k in steering.features if statistics.dead[k]]
    if dead:
        names = ", ".join(map(str, dead))
        found.append(f"Dead in this SAE, it never fired while it was measured: feature {names}. Choose others.")
    return [*found, steering.traits.warning] if steering.traits.warning else found
