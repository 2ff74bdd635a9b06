"""Names the features of the Shapes SAEs as LabelFeatures does, ships the names, and measures how right they are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sae.demo.shapes import SLOTS, WORDS, Prompt, read_prompt, training_prompts
from sae.demo.shapes_model import sample
from sae.demo.shipped_weights import EMBED_SAE, KANDINSKY_PRIOR, SAE_NAMES, load_sae, load_transformer
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.fingerprint import fingerprint
from sae.finding.labelling import SLOT, UNCLEAR, WordTally, tally_words
from sae.finding.labelling_directions import label_directions, text_rows
from sae.hosts.diffusers import capture
from sae.hosts.kandinsky import KandinskyHalf, embed_texts
from sae.known.labels import Labels, shipped_labels, write_labels
from sae.places.moment import OnStep
from sae.places.site import resolve_site

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

CONTEXTS = 48
CONTEXT_SEED = 1
STEPS = 8
THRESHOLD = 0.85
DIRECTION_THRESHOLD = 0.5
BATCH = 80
JUDGED = ("colour", "shape", "size")
FIRES = 0.5  # a specific feature fires on at least this share of its word's pictures
SELECTIVE = 0.25  # a feature's runner-up word of a kind has at most this much of the best word's mean activation
ALIKE = 0.5  # of an unspecific feature, the runner-up of every kind has at least this much


def contexts() -> list[str]:
    """Training prompts with a place for one more word, which comes first and therefore counts."""
    chosen = random.Random(CONTEXT_SEED).sample(training_prompts(), CONTEXTS)
    return [f"{SLOT} {prompt}" for prompt in chosen]


def activations(
    transformer: FluxTransformer2DModel,
    saes: Sequence[SparseAutoencoder],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steps: int,
) -> list[Tensor]:
    """Of each SAE the mean over tokens and steps of each feature for each prompt, (prompts, d_sae); all in one run."""
    found: list[list[Tensor]] = [[] for _ in saes]
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        with torch.no_grad(), ExitStack() as stack:
            means = [stack.enter_context(_mean_codes(transformer, sae)) for sae in saes]
            sample(transformer, prompts[part], seeds[part], steps)
        for rows, calls in zip(found, means, strict=True):
            rows.append(torch.stack(calls).mean(0))
    return [torch.cat(rows) for rows in found]


@contextmanager
def _mean_codes(transformer: FluxTransformer2DModel, sae: SparseAutoencoder) -> Iterator[list[Tensor]]:
    """One entry a call: (prompts, d_sae), the mean over tokens."""
    calls: list[Tensor] = []
    site = resolve_site("auto", "auto", sae.site)
    with capture(transformer, site, lambda x, moment: calls.append(sae.encode(x.float(), moment.sigma).mean(1))):
        yield calls


def name_features(transformer: FluxTransformer2DModel, saes: Sequence[SparseAutoencoder]) -> list[Labels]:
    """The labels of each SAE, as LabelFeatures finds them."""
    tallies = [WordTally.new(WORDS, contexts(), sae.d_sae) for sae in saes]
    texts = list(dict.fromkeys(context.replace(SLOT, word) for word in WORDS for context in contexts()))
    means = activations(transformer, saes, [read_prompt(text) for text in texts], [0] * len(texts), STEPS)
    return [_named(tally, dict(zip(texts, rows, strict=True))) for tally, rows in zip(tallies, means, strict=True)]


def _named(tally: WordTally, known: Mapping[str, Tensor]) -> Labels:
    def see(texts: Sequence[str], on_step: OnStep) -> Tensor:
        on_step(1.0, None)
        return torch.stack([known[text] for text in texts])

    return tally_words(tally, see, batch=BATCH).labels(THRESHOLD)


class Selectivity(NamedTuple):
    """What features really react to, over pictures of full prompts."""

    specific: dict[int, str]  # to one colour, shape or size and to nothing else: feature -> word
    unspecific: list[int]  # fires for at least two words of each kind alike


def selectivity(means: Tensor, prompts: Sequence[Prompt]) -> Selectivity:
    """means (prompts, d_sae)."""
    runner_up: dict[str, Tensor] = {}
    best: dict[str, Tensor] = {}
    for slot, words in SLOTS.items():
        rows = [means[[getattr(prompt, slot) == word for prompt in prompts]].mean(0) for word in words]
        height, order = torch.stack(rows).topk(2, dim=0)
        runner_up[slot], best[slot] = height[1] / height[0].clamp_min(1e-12), order[0]
    specific = {}
    for k in (means.amax(0) > 0).nonzero().flatten().tolist():
        slots = [slot for slot in SLOTS if float(runner_up[slot][k]) <= SELECTIVE]
        if len(slots) == 1 and slots[0] in JUDGED:
            word = SLOTS[slots[0]][int(best[slots[0]][k])]
            own = means[[getattr(prompt, slots[0]) == word for prompt in prompts], k]
            if float((own > 0).float().mean()) >= FIRES:
                specific[k] = word
    alike = torch.stack(list(runner_up.values())).amin(0) >= ALIKE
    return Selectivity(specific, (alike & (means.amax(0) > 0)).nonzero().flatten().tolist())


@dataclass(frozen=True)
class Names:
    """How the names of one SAE's features fare against measured selectivity."""

    specific: int
    right: int  # the right word is in the name
    alone: int  # and is the whole name
    wrong: int  # named, but by other words
    unspecific: int
    unclear: int  # of the unspecific ones
    named: int
    features: int


