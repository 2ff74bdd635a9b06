from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sae.dictionary.sae_set import AnySae
from ..sae.embeddings.editing import blend_tokens, embedding_record
from ..sae.embeddings.spot import ALL, AUTO
from ..sae.hosts.comfyui.embeddings import edited, is_conditioning, read, spot_in
from ..sae.steering.edits import FeatureList, check_owner
from .shared.embed_sockets import EMBED_TYPES, describe_spot, embed_input, tap_input, target_input, tokens_input
from .shared.inputs import amount_input
from .shared.sockets import CATEGORY, Sae, SaeFeatures, one_sae


class BlendEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("embed", EMBED_TYPES)
        return io.Schema(
            node_id="BlendEmbedFeatures",
            display_name="Blend Embed Features",
            category=CATEGORY,
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


NODES = [BlendEmbedFeatures]
