from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.samplers
from comfy_api.latest import io, ui

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.drawing.pixels import from_image
from ..sae.drawing.sheet import GrowingSheet
from ..sae.hosts.comfyui.drawing import Drawing, first_of_batch, progress_bar
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling
from ..sae.places.site import Site, resolve_site
from ..sae.steering.delta import Steering
from ..sae.steering.edits import METHODS, UNITS, Edit, FeatureList, Method, Unit, check_owner
from ..sae.steering.intervention import Intervention
from ..sae.steering.sweep import Cell, captions, draw_cells, parse_strengths, plan
from .shared.feature_names import names_of
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, LOCATION_TIP, METHOD_TIP, Sae, SaeFeatures, stream_input

log = logging.getLogger(__name__)

CANCELLED = "sweep-cancelled.png"


class SteeringSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteeringSweep",
            display_name="Steering Sweep",
            category=CATEGORY,
            description=(
                "Draws each feature at several strengths, from the same seed, on one labelled sheet; beside them the "
                "unsteered picture and a random direction of the same size."
            ),
            search_aliases=["xy plot", "strength grid", "compare features", "contact sheet"],
            inputs=[*_what(), *_how()],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The sheet, one row for each feature.")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        vae: Any,
        sae: SparseAutoencoder,
        features: FeatureList,
        method: Method,
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
    ) -> io.NodeOutput:
        check_owner(features, sae.owner, "features")
        wanted = parse_strengths(strengths)
        sites = [resolve_site(part, stream, sae.site) for part in location.split(";")]
        places = [(edit, site) for site in sites for edit in features]  # one row of the sheet each
        cells = plan([edit for edit, _ in places], wanted, controls)

        def steering(cell: Cell) -> Intervention:
            return Intervention(Steering(sae, [cell.edit], method, cell.strength, unit), places[cell.row][1])

        how = Sampling(seed, steps, cfg, sampler_name, scheduler, denoise)
        draw = Drawing(model, positive, first_of_batch(latent_image), how, negative, vae)
        names = names_of(sae)
        rows = [_caption(edit, names, site if len(sites) > 1 else None) for edit, site in places]
        sheet = GrowingSheet(rows, captions(wanted, controls))
        try:
            for row, pictures in draw_cells(draw, cells, steering, progress_bar(steps)):
                sheet.add(row, pictures[0])
        except comfy.model_management.InterruptProcessingException:
            _keep(sheet)
            raise
        drawn = from_image(sheet.image()).unsqueeze(0)
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn))


def _what() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="A FLUX model; it stays as it is."),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
        Sae.Input("sae", tooltip="An SAE that was trained on this model."),
        SaeFeatures.Input("features", tooltip="One row for each, with its own strength as a factor."),
        io.Combo.Input("method", options=[m for m in METHODS if m != "swap"], default="add", tooltip=METHOD_TIP),
        io.Combo.Input("unit", options=list(UNITS), default="token_norm", tooltip="What strength 1 means."),
        io.String.Input("strengths", default="0.1, 0.2, 0.4", tooltip="One column for each number."),
        io.Boolean.Input(
            "controls", default=True, tooltip="A column with a random direction of the largest strength's size."
        ),
    ]


def _how() -> list[io.Input]:
    limit = 0xFFFFFFFFFFFFFFFF
    return [
        io.Conditioning.Input("positive", tooltip="The prompt."),
        io.Conditioning.Input("negative", tooltip="The negative prompt; not read with a CFG of 1."),
        io.Latent.Input("latent_image", tooltip="Size of the pictures; the first of a batch is drawn."),
        io.Int.Input("seed", default=0, min=0, max=limit, control_after_generate=True, tooltip="As in KSampler."),
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


def _caption(edit: Edit, names: dict[int, str], site: Site | None) -> str:
    """Of a row; the place is told where there are several."""
    lines = [f"feature {edit.feature}", names.get(edit.feature, "")[:22], "" if site is None else site.location[-22:]]
    return "\n".join(filter(None, lines))


def _keep(sheet: GrowingSheet) -> None:
    """What is done before Cancel goes into output/sae."""
    if not sheet.begun:
        return
    path = output_folder() / CANCELLED
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.image().save(path)
    log.info("SteeringSweep: what was drawn before Cancel is in %s", path)


NODES = [SteeringSweep]
