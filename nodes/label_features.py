from __future__ import annotations

import hashlib
import json
from typing import Any

from comfy_api.latest import io

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.fingerprint import fingerprint
from ..sae.finding.listening import mean_activations
from ..sae.hosts.comfyui.drawing import Listening, progress_bar
from ..sae.hosts.comfyui.identity import identity_of
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling
from ..sae.naming.labelling import read_contexts, read_words, tally_resumable
from ..sae.places.site import resolve_site
from .shared.label_tables import word_inputs, written
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, Sae, location_input, stream_input


class LabelFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LabelFeatures",
            display_name="Label Features",
            category=CATEGORY,
            description=(
                "Names the features of an SAE without any other model: it runs a list of words through yours and names "
                "each feature by the words that raise it most against all others, or says that it is unclear. What "
                "was done before Cancel is kept and resumed."
            ),
            search_aliases=["name features", "auto-interp", "feature labels", "interpret sae"],
            inputs=[
                io.Model.Input("model", tooltip="A FLUX model; it stays as it is."),
                io.Clip.Input("clip", tooltip="Encodes the words, as for CLIP Text Encode."),
                Sae.Input("sae", tooltip="An SAE that was trained on this model."),
                io.Latent.Input("latent_image", tooltip="Size of the pictures; small ones are enough, and faster."),
                *word_inputs(
                    "{}\na photo of {}\na painting with {} in it",
                    0.85,
                    "The part of its activation that a feature must owe to the word alone; else it is 'unclear'.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise, the same for all words.",
                ),
                io.Int.Input("steps", default=4, min=1, max=100, step=1, tooltip="Steps of each short sampling."),
                location_input(),
                stream_input(),
            ],
            outputs=[io.String.Output(display_name="table", tooltip="How many features were named, and how.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Any,
        sae: SparseAutoencoder,
        latent_image: dict[str, Any],
        words: str,
        contexts: str,
        threshold: float,
        seed: int,
        steps: int,
        location: str,
        stream: str,
    ) -> io.NodeOutput:
        site = resolve_site(location, stream, sae.site)
        said, around = read_words(words), read_contexts(contexts)
        how = Sampling(seed, steps)
        listen = Listening(model, clip, sae, site, latent_image, how)
        shape = list(latent_image["samples"].shape)
        patchers = [model, *filter(None, [getattr(clip, "patcher", None)])]  # the demo's CLIP has no weights
        marks = [identity_of(patcher) for patcher in patchers]
        key = _key(fingerprint(sae), said, around, str(site), how, shape, marks)
        path = output_folder() / "labelling" / f"{key[:16]}.safetensors"
        see = mean_activations(listen, sae, site)
        tally = tally_resumable(path, key, said, around, sae.d_sae, see, progress_bar(steps))
        return written(sae, tally.labels(threshold))


def _key(*facts: Any) -> str:
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()


NODES = [LabelFeatures]
