from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.sae_set import AnySae
from ...sae.embeddings.editing import blend_tokens, embedding_record
from ...sae.embeddings.spot import ALL, AUTO
from ...sae.finding.features import RankBy, rank_features, tally_tokens
from ...sae.hosts.comfyui.embeddings import edited, is_conditioning, read, spot_in
from ...sae.steering.edits import FeatureList, check_owner
from ..browser.feature_results import count_input, feature_outputs, found_features, rank_input
from ..inputs.embed_inputs import EMBED_TYPES, describe_spot, embed_input, tap_input, target_input, tokens_input
from ..inputs.menu import EMBEDDINGS
from ..inputs.plain_inputs import amount_input
from ..inputs.sockets import Sae, SaeFeatures, one_sae


class TopEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TopEmbedFeatures",
            display_name="Top Embed Features",
            category=EMBEDDINGS,
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


class BlendEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("embed", EMBED_TYPES)
        return io.Schema(
            node_id="BlendEmbedFeatures",
            display_name="Blend Embed Features",
            category=EMBEDDINGS,
            description=(
                "Gives an embedding chosen features of another one, as strongly as they fire there, and leaves "
                "everything else."
            ),
            search_aliases=["transfer features", "mix embeddings", "image blend"],
            inputs=[
                io.MatchType.Input(
                    "embed", template=template, tooltip="The embedding to change. The output is an edited copy."
                ),
                embed_input("source", "The embedding that the features come from, of the same encoder."),
                Sae.Input("sae", tooltip="An SAE that was trained on embeddings of this encoder."),
                SaeFeatures.Input("features", tooltip="Which features to transfer, each with its own strength."),
                amount_input("amount", 10.0, "1 makes each feature fire as in the source, 0 changes nothing."),
                target_input(),
                tokens_input(),
                tap_input(),
            ],
            outputs=[io.MatchType.Output(template, display_name="embed", tooltip="The changed copy.")],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        embed: Any,
        source: Any,
        sae: AnySae,
        features: FeatureList,
        amount: float,
        target: str = AUTO,
        tokens: str = ALL,
        tap: str = AUTO,
    ) -> io.NodeOutput:
        sae = one_sae(sae)
        check_owner(features, sae.owner, "features")
        spot = spot_in(embed, sae, target, tokens, tap)
        if is_conditioning(source) and len(source) > 1:
            raise ValueError(f"source: this conditioning has {len(source)} entries; connect one with a single text.")
        given = read(source, spot_in(source, sae, spot.target, spot.tokens, tap))
        record = embedding_record()
        changed = edited(embed, spot, lambda x: blend_tokens(x, given.to(x.device), sae, features, amount, record))
        summary = record.summary()
        what = f"‖Δ‖/‖x‖ {summary.mean_ratio:.3g}" if summary.steps else "nothing changed, the amount is 0"
        lines = [f"{features}: {what}.", describe_spot(embed, spot), *summary.warnings, *features.warnings]
        return io.NodeOutput(changed, ui={"text": lines})


NODES = [TopEmbedFeatures, BlendEmbedFeatures]
