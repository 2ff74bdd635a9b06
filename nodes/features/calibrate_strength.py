from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ...sae.dictionary.sae_set import AnySae
from ...sae.hosts.comfyui.drawing import Drawing, progress_bar
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, members_in, setting_here
from ...sae.hosts.comfyui.own_folders import notebooks
from ...sae.hosts.comfyui.sampling import Sampling
from ...sae.steering.calibration import alone, calibrate_features, calibrated_methods
from ...sae.steering.edits import Calibration, FeatureList, Method, check_owner
from ...sae.steering.methods import DEFAULT
from ..browser.server_memory import Use, note_use
from ..inputs.menu import FEATURES
from ..inputs.plain_inputs import expert_switch, model_input, steps_input
from ..inputs.sockets import Sae, SaeFeatures, location_input, one_sae, replaces_input, seed_input, stream_input


class CalibrateStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CalibrateStrength",
            display_name="Calibrate Strength",
            category=FEATURES,
            description=(
                "Finds each feature's usable range on your model and prompt: the smallest strength that changes the "
                "picture and the largest before it falls apart. In the unit 'calibrated', 1 then means clearly there."
            ),
            search_aliases=["strength range", "slider range", "auto strength"],
            inputs=[
                model_input(),
                Sae.Input("sae", tooltip="An SAE that was trained on this model."),
                SaeFeatures.Input("features", tooltip="The features to calibrate, each alone."),
                io.Conditioning.Input("positive", tooltip="A prompt of the kind you will steer."),
                io.Latent.Input("latent_image", tooltip="Size of the picture; a smaller one is faster."),
                seed_input("Seed of the noise."),
                steps_input("Steps of each short sampling."),
                io.Combo.Input(
                    "method",
                    options=calibrated_methods(),
                    default=DEFAULT,
                    tooltip="The method you will steer with; a range holds for one method. swap needs replaces.",
                ),
                location_input(),
                stream_input(),
                replaces_input(),
                expert_switch(
                    "save", True, "Keeps the ranges beside the labels of this SAE, where Feature Mixer finds them."
                ),
            ],
            outputs=[
                SaeFeatures.Output(
                    display_name="features",
                    tooltip="The features with their ranges, each 1 × clearly there.",
                ),
                io.String.Output(display_name="table", tooltip="Each feature's range."),
            ],
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: AnySae,
        features: FeatureList,
        positive: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        method: Method,
        location: str,
        stream: str,
        replaces: FeatureList | None = None,
        save: bool = True,
    ) -> io.NodeOutput:
        sae = one_sae(sae)
        check_owner(features, sae.owner, "features")
        [member] = members_in(model, sae, location, stream)
        site = member.site
        draw = Drawing(model, positive, latent_image, Sampling(seed, steps))
        steering = alone(sae, site, method, replaces or FeatureList())
        found = calibrate_features(draw, features, method, steering, progress_bar(steps))
        notebook = notebooks().of(sae)
        table = _table(found, notebook.names, method)
        kept = {feature: calibration for feature, calibration in found.items() if calibration is not None}
        if not kept:
            raise ValueError(
                f"features: none of them changes the picture with {method!r} at {site}; steer another place, or "
                "with features from TopActivatingFeatures."
            )
        setting = setting_here(model, site, replaces or FeatureList())
        told = notebook.keep_ranges(kept, setting) if save else ""
        note_use(sae, Use(method, setting))
        edits = [
            replace(edit, strength=1.0, unit="calibrated", calibration=kept[edit.feature])
            for edit in features
            if edit.feature in kept
        ]
        listed = FeatureList(edits, owner=sae.owner, warnings=features.warnings)
        lines = filter(None, (table, told, *features.warnings, *elsewhere_lines(model, [member])))
        return io.NodeOutput(listed, table, ui=ui.PreviewText("\n".join(lines)))


def _table(found: dict[int, Calibration | None], names: dict[int, str], method: Method) -> str:
    lines = [f"{'feature':>8} {'visible':>9} {'clear (1)':>9} {'too much':>9}  ({method})"]
    for feature, range_ in found.items():
        name = " ".join(names.get(feature, "").split())
        ends = "changes nothing" if range_ is None else f"{range_.low:>9.3g} {range_.clear:>9.3g} {range_.high:>9.3g}"
        lines.append(f"{feature:>8} {ends}  {name}".rstrip())
    return "\n".join(lines)


NODES = [CalibrateStrength]
