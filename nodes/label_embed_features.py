from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.hosts.kandinsky import KandinskyHalf, embed_texts
from ..sae.naming.labelling import SLOT, read_contexts, read_words
from ..sae.naming.labelling_directions import label_directions, text_rows
from .shared.kandinsky_sockets import KandinskyPriorModel, load_parts
from .shared.label_tables import word_inputs, written
from .shared.sockets import CATEGORY, Sae


class LabelEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LabelEmbedFeatures",
            display_name="Label Embed Features",
            category=CATEGORY,
            description=(
                "Names the features of an SAE of CLIP embeddings: each by the word whose text embedding points most "
                "where the feature does, or 'unclear'. Takes seconds, and draws nothing."
            ),
            search_aliases=["name clip features", "auto-interp", "interpret sae"],
            inputs=[
                Sae.Input("sae", tooltip="An SAE that was trained on embeddings of this CLIP."),
                io.MultiType.Input(
                    "encoder",
                    types=[io.Clip, KandinskyPriorModel],
                    tooltip="The CLIP's text encoder: a CLIP whose pooled output is projected, as SDXL's clip_g, or "
                    "the prior of Kandinsky 2.2.",
                ),
                *word_inputs("{}\na photo of {}\na painting of {}", 0.5, "The part of its likeness to the best word "
                    "that the second word must not reach; else the feature is 'unclear'."),
            ],
            outputs=[io.String.Output(display_name="table", tooltip="How many features were named, and how.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, sae: SparseAutoencoder, encoder: Any, words: str, contexts: str, threshold: float
    ) -> io.NodeOutput:
        said, around = read_words(words), read_contexts(contexts)
        bar = comfy.utils.ProgressBar(len(said))
        rows = []
        for number, word in enumerate(said):
            rows.append(_embed(encoder, [context.replace(SLOT, word) for context in around]))
            bar.update_absolute(number + 1)  # where Cancel is noticed
        return written(sae, label_directions(sae, said, text_rows(torch.cat(rows), len(around)), threshold))


def _embed(encoder: Any, texts: list[str]) -> Tensor:
    """Text embeddings (texts, width) in the space that CLIP shares with pictures."""
    if isinstance(encoder, KandinskyHalf):
        return embed_texts(load_parts(encoder, "prior", ("text_encoder",)), texts)
    found = []
    for text in texts:
        pooled = encoder.encode_from_tokens(encoder.tokenize(text), return_pooled=True)[1]
        if pooled is None:
            raise ValueError("encoder: this CLIP gives no pooled output; use one with a projection, as SDXL's clip_g.")
        found.append(pooled.float().cpu())
    return torch.cat(found)


NODES = [LabelEmbedFeatures]
