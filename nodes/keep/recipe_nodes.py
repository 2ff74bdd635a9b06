from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae, SaeSet, members_at
from ...sae.formats.known import known_checkpoint
from ...sae.formats.provenance import provenance
from ...sae.hosts.comfyui.model import Model, family_of
from ...sae.hosts.comfyui.own_folders import notebooks, output_folder
from ...sae.hosts.comfyui.steering import carried
from ...sae.places.moment import Schedule, Side
from ...sae.steering.edits import Auto, FeatureList, Method, Unit
from ...sae.steering.methods import method_for
from ...sae.steering.recipe import NeededSae, Recipe, read_recipe, write_recipe
from ...sae.steering.set_up import SetUp, Wanted
from ...sae.version import VERSION
from ..browser.recipe_files import read_saved, recipe_names, saved_path, write_recipe_file
from ..inputs.menu import KEEP
from ..inputs.plain_inputs import amount_input, lines_input, model_input
from ..inputs.sockets import (
    Sae,
    SaeFeatures,
    location_input,
    percent_input,
    replaces_input,
    side_input,
    steering_inputs,
    stream_input,
)
from ..steer.activation_steer import token_unit_tip
from ..steer.steered_run import steered

NONE = "none"  # no saved recipe; their names end in .json


class SaveRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveRecipe",
            display_name="Save Recipe",
            category=KEEP,
            description=(
                "Writes a steering set-up as a small JSON file that can be shared: features with their names, "
                "strengths, place, schedule, and which SAE it needs. Connect the steered MODEL, and nothing else. The "
                "region belongs to a picture and is left out."
            ),
            search_aliases=["export steering", "share steering", "preset"],
            inputs=[
                Sae.Input(
                    "sae", optional=True, tooltip="Without model: the SAE that the features belong to, or the set."
                ),
                *steering_inputs("TopActivatingFeatures", token_unit_tip(), without="Not with model."),
                location_input(),
                stream_input(),
                percent_input("start_percent", 0.0, "As in Activation Steer."),
                percent_input("end_percent", 1.0, "As in Activation Steer."),
                side_input("Side of guidance."),
                io.String.Input("name", default="my-recipe", tooltip="Of the file in output/sae/recipes."),
                lines_input("note", "What it does, for those who load it."),
                replaces_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The steered MODEL, whose set-up is saved. Of this node only name, note and overwrite "
                    "count then.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replaces another recipe of that name. Off: the new one gets a number, as pictures do.",
                ),
            ],
            outputs=[io.String.Output(display_name="recipe", tooltip="The JSON, for Load Recipe.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        method: Method | Auto,
        strength: float,
        unit: Unit,
        location: str,
        stream: str,
        start_percent: float,
        end_percent: float,
        apply_to: Side,
        name: str,
        note: str,
        sae: AnySae | None = None,
        features: FeatureList | None = None,
        replaces: FeatureList | None = None,
        model: Model | None = None,
        overwrite: bool = False,
    ) -> io.NodeOutput:
        wired = {"sae": sae, "features": features, "replaces": replaces}
        if model is not None:
            set_up = _set_up_of(model, [name for name, value in wired.items() if value is not None])
        elif sae is None or features is None:
            missing = next(name for name in ("sae", "features") if wired[name] is None)
            raise ValueError(f"{missing}: nothing came; connect a steered MODEL to model, or both sae and features.")
        else:
            chosen, schedule = method_for(method, replaces), Schedule(start_percent, end_percent)
            wanted = Wanted(features, chosen, strength, unit, replaces or (), schedule, apply_to)
            set_up = SetUp(sae, wanted, location, stream)
        text = write_recipe(_recipe(set_up, note))
        path, fresh = write_recipe_file(name, text, overwrite)
        where = path.relative_to(output_folder().parent.parent).as_posix()
        lines = [f"Wrote {where}" if fresh else f"{where} holds this very recipe already."]
        if set_up.wanted.mask is not None:
            lines.append("The region is left out: it belongs to one picture.")
        return io.NodeOutput(text, ui=ui.PreviewText("\n".join([*lines, text])))


class LoadRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadRecipe",
            display_name="Load Recipe",
            category=KEEP,
            description="Steers a model as a recipe says. It needs the very SAE that the recipe was made with.",
            search_aliases=["import steering", "apply recipe", "preset"],
            inputs=[
                model_input(),
                io.String.Input(
                    "recipe", multiline=True, tooltip="The JSON that Save Recipe wrote, pasted here, or choose saved."
                ),
                amount_input("strength", 100.0, "Multiplies the recipe's own strength."),
                Sae.Input("sae", optional=True, tooltip="The recipe's SAE; without it you are told where to get it."),
                io.Mask.Input("mask", optional=True, tooltip="Where on the picture to steer. Image tokens only."),
                io.Combo.Input(
                    "saved",
                    options=[NONE, *recipe_names()],
                    default=NONE,
                    optional=True,
                    tooltip="A file in output/sae/recipes, in place of the text. R reads the list again.",
                ),
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
    def fingerprint_inputs(cls, saved: str = NONE, **more: Any) -> str:
        """Another state of the file is another recipe."""
        if saved not in recipe_names():
            return ""
        state = saved_path(saved).stat()
        return f"{state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(
        cls,
        model: Model,
        recipe: str,
        strength: float,
        sae: AnySae | None = None,
        mask: Tensor | None = None,
        saved: str = NONE,
    ) -> io.NodeOutput:
        if saved != NONE and recipe.strip():
            raise ValueError(f"saved: {saved} is chosen, but recipe has a text too; empty the text, or choose none.")
        found = read_recipe(recipe) if saved == NONE else read_saved(saved)
        if sae is None:
            raise ValueError(f"sae: this recipe needs {found.sae}; load it with Load SAE and connect it.")
        found.check_sae(_needed(sae))
        found.check_family(family_of(model).name)
        schedule = Schedule(found.start_percent, found.end_percent)
        total = found.strength * strength
        features, replaces = (FeatureList(edits, owner=sae.owner) for edits in (found.features, found.replaces))
        wanted = Wanted(
            features, found.method, total, found.unit, replaces, schedule, found.apply_to, mask, found.gate,
            found.keep_norm,
        )  # fmt: skip
        return steered(cls, model, sae, wanted, found.location, found.stream, features, found.note)


def _set_up_of(model: Model, wired: list[str]) -> SetUp:
    """What steers the MODEL; ValueError where that is not one thing, or where `wired` says it again."""
    if wired:
        raise ValueError(
            f"model: it brings its own set-up, but {' and '.join(wired)} came too; disconnect model, or the others."
        )
    found = carried(model)
    if not found:
        raise ValueError(
            "model: nothing steers it; connect the MODEL that Activation Steer, Concept Steer or Load Recipe gives."
        )
    if len(found) > 1:
        raise ValueError(
            f"model: {len(found)} nodes steer it, but a recipe holds one steering; save each from a model that it "
            "alone steers, or steer with one SAE Set."
        )
    return found[0]


def _recipe(set_up: SetUp, note: str) -> Recipe:
    """The set-up as people share it, with what its features are called; ValueError for what cannot steer."""
    sae, wanted = set_up.sae, set_up.wanted
    members = members_at(sae, set_up.location, set_up.stream)
    wanted.at(sae, members)
    location, stream = set_up.location.strip() or "auto", set_up.stream
    if not isinstance(sae, SaeSet):  # a set's place may be auto, for its members tell theirs
        location, stream = members[0].site.location, members[0].site.stream
    used = {edit.feature for edit in (*wanted.features, *wanted.replaces, *wanted.gate.edits)}
    return Recipe(
        tuple(wanted.features), _needed(sae), location, stream, wanted.method, wanted.strength, wanted.unit,
        wanted.schedule.start_percent, wanted.schedule.end_percent, wanted.side, tuple(wanted.replaces),
        {feature: text for feature, text in notebooks().of(sae).names.items() if feature in used}, note, VERSION,
        sae.trained_on.family if sae.trained_on else "", replace(wanted.gate, edits=tuple(wanted.gate.edits)),
        wanted.keep_norm,
    )  # fmt: skip


def _needed(sae: AnySae) -> NeededSae:
    if isinstance(sae, SaeSet):
        members = tuple(replace(_needed(member.sae), site=member.site) for member in sae.members)
        return NeededSae(fingerprint(sae), sae.name, members=members)
    return NeededSae(fingerprint(sae), sae.name, _source(sae))


def _source(sae: SparseAutoencoder) -> str:
    known = known_checkpoint(sae.name)
    return (known.url or known.page) if known else provenance(sae).get("source", "")


NODES = [SaveRecipe, LoadRecipe]
