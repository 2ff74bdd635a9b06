"""What the nodes share that train and measure SAEs: inputs, the model at work, and what ComfyUI tells and stops."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, get_args

import comfy.model_management
import folder_paths
from comfy_api.latest import io, ui

from ...sae.commands.job_progress import Host
from ...sae.commands.train_job import Job, make_sae
from ...sae.formats import load
from ...sae.hosts.comfyui.drawing import progress_bar
from ...sae.hosts.comfyui.memory import make_room
from ...sae.hosts.comfyui.model import Model
from ...sae.hosts.comfyui.model_at_work import Activity
from ...sae.hosts.comfyui.own_folders import KIND, named_folder, output_folder
from ...sae.places.moment import unheard
from ...sae.training.collect import Collection
from ...sae.training.config import TopKConfig, TrainedAs
from ...sae.training.source import Source
from ..browser.server_memory import show_progress_text
from ..inputs.plain_inputs import expert_number, lines_in, lines_input, model_input
from ..inputs.sockets import Sae, seed_input

log = logging.getLogger(__name__)

Shards = io.Custom("SAE_SHARDS")  # the folder of what CollectActivations kept


def prompts_input() -> io.String.Input:
    return lines_input("prompts", "A prompt a line; the more, the better.")


def activity_inputs() -> list[io.Input]:
    """The model at work, as `activity_of` takes it."""
    return [
        model_input(),
        io.Clip.Input("clip", tooltip="Encodes the prompts, as for CLIP Text Encode."),
        io.Latent.Input("latent_image", tooltip="Size of the pictures; with a batch, so many are drawn at once."),
        prompts_input(),
    ]


def name_input() -> io.String.Input:
    return io.String.Input("name", default="my-sae", tooltip="Its folder inside models/sae, which is made.")


def calls_input() -> io.Int.Input:
    return expert_number("sampling_steps", "Calls of the model for each prompt.", 100, 8, 1)


def expert_seed_input(tooltip: str) -> io.Int.Input:
    """One for experts."""
    return seed_input(tooltip, optional=True, advanced=True)


def architecture_input() -> io.Combo.Input:
    return io.Combo.Input(
        "architecture",
        options=list(get_args(TrainedAs)),
        default="topk",
        optional=True,
        advanced=True,
        tooltip="topk: k a token. batchtopk: k on average. matryoshka: the same, and the first features do well alone.",
    )


def rate_input() -> io.Float.Input:
    return io.Float.Input(
        "rate",
        default=TopKConfig.rate,
        min=0.00001,
        max=1.0,
        step=0.00005,
        round=False,
        optional=True,
        advanced=True,
        tooltip="Learning rate. The demos' small SAEs do better with more, 0.002 to 0.005.",
    )


def trained_outputs() -> list[io.Output]:
    return [
        Sae.Output(display_name="sae", tooltip="The trained SAE, with its place, statistics and owner."),
        io.String.Output(display_name="report", tooltip="How well it does on tokens that it has not seen."),
    ]


def activity_of(model: Model, clip: Any, prompts: str, latent: dict[str, Any], steps: int) -> Activity:
    """The model at work on the prompts of a text, one a line."""
    return Activity(model, clip, lines_in(prompts), latent, steps, unheard)


def job_folders(name: str) -> tuple[Path, str, Path]:
    """Where a trained SAE goes, how that is told, and where tokens and checkpoints lie until it is there.

    ValueError for a name that leads out.
    """
    folder = named_folder(name, "name", Path(folder_paths.models_dir) / KIND)
    return folder, f"models/{KIND}/{name.strip()}", output_folder() / "training"


def trained(job: Job, tokens: Collection | Source, name: str, node: type[io.ComfyNode]) -> io.NodeOutput:
    """What a node gives that trains an SAE."""
    path, report = make_sae(job, tokens, host_of(node))
    return io.NodeOutput(load(path, name=f"{name.strip()}/{path.stem}"), report, ui=ui.PreviewText(report))


def host_of(node: type[io.ComfyNode]) -> Host:
    """ComfyUI as a training sees it; lines are told on the node and in the log."""
    check = comfy.model_management.throw_exception_if_processing_interrupted
    return Host(partial(_tell, node.__name__, node.hidden.unique_id), progress_bar(1), check, make_room)


def _tell(node: str, node_id: str | None, line: str) -> None:
    log.info("%s: %s", node, line)
    show_progress_text(node_id, line)
