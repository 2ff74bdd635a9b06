from __future__ import annotations

import hashlib
import json
from typing import Any

from comfy_api.latest import io, ui

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.fingerprint import fingerprint
from ..sae.finding.listening import mean_activations
from ..sae.hosts.comfyui.drawing import Listening, progress_bar
from ..sae.hosts.comfyui.identity import identity_of
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling
from ..sae.naming.label_store import shipped_labels
from ..sae.naming.labelling import UNCLEAR, read_contexts, read_words, tally_resumable
from ..sae.naming.labels import Labels
from ..sae.places.site import resolve_site
from .shared.feature_names import label_store
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, Sae, location_input, stream_input

MOST_LINES = 200  # of the table


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


def word_inputs(contexts: str, threshold: float, threshold_tip: str) -> list[io.Input]:
    return [
        io.String.Input(
            "words",
            default="",
            multiline=True,
            tooltip="Words or short phrases, one a line or between commas. Empty: about 300 that come with the pack.",
        ),
        io.String.Input(
            "contexts",
            default=contexts,
            multiline=True,
            tooltip="Prompts with {} for the word, one a line. More, and such as you write yourself, name better.",
        ),
        io.Float.Input("threshold", default=threshold, min=0.0, max=1.0, step=0.01, tooltip=threshold_tip),
    ]


def _key(*facts: Any) -> str:
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()


def written(sae: SparseAutoencoder, found: Labels) -> io.NodeOutput:
    """Keeps the labels, but never over a name that somebody gave; the table of them."""
    store = label_store()
    new = store.add(fingerprint(sae), found, shipped_labels(sae)) if found else found
    named = {k: label for k, label in found.items() if label.name != UNCLEAR}
    lines = [
        f"{len(named)} of {sae.d_sae} features named, {len(found) - len(named)} unclear, "
        f"{sae.d_sae - len(found)} fired for no word.",
        *([f"{len(found) - len(new)} kept the name that somebody gave."] if len(new) < len(found) else []),
        *store.warnings,
        f"{'feature':>8} {'score':>6}  name",
    ]
    best = sorted(named.items(), key=lambda entry: -(entry[1].score or 0))
    lines += [f"{k:>8} {label.score:>6.2f}  {label.name}" for k, label in best[:MOST_LINES]]
    if len(best) > MOST_LINES:
        lines.append(f"… and {len(best) - MOST_LINES} more")
    table = "\n".join(lines)
    return io.NodeOutput(table, ui=ui.PreviewText(table))


NODES = [LabelFeatures]
