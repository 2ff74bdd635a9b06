from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import comfy.utils
from comfy_api.latest import io, ui
from torch import Tensor

from ..sae.dictionary.autoencoder import SparseAutoencoder
from ..sae.dictionary.fingerprint import fingerprint
from ..sae.finding.features import FeatureReader
from ..sae.hosts.comfyui.identity import identity_of
from ..sae.hosts.comfyui.model import Model
from ..sae.hosts.comfyui.sampling import Sampling, sample
from ..sae.hosts.comfyui.steering import observe
from ..sae.naming.label_store import shipped_labels
from ..sae.naming.labelling import UNCLEAR, WordTally, read_contexts, read_words
from ..sae.naming.labels import Labels
from ..sae.places.moment import Moment
from ..sae.places.site import Site, resolve_site
from .shared.feature_names import label_store
from .shared.model_folder import output_folder
from .shared.sockets import CATEGORY, Sae, location_input, stream_input

SAVE_EVERY = 60.0  # seconds between two savings of what is done
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
        listener = _Listener(model, sae, site, latent_image, how)
        shape = list(latent_image["samples"].shape)
        patchers = [model, *filter(None, [getattr(clip, "patcher", None)])]  # the demo's CLIP has no weights
        marks = [identity_of(patcher) for patcher in patchers]
        key = _key(fingerprint(sae), said, around, str(site), how, shape, marks)
        tally = _run(output_folder() / "labelling" / f"{key[:16]}.safetensors", key, said, around, listener, clip)
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


class _Listener:
    """Runs prompts and tells the mean activation of each feature; one observed model for all of them."""

    def __init__(self, model: Model, sae: SparseAutoencoder, site: Site, latent: dict[str, Any], how: Sampling) -> None:
        self.sae, self.site, self.latent, self.how = sae, site, latent, how
        self.reader = FeatureReader(sae, site)
        self.model = observe(model, site, self._see, sae)

    def _see(self, x: Tensor, moment: Moment) -> None:
        self.reader(x, moment)

    def mean(self, conditioning: Any, bar: comfy.utils.ProgressBar, done: int) -> Tensor:
        """(d_sae,) over all tokens and steps."""

        def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            bar.update_absolute(done + step + 1, bar.total)  # where Cancel is noticed

        self.reader = FeatureReader(self.sae, self.site)
        sample(self.model, conditioning, self.latent, self.how, callback)
        return self.reader.tally.mean


def _run(path: Path, key: str, words: list[str], contexts: list[str], listener: _Listener, clip: Any) -> WordTally:
    """All words in all contexts; what is done is kept when the run is cancelled or fails, and taken up again."""
    tally = WordTally.resumed(path, key, words, contexts, listener.sae.d_sae)
    steps = listener.how.steps
    bar = comfy.utils.ProgressBar(tally.runs * steps)
    saved = time.monotonic()
    try:
        while tally.done < tally.runs:
            conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(tally.next()))
            tally.add(listener.mean(conditioning, bar, tally.done * steps))
            if time.monotonic() - saved > SAVE_EVERY:
                tally.save(path, key)
                saved = time.monotonic()
    finally:
        if 0 < tally.done < tally.runs:
            tally.save(path, key)
    path.unlink(missing_ok=True)
    return tally


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
