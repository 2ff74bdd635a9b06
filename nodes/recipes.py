from __future__ import annotations

import json
from pathlib import Path

from comfy_api.latest import io, ui
from torch import Tensor

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.fingerprint import fingerprint
from ..sae.files.small_json import write_json
from ..sae.formats.known import known_checkpoint
from ..sae.formats.provenance import provenance
from ..sae.hosts.comfyui.model import Model
from ..sae.places.moment import SIDES, Schedule, Side
from ..sae.places.site import parse_location, resolve_site
from ..sae.steering.delta import Steering
from ..sae.steering.edits import FeatureList, Method, Unit
from ..sae.steering.intervention import Intervention
from ..sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe
from ..sae.version import VERSION
from .flux_activation_steer import UNIT_TIP, steered
from .shared.feature_names import names_of
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, Sae, SaeFeatures, location_input, steering_inputs, stream_input

FOLDER = "recipes"


class SaveRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveRecipe",
            display_name="Save Recipe",
            category=CATEGORY,
            description=(
                "Writes a steering set-up as a small JSON file that can be shared: features with their names, "
                "strengths, place, schedule, and which SAE it needs. The region belongs to a picture and is left out."
            ),
            search_aliases=["export steering", "share steering", "preset"],
            inputs=[
                Sae.Input("sae", tooltip="The SAE that the features belong to."),
                *steering_inputs("TopActivatingFeatures", 0.2, UNIT_TIP),
                location_input(),
                stream_input(),
                _percent("start_percent", 0.0, "As in FLUX Activation Steer."),
                _percent("end_percent", 1.0, "As in FLUX Activation Steer."),
                io.Combo.Input("apply_to", options=list(SIDES), default="both", tooltip="Side of guidance."),
                io.String.Input("name", default="my-recipe", tooltip="Of the file in output/sae/recipes."),
                io.String.Input("note", default="", multiline=True, tooltip="What it does, for those who load it."),
                SaeFeatures.Input("replaces", optional=True, tooltip="For swap: the features to take out."),
            ],
            outputs=[io.String.Output(display_name="recipe", tooltip="The JSON, for Load Recipe.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        sae: SparseAutoencoder,
        features: FeatureList,
        method: Method,
        strength: float,
        unit: Unit,
        location: str,
        stream: str,
        start_percent: float,
        end_percent: float,
        apply_to: Side,
        name: str,
        note: str,
        replaces: FeatureList | None = None,
    ) -> io.NodeOutput:
        site = resolve_site(location, stream, sae.site)
        Steering(sae, features, method, strength, unit, replaces or ())  # what cannot steer is not saved
        used = {edit.feature for edit in (*features, *(replaces or ()))}
        recipe = Recipe(
            tuple(features), _needed(sae), site.location, site.stream, method, strength, unit, start_percent,
            end_percent, apply_to, tuple(replaces or ()),
            {feature: text for feature, text in names_of(sae).items() if feature in used}, note, VERSION,
        )  # fmt: skip
        path, text = _file(name), write_recipe(recipe)
        write_json(path, json.loads(text))
        return io.NodeOutput(
            text, ui=ui.PreviewText(f"Wrote {path.relative_to(output_folder().parent.parent)}\n{text}")
        )


class LoadRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadRecipe",
            display_name="Load Recipe",
            category=CATEGORY,
            description="Steers a FLUX model as a recipe says. It needs the very SAE that the recipe was made with.",
            search_aliases=["import steering", "apply recipe", "preset"],
            inputs=[
                io.Model.Input("model", tooltip="A FLUX model; it stays as it is."),
                io.String.Input("recipe", multiline=True, tooltip="The JSON that Save Recipe wrote, pasted here."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    round=False,
                    tooltip="Multiplies the recipe's own strength.",
                ),
                Sae.Input("sae", optional=True, tooltip="The recipe's SAE; without it you are told where to get it."),
                io.Mask.Input("mask", optional=True, tooltip="Where on the picture to steer. Image tokens only."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The steered copy of the model."),
                SaeFeatures.Output(display_name="features", tooltip="The recipe's features."),
                io.String.Output(display_name="note", tooltip="What the recipe says of itself."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        recipe: str,
        strength: float,
        sae: SparseAutoencoder | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        found = read_recipe(recipe)
        if sae is None:
            raise ValueError(f"sae: this recipe needs {found.sae}; load it with Load SAE and connect it.")
        found.check_sae(fingerprint(sae))
        steering = Steering(sae, found.features, found.method, found.strength * strength, found.unit, found.replaces)
        site = parse_location(found.location, found.stream)
        schedule = Schedule(found.start_percent, found.end_percent)
        intervention = Intervention(steering, site, schedule, found.apply_to, mask)
        return steered(
            model, intervention, cls.hidden.unique_id, FeatureList(found.features, owner=sae.owner), found.note
        )


def _percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _needed(sae: SparseAutoencoder) -> NeededSae:
    known = known_checkpoint(sae.name)
    source = (known.url or known.page) if known else provenance(sae).get("source", "")
    return NeededSae(fingerprint(sae), sae.name, source)


def _file(name: str) -> Path:
    """The file in output/sae/recipes; ValueError for a name that leads out of it."""
    plain = name.strip().removesuffix(".json")
    if not plain or set(plain) & set('/\\:*?"<>|') or not plain.isprintable() or plain.startswith("."):
        raise ValueError(f"name: {name!r} is no name of a file; write one such as my-recipe.")
    return output_folder() / FOLDER / f"{plain}.json"


NODES = [SaveRecipe, LoadRecipe]
