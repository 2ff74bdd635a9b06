from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.statistics import write_statistics
from ..sae.finding.features import FeatureReader, FeatureTally, rank_features
from ..sae.hosts.comfyui.drawing import heard, progress_bar
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling, sample
from ..sae.hosts.comfyui.steering import observe
from ..sae.places.progress import steps_of
from ..sae.places.site import Site, resolve_site
from ..sae.steering.measured import Setting
from .shared.feature_ranges import setting_here
from .shared.feature_results import count_input, feature_outputs, found_features, rank_input
from .shared.model_folder import measured_statistics, output_folder
from .shared.sockets import CATEGORY, Sae, location_input, stream_input


def _save_statistics_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "save_statistics",
        default=False,
        optional=True,
        advanced=True,
        tooltip="Writes mean, max and density of every feature to output/sae, where Load SAE finds them; they are the "
        "units 'mean' and 'max'. Better with several steps.",
    )


class TopActivatingFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TopActivatingFeatures",
            display_name="Top Activating Features",
            category=CATEGORY,
            description=(
                "Runs a short sampling and finds the features that fire for a prompt; with a baseline, those that fire "
                "more than for the baseline. Start from these, not from random numbers."
            ),
            search_aliases=["find features", "sae features", "feature finder", "contrast features"],
            inputs=[
                io.Model.Input("model", tooltip="A FLUX model; it stays as it is."),
                Sae.Input("sae", tooltip="An SAE that was trained on this model."),
                io.Conditioning.Input("positive", tooltip="The prompt whose features are looked for."),
                io.Latent.Input("latent_image", tooltip="Size of the picture; an empty latent, or one to look at."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise, the same for prompt and baseline.",
                ),
                io.Int.Input(
                    "steps", default=4, min=1, max=100, step=1, tooltip="Steps of the short sampling; 4 to 8 do."
                ),
                count_input(),
                rank_input(),
                location_input(),
                stream_input(),
                io.Conditioning.Input(
                    "baseline",
                    optional=True,
                    tooltip="A prompt that differs only in what you look for; features are then ranked by difference.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Counts only image tokens inside the mask."),
                _save_statistics_input(),
            ],
            outputs=feature_outputs(),
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        sae: SparseAutoencoder,
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
    ) -> io.NodeOutput:
        site = resolve_site(location, stream, sae.site)
        runs = [positive] if baseline is None else [positive, baseline]
        on_progress = progress_bar(steps)
        readers = []
        for number, conditioning in enumerate(runs):
            reader = FeatureReader(sae, site, mask)
            callback = heard(steps_of(on_progress, number, len(runs)), model)
            observed = observe(model, site, reader, sae)
            sample(observed, conditioning, latent_image, Sampling(seed, steps), callback)
            readers.append(reader)
        saved = _save_statistics(sae, readers[0].tally) if save_statistics else ""
        return _result(sae, site, rank_by, count, saved, setting_here(model, site), *readers)


def _save_statistics(sae: SparseAutoencoder, tally: FeatureTally) -> str:
    """Writes what the prompt's run says of every feature; returns a line that tells where."""
    path = measured_statistics(sae.name, sae.owner)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_statistics(tally.statistics(), path, sae.owner)
    return f"Statistics over {tally.tokens} tokens are in {path.relative_to(output_folder().resolve().parent)}."


def _result(
    sae: SparseAutoencoder,
    site: Site,
    by: Any,
    count: int,
    saved: str,
    setting: Setting,
    reader: FeatureReader,
    baseline: FeatureReader | None = None,
) -> io.NodeOutput:
    if reader.mask is not None and any(read and not read.tally.tokens for read in (reader, baseline)):
        raise ValueError("mask: no area of the prompt touches it, so there is no token to read; paint inside an area.")
    ranked = rank_features(reader.tally, by, count, baseline.tally if baseline else None)
    if not ranked:
        raise ValueError(
            f"sae: no feature of {sae.name} fires {'more' if baseline else 'at all'} at {site} for this prompt; check "
            "that the SAE belongs to this model and location, or use another baseline."
        )
    heat = reader.heat(row.feature for row in ranked)
    return found_features(sae, ranked, f"at {site}", saved, heat=heat, setting=setting)


NODES = [TopActivatingFeatures]
