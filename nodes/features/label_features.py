from __future__ import annotations

import hashlib
import json
from typing import Any

from comfy_api.latest import io

from ...sae.dictionary.fingerprint import fingerprint
from ...sae.dictionary.sae_set import AnySae
from ...sae.finding.labelling import mean_activations, read_contexts, read_words, tally_resumable
from ...sae.hosts.comfyui.drawing import Listening, progress_bar
from ...sae.hosts.comfyui.finding_features import PictureKeeper
from ...sae.hosts.comfyui.model import Model, elsewhere_lines, identity_of, members_in
from ...sae.hosts.comfyui.own_folders import notebooks, output_folder
from ...sae.hosts.comfyui.sampling import Sampling
from ..browser.feature_results import gallery_input
from ..browser.label_results import save_names_input, word_inputs, written
from ..inputs.menu import FEATURES
from ..inputs.plain_inputs import model_input, steps_input
from ..inputs.sockets import Sae, location_input, seed_input, stream_input


class LabelFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LabelFeatures",
            display_name="Label Features",
            category=FEATURES,
            description=(
                "Names the features of an SAE without any other model: it runs a list of words through yours and names "
                "each feature by the words that raise it most against all others, or says that it is unclear. What "
                "was done before Cancel is kept and resumed."
            ),
            search_aliases=["name features", "auto-interp", "feature labels", "interpret sae"],
            inputs=[
                model_input(),
                io.Clip.Input("clip", tooltip="Encodes the words, as for CLIP Text Encode."),
                Sae.Input(
                    "sae",
                    tooltip="An SAE that was trained on this model, or a set: all its SAEs in one run.",
                ),
                io.Latent.Input("latent_image", tooltip="Size of the pictures; small ones are enough, and faster."),
                *word_inputs(
                    "{}\na photo of {}\na painting with {} in it",
                    0.85,
                    "The part of its activation that a feature must owe to the word alone; else it is 'unclear'.",
                ),
                seed_input("Seed of the noise, the same for all words."),
                steps_input("Steps of each short sampling."),
                location_input(),
                stream_input(),
                save_names_input(),
                gallery_input(),
            ],
            outputs=[io.String.Output(display_name="table", tooltip="How many features were named, and how.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Any,
        sae: AnySae,
        latent_image: dict[str, Any],
        words: str,
        contexts: str,
        threshold: float,
        seed: int,
        steps: int,
        location: str,
        stream: str,
        save: bool = True,
        gallery: Any = None,
    ) -> io.NodeOutput:
        members = members_in(model, sae, location, stream)
        said, around = read_words(words), read_contexts(contexts)
        how = Sampling(seed, steps)
        listen = Listening(model, clip, members, latent_image, how)
        shape = list(latent_image["samples"].shape)
        patchers = [model, *filter(None, [getattr(clip, "patcher", None)])]  # the demo's CLIP has no weights
        marks = [identity_of(patcher) for patcher in patchers]
        sites = ", ".join(str(member.site) for member in members)
        key = _key(fingerprint(sae), said, around, sites, how, shape, marks)
        path = output_folder() / "labelling" / f"{key[:16]}.safetensors"
        keeper = None if gallery is None else PictureKeeper(gallery, notebooks())
        see = mean_activations(listen, members, keeper)
        count = sum(member.sae.d_sae for member in members)
        lines = elsewhere_lines(model, members)
        try:
            tally = tally_resumable(path, key, said, around, count, see, progress_bar(steps), listen.most())
        finally:
            lines += [] if keeper is None else [keeper.close()]
        return written([(member.sae, member.first) for member in members], tally.labels(threshold), save, lines)


def _key(*facts: Any) -> str:
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()


NODES = [LabelFeatures]
