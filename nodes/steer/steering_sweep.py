from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.samplers
from comfy_api.latest import io, ui

from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.drawing.pictures import from_image
from ...sae.drawing.sheet import GrowingSheet
from ...sae.hosts.comfyui.drawing import Drawing, first_of_batch, progress_bar
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, members_in
from ...sae.hosts.comfyui.own_folders import notebooks, output_folder
from ...sae.hosts.comfyui.sampling import Sampling
from ...sae.steering.edits import UNITS, Auto, FeatureList, Method, Unit
from ...sae.steering.methods import method_for
from ...sae.steering.set_up import Planned, Wanted
from ...sae.steering.sweep import Row, captions, draw_rows, parse_strengths, plan, rows_of
from ..inputs.menu import STEER
from ..inputs.plain_inputs import model_input
from ..inputs.sockets import LOCATION_TIP, Sae, SaeFeatures, method_input, replaces_input, seed_input, stream_input
from .activation_steer import token_unit_tip

log = logging.getLogger(__name__)

CANCELLED = "sweep-cancelled.png"
LONGEST_LINE = 22  # characters of a caption's line


class SteeringSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteeringSweep",
            display_name="Steering Sweep",
            category=STEER,
            description=(
                "Draws all features together, then each alone, at several strengths and from the same seed, on one "
                "labelled sheet; beside them the unsteered picture and a random direction of the same size."
            ),
            search_aliases=["xy plot", "strength grid", "compare features", "contact sheet"],
            inputs=[
                *_what(),
                *_how(),
                replaces_input(", in every row all of them"),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet", tooltip="The sheet: a row for all features together, and one for each."
                )
            ],
            is_output_node=True,  # it shows the sheet, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        vae: Any,
        sae: AnySae,
        features: FeatureList,
        method: Method | Auto,
        unit: Unit,
        strengths: str,
        controls: bool,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        location: str,
        stream: str,
        replaces: FeatureList | None = None,
    ) -> io.NodeOutput:
        columns = parse_strengths(strengths)
        places = [members_in(model, sae, part, stream) for part in location.split(";")]
        wanted = Wanted(features, method_for(method, replaces), 1.0, unit, replaces or ())
        rows = rows_of(sae, places, wanted)
        cells = plan(len(rows), columns, controls)
        how = Sampling(seed, steps, cfg, sampler_name, scheduler, denoise)
        draw = Drawing(model, positive, first_of_batch(latent_image), how, negative, vae)
        names, several = notebooks().of(sae).names, len(places) > 1 or isinstance(sae, SaeSet)
        sheet = GrowingSheet([_caption(row, names, several) for row in rows], captions(columns, controls))
        try:
            for row, pictures in draw_rows(draw, rows, cells, progress_bar(steps)):
                sheet.add(row, pictures[0])
        except comfy.model_management.InterruptProcessingException:
            _keep(sheet)
            raise
        drawn = from_image(sheet.image()).unsqueeze(0)
        told = _lines(model, wanted.at(sae, [member for part in places for member in part]))
        return io.NodeOutput(drawn, ui={**ui.PreviewImage(drawn).as_dict(), **({"text": told} if told else {})})


def _what() -> list[io.Input]:
    return [
        model_input(),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
        Sae.Input(
            "sae", tooltip="An SAE that was trained on this model, or a set: each feature is steered at its own place."
        ),
        SaeFeatures.Input(
            "features", tooltip="A row for all together and one for each, with its own strength as a factor."
        ),
        method_input(),
        io.Combo.Input("unit", options=list(UNITS), default="auto", tooltip=token_unit_tip()),
        io.String.Input("strengths", default="0.5, 1, 2", tooltip="One column for each number."),
        io.Boolean.Input(
            "controls", default=True, tooltip="A column with a random direction of the largest strength's size."
        ),
    ]


def _how() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="The prompt."),
        io.Conditioning.Input("negative", tooltip="The negative prompt; not read with a CFG of 1."),
        io.Latent.Input("latent_image", tooltip="Size of the pictures; the first of a batch is drawn."),
        seed_input("As in KSampler."),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As in KSampler."),
        io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, tooltip="As in KSampler; 1 for most FLUX."),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="As in KSampler."
        ),
        io.Combo.Input(
            "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="simple", tooltip="As in KSampler."
        ),
        io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="As in KSampler."),
        io.String.Input(
            "location", default="auto", tooltip=f"{LOCATION_TIP} Several with ; between them give a row for each."
        ),
        stream_input(),
    ]


def _caption(row: Row, names: dict[int, str], several: bool) -> str:
    """The place is told where there are several."""
    edits, members = row.wanted.features, row.members
    if len(edits) > 1:
        lines = [f"all {len(edits)} together"]
    else:
        name = " ".join(names.get(edits[0].feature, "").split())
        lines = [f"feature {edits[0].feature}", name[:LONGEST_LINE]]
    if several:
        lines.append(members[0].site.location[-LONGEST_LINE:] if len(members) == 1 else f"at {len(members)} places")
    return "\n".join(filter(None, lines))


def _lines(model: Model, planned: Planned) -> list[str]:
    """What is to be told of the lists and places."""
    warnings = [line for item in planned.interventions for line in item.steering.warnings]
    return list(dict.fromkeys([*planned.lines, *warnings, *elsewhere_lines(model, planned.members)]))


def _keep(sheet: GrowingSheet) -> None:
    """What is done before Cancel goes into output/sae."""
    if not sheet.begun:
        return
    path = output_folder() / CANCELLED
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.image().save(path)
    log.info("SteeringSweep: what was drawn before Cancel is in %s", path)


NODES = [SteeringSweep]
