from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sae.dictionary.sae_set import AnySae
from ..sae.embeddings.spot import ALL, AUTO
from ..sae.finding.features import RankBy, rank_features, tally_tokens
from ..sae.hosts.comfyui.embeddings import read, spot_in
from .shared.embed_sockets import describe_spot, embed_input, tap_input, target_input, tokens_input
from .shared.feature_results import count_input, feature_outputs, found_features, rank_input
from .shared.sockets import CATEGORY, Sae, one_sae


class TopEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TopEmbedFeatures",
            display_name="Top Embed Features",
            category=CATEGORY,
            description=(
                "Finds the features of an SAE that fire for an embedding; with a baseline, those that fire more than "
                "for the baseline. Start from these, not from random numbers."
            ),
            search_aliases=["embedding features", "clip features", "find features in picture"],
            inputs=[
                embed_input("embed", "The picture or text whose features are looked for."),
                Sae.Input("sae", tooltip="An SAE that was trained on embeddings of this encoder."),
                count_input(),
                rank_input(),
                embed_input(
                    "baseline",
                    "An embedding that differs only in what you look for; features are then ranked by difference.",
                    optional=True,
                ),
                target_input(),
                tokens_input(),
                tap_input(),
            ],
            outputs=feature_outputs(),
            is_output_node=True,  # it shows what it found, whether anything is wired to it or not
        )

    @classmethod
    def execute(
        cls,
        embed: Any,
        sae: AnySae,
        count: int,
        rank_by: RankBy,
        baseline: Any = None,
        target: str = AUTO,
        tokens: str = ALL,
        tap: str = AUTO,
    ) -> io.NodeOutput:
        sae = one_sae(sae)
        spot = spot_in(embed, sae, target, tokens, tap)
        tally = tally_tokens(sae, read(embed, spot))
        below = None
        if baseline is not None:
            below = tally_tokens(sae, read(baseline, spot_in(baseline, sae, spot.target, spot.tokens, tap)))
        ranked = rank_features(tally, rank_by, count, below)
        if not ranked:
            raise ValueError(
                f"sae: no feature of {sae.name} fires {'more' if baseline else 'at all'} for this embedding; check "
                "that the SAE belongs to this encoder, or use another baseline."
            )
        return found_features(sae, ranked, f"on {spot.target}", describe_spot(embed, spot))


NODES = [TopEmbedFeatures]
