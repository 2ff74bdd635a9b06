from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor
from torch.nn import functional

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.drawing.sheet import contact_sheet
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling, sample
from ..sae.hosts.comfyui.steering import steer
from ..sae.places.site import Site, resolve_site
from ..sae.steering.delta import Steering
from ..sae.steering.edits import METHODS, UNITS, Edit, FeatureList, Method, Unit
from ..sae.steering.intervention import Intervention
from ..sae.steering.record import RunSummary
from ..sae.steering.sweep import Cell, captions, parse_strengths, plan
from .shared.feature_names import names_of
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, LOCATION_TIP, METHOD_TIP, Sae, SaeFeatures, stream_input

log = logging.getLogger(__name__)

RANDOM_SEED = 7
LARGEST = 512  # pixels of a picture's longer side on the sheet, less where the sheet has many
SHEET_PIXELS = 24e6
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
        wanted = parse_strengths(strengths)
        sites = [resolve_site(part, stream, sae.site) for part in location.split(";")]
        places = [(edit, site) for site in sites for edit in features]  # one row of the sheet each
        cells = plan([edit for edit, _ in places], wanted, controls)
        how = Sampling(seed, steps, cfg, sampler_name, scheduler, denoise)
        rows_of = [site for _, site in places]
        sweep = _Sweep(model, vae, sae, method, unit, rows_of, how, (positive, negative, latent_image))
        names = names_of(sae)
        rows = [_caption(edit, names, site if len(sites) > 1 else None) for edit, site in places]
        pictures: list[list[Tensor]] = [[] for _ in places]
        try:
            sweep.fill(cells, pictures)
        except comfy.model_management.InterruptProcessingException:
            _keep(pictures, rows, captions(wanted, controls))
            raise
        sheet = _sheet(pictures, rows, captions(wanted, controls))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet))


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


class _Sweep:
    """Draws pictures with everything but the steering fixed."""

    def __init__(
        self, model: Model, vae: Any, sae: SparseAutoencoder, method: Method, unit: Unit, sites: list[Site],
        how: Sampling, inputs: tuple[Any, Any, dict[str, Any]],
    ) -> None:  # fmt: skip
        self.model, self.vae, self.sae, self.method, self.unit, self.how = model, vae, sae, method, unit, how
        self.sites = sites  # of each row
        self.positive, self.negative, latent = inputs
        self.latent = {**latent, "samples": latent["samples"][:1]}
        self.latent.pop("batch_index", None)
        self.side = LARGEST

    def fill(self, cells: list[Cell], pictures: list[list[Tensor]]) -> None:
        """Puts the unsteered picture and those of the cells into their rows, one by one."""
        bar = comfy.utils.ProgressBar((1 + len(cells)) * self.how.steps)
        self.side = min(LARGEST, int((SHEET_PIXELS / (len(pictures) + len(cells))) ** 0.5))
        plain = self._draw(self.model, bar, 0)
        for row in pictures:
            row.append(plain)
        reports: list[RunSummary] = []
        for number, cell in enumerate(cells):
            steering = Steering(self.sae, [cell.edit], self.method, cell.strength, self.unit)
            control = RANDOM_SEED if cell.random else None
            steered = steer(self.model, Intervention(steering, self.sites[cell.row]), reports.append, control)
            pictures[cell.row].append(self._draw(steered, bar, 1 + number))
            reports[-1].check_reached()
        for sentence in sorted({sentence for report in reports for sentence in report.unreached}):
            log.warning("SteeringSweep: %s", sentence)

    def _draw(self, model: Model, bar: comfy.utils.ProgressBar, number: int) -> Tensor:
        """A picture (3, height, width) as it goes onto the sheet."""
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        done = number * self.how.steps

        def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            preview = previewer.decode_latent_to_preview_image("JPEG", denoised) if previewer else None
            bar.update_absolute(done + (step + 1) * self.how.steps // max(total, 1), bar.total, preview)

        latent = sample(model, self.positive, self.latent, self.how, callback, self.negative)
        picture = self.vae.decode(latent)[0, ..., :3].movedim(-1, 0).float().cpu()
        factor = self.side / max(picture.shape[1:])
        if factor >= 1:
            return picture
        size = [round(side * factor) for side in picture.shape[1:]]
        return functional.interpolate(picture.unsqueeze(0), size, mode="area")[0]


def _sheet(pictures: list[list[Tensor]], rows: list[str], columns: list[str]) -> Tensor:
    """(1, height, width, 3) in 0..1."""
    drawn = contact_sheet([torch.stack(row) for row in pictures], rows, columns)
    return torch.from_numpy(np.asarray(drawn).astype(np.float32) / 255).unsqueeze(0)


def _keep(pictures: list[list[Tensor]], rows: list[str], columns: list[str]) -> None:
    """What is done before Cancel goes into output/sae; places that were not reached stay empty."""
    shape = next((row[0] for row in pictures if row), None)
    if shape is None:
        return
    empty = torch.full_like(shape, 0.9)
    full = [[*row, *[empty] * (len(columns) - len(row))] for row in pictures]
    path = output_folder() / CANCELLED
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([torch.stack(row) for row in full], rows, columns).save(path)
    log.info("SteeringSweep: what was drawn before Cancel is in %s", path)


NODES = [SteeringSweep]
