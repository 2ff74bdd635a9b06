from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.finding.effect import CANDIDATES, EFFECT
from ...sae.finding.features import FeatureReader
from ...sae.hosts.comfyui.drawing import progress_bar
from ...sae.hosts.comfyui.finding_features import Finder, Ranking, find, keep_run
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, setting_here
from ...sae.hosts.comfyui.own_folders import notebooks, output_folder
from ...sae.hosts.comfyui.sampling import Sampling
from ..browser.feature_results import count_input, feature_outputs, found_features, gallery_input, rank_input
from ..browser.server_memory import show_progress_text
from ..inputs.menu import FIND
from ..inputs.plain_inputs import expert_number, expert_switch, model_input, steps_input
from ..inputs.sockets import Sae, location_input, seed_input, stream_input

log = logging.getLogger(__name__)

EFFECT_TIP = (
    "effect (with a baseline): how far a feature alone moves the picture from the baseline to the prompt; it tries the "
    "candidates one by one."
)
STATISTICS_TIP = (
    "Writes mean, max and density of every feature to output/sae, where Load SAE finds them; they are the units 'mean' "
    "and 'max'. Better with several steps."
)
CANDIDATES_TIP = (
    "For effect: how many features are tried, those with the largest difference of means. Each costs one forward at 4 "
    "noise levels; the node tells how much that is."
)


class TopActivatingFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TopActivatingFeatures",
            display_name="Top Activating Features",
            category=FIND,
            description=(
                "Runs a short sampling and finds the features that fire for a prompt; with a baseline, those that fire "
                "more than for the baseline. Start from these, not from random numbers."
            ),
            search_aliases=["find features", "interpretability", "sae features", "feature finder", "contrast features"],
            inputs=[
                model_input(),
                Sae.Input(
                    "sae", tooltip="An SAE that was trained on this model, or a set, read at all its places at once."
                ),
                io.Conditioning.Input("positive", tooltip="The prompt whose features are looked for."),
                io.Latent.Input("latent_image", tooltip="Size of the picture; an empty latent, or one to look at."),
                seed_input("Seed of the noise, the same for prompt and baseline."),
                steps_input("Steps of the short sampling; 4 to 8 do."),
                count_input(),
                rank_input(EFFECT, tooltip=EFFECT_TIP),
                location_input(),
                stream_input(),
                io.Conditioning.Input(
                    "baseline",
                    optional=True,
                    tooltip="A prompt that differs only in what you look for; features are then ranked by difference.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Counts only image tokens inside the mask."),
                expert_switch("save_statistics", False, STATISTICS_TIP),
                expert_number("candidates", CANDIDATES_TIP, 1024, CANDIDATES, 1),
                gallery_input(),
            ],
            outputs=feature_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: AnySae,
        positive: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        count: int,
        rank_by: str,
        location: str,
        stream: str,
        baseline: Any = None,
        mask: Tensor | None = None,
        save_statistics: bool = False,
        candidates: int = CANDIDATES,
        gallery: Any = None,
    ) -> io.NodeOutput:
        finder = Finder(model, sae, location, stream, latent_image, Sampling(seed, steps), mask)
        prompts = [positive] if baseline is None else [positive, baseline]
        search = (0, None if baseline is None else 1)
        ranking, node_id = Ranking(rank_by, count, candidates), cls.hidden.unique_id
        runs, [found] = find(
            finder, prompts, [search], ranking, progress_bar(1), lambda line: _tell(line, node_id), gallery is not None
        )
        shown = [keep_run(run, gallery, notebooks()) for run in runs] if gallery is not None else []
        saved = [_save_statistics(reader) for reader in runs[0].readers] if save_statistics else []
        heat, elsewhere = finder.heat(runs[0], found.rows), elsewhere_lines(model, finder.members)
        setting = None if isinstance(sae, SaeSet) else setting_here(model, finder.members[0].site)
        lines = [*saved, *shown[:1], *found.lines, *elsewhere]
        return found_features(sae, found.ranked, f"at {finder.places}", *lines, heat=heat, setting=setting)


def _tell(line: str, node_id: str | None) -> None:
    log.info("TopActivatingFeatures: %s", line)
    show_progress_text(node_id, line)


def _save_statistics(reader: FeatureReader) -> str:
    """Writes what the prompt's run says of every feature; returns a line that tells where."""
    tally = reader.tally
    path = notebooks().of(reader.sae).keep_statistics(tally.statistics())
    return f"Statistics over {tally.tokens} tokens are in {path.relative_to(output_folder().resolve().parent)}."


NODES = [TopActivatingFeatures]
