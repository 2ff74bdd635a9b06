from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae
from ...sae.embeddings.spot import AUTO, reads_tokens
from ...sae.finding.labelling import SLOT, read_contexts, read_words
from ...sae.finding.labelling_directions import label_directions, text_rows
from ...sae.hosts.comfyui.embedding_encoders import pooled_row, text_encoder, text_outputs
from ...sae.hosts.comfyui.embeddings import TOKENS, spot_in, text_mean
from ...sae.hosts.kandinsky import KandinskyHalf
from ..browser.label_results import save_names_input, word_inputs, written
from ..inputs.embed_inputs import tap_input
from ..inputs.menu import EMBEDDINGS
from ..inputs.sockets import Sae, one_sae
from ..kandinsky.load_kandinsky import KandinskyPriorModel


class LabelEmbedFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LabelEmbedFeatures",
            display_name="Label Embed Features",
            category=EMBEDDINGS,
            description=(
                "Names the features of an SAE of embeddings, of CLIP or of a text encoder: each by the word whose text "
                "embedding points most where the feature does, or 'unclear'. Takes seconds, and draws nothing."
            ),
            search_aliases=["name clip features", "auto-interp", "interpret sae"],
            inputs=[
                Sae.Input("sae", tooltip="An SAE that was trained on embeddings of this encoder."),
                io.MultiType.Input(
                    "encoder",
                    types=[io.Clip, KandinskyPriorModel],
                    tooltip="The CLIP's text encoder: a CLIP whose pooled output is projected, as SDXL's clip_g, or "
                    "the prior of Kandinsky 2.2. For an SAE of a text encoder's tokens, that one.",
                ),
                *word_inputs("{}\na photo of {}\na painting of {}", 0.5, "The part of its likeness to the best word "
                    "that the second word must not reach; else the feature is 'unclear'."),
                save_names_input(),
                tap_input(),
            ],
            outputs=[io.String.Output(display_name="table", tooltip="How many features were named, and how.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, sae: AnySae, encoder: Any, words: str, contexts: str, threshold: float, save: bool = True,
        tap: str = AUTO,
    ) -> io.NodeOutput:  # fmt: skip
        sae = one_sae(sae)
        said, around = read_words(words), read_contexts(contexts)
        bar = comfy.utils.ProgressBar(len(said))
        rows = []
        for number, word in enumerate(said):
            rows.append(_embed(encoder, [context.replace(SLOT, word) for context in around], sae, tap))
            bar.update_absolute(number + 1)  # where Cancel is noticed
        found = label_directions(sae, said, text_rows(torch.cat(rows), len(around)), threshold, len(around))
        return written([(sae, 0)], found, save)


def _embed(encoder: Any, texts: list[str], sae: SparseAutoencoder, tap: str) -> Tensor:
    """Text embeddings (texts, width): in the space that CLIP shares with pictures, or the texts' mean tokens."""
    if isinstance(encoder, KandinskyHalf):
        if tap.strip() != AUTO:
            raise ValueError(f"tap: {tap!r} was given, but Kandinsky's prior gives one vector a text; write auto.")
        return text_encoder(encoder)(texts)
    return torch.cat([_embed_one(encoder, text, sae, tap) for text in texts])


def _embed_one(clip: Any, text: str, sae: SparseAutoencoder, tap: str) -> Tensor:
    tokens, pooled = text_outputs(clip, text)
    if not reads_tokens(sae, None if tokens is None else tokens.shape[-1], tap):
        return pooled_row(pooled)
    embed: list[Any] = [[tokens, {}]]
    return text_mean(clip, text, embed, spot_in(embed, sae, TOKENS, tap=tap)).float().cpu()


NODES = [LabelEmbedFeatures]