def measure_names(
    transformer: FluxTransformer2DModel, saes: Sequence[SparseAutoencoder], named: Sequence[Labels]
) -> list[Names]:
    """How the labels of each SAE fare. Selectivity is measured on other prompts and seeds than the names."""
    prompts = training_prompts()[::2]
    means = activations(transformer, saes, prompts, range(len(prompts)), STEPS)
    return [
        _judged(labels, selectivity(rows, prompts), rows.shape[1]) for labels, rows in zip(named, means, strict=True)
    ]


def _judged(labels: Labels, truth: Selectivity, features: int) -> Names:
    words = {k: labels[k].name.split(", ") if k in labels else [UNCLEAR] for k in range(features)}
    right = [k for k, word in truth.specific.items() if word in words[k]]
    return Names(
        specific=len(truth.specific),
        right=len(right),
        alone=sum(len(words[k]) == 1 for k in right),
        wrong=sum(word not in words[k] and words[k] != [UNCLEAR] for k, word in truth.specific.items()),
        unspecific=len(truth.unspecific),
        unclear=sum(words[k] == [UNCLEAR] for k in truth.unspecific),
        named=sum(label.name != UNCLEAR for label in labels.values()),
        features=features,
    )


def name_embed_features(sae: SparseAutoencoder) -> Labels:
    """The features of the embeddings' SAE, as LabelEmbedFeatures names them."""
    texts = [str(read_prompt(context.replace(SLOT, word))) for word in WORDS for context in contexts()]
    rows = text_rows(embed_texts(KandinskyHalf(KANDINSKY_PRIOR, "prior"), texts), CONTEXTS)
    return label_directions(sae, WORDS, rows, DIRECTION_THRESHOLD)


def main() -> None:
    transformer = load_transformer()
    embeds = load_sae(EMBED_SAE)
    shipped = shipped_labels(embeds)
    if shipped is not None:
        write_labels(shipped.path, name_embed_features(embeds), fingerprint(embeds))
    saes = [load_sae(name) for name in SAE_NAMES]
    for sae, labels in zip(saes, name_features(transformer, saes), strict=True):
        shipped = shipped_labels(sae)
        if shipped is not None:
            write_labels(shipped.path, labels, fingerprint(sae))
            print(f"{sae.name}: {sum(label.name != UNCLEAR for label in labels.values())} of {sae.d_sae} named")


if __name__ == "__main__":
    main()
