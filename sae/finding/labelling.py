"""Names features by the words that raise them most against all others: no outside model is asked.

Any host that runs a prompt can tell how strongly features fire for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..dictionary.sae_set import Member
from ..files.safetensors_file import open_safetensors, write_whole
from ..known.labels import SOURCES, Label, Labels
from ..places.moment import Moment, OnProgress, OnStep, steps_of, unheard
from .features import FeatureReader, PeakTally, Together

SOURCE = SOURCES[0]
UNCLEAR = "unclear"
MOST_TEXTS = 5000  # words, and contexts
NEAR = 0.5  # words that raise a feature at least this much of what the best does share its name
RELIABLE = 0.5  # share of the contexts in which the best word makes the feature fire
MOST_NAMES = 2  # words that a name may have
TOLD = 3  # words in the note
SLOT = "{}"
SAVE_EVERY = 60.0  # seconds between two savings of what is done
RANKED = max(TOLD, MOST_NAMES + 1)  # words that are kept of each feature
MOST_BYTES = 256 * 2**20  # for the rows of words that the contexts say
NO_WORD = -1e7  # a sum below that of any word
_KEPT = ("total", "now", "best", "own", "others")


def read_words(text: str) -> list[str]:
    """Words or short phrases, one a line or between commas; none given, those that come with the pack."""
    return _distinct(text, ",") or _distinct(Path(__file__).with_name("words.txt").read_text(encoding="utf-8"), "\n")


def _distinct(text: str, mark: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    words = list(dict.fromkeys(word.strip() for line in lines for word in line.split(mark) if word.strip()))
    if len(words) == 1 or len(words) > MOST_TEXTS:
        raise ValueError(f"words: {len(words)} came; give 2 to {MOST_TEXTS}, because a word is compared with others.")
    return words


def read_contexts(text: str) -> list[str]:
    """Prompts with a place {} for the word, one a line; none given, just the word."""
    contexts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())) or [SLOT]
    wrong = next((context for context in contexts if context.count(SLOT) != 1), None)
    if wrong is not None or len(contexts) > MOST_TEXTS:
        raise ValueError(f"contexts: {(wrong or '')[:60]!r} came; each line needs {SLOT} once, where the word goes.")
    return contexts


class BestWords(NamedTuple):
    """The words that raise each feature most, best first, each (n, d_sae)."""

    words: Tensor  # which word
    mean: Tensor  # mean activation for it
    raised: Tensor  # by how much that is above all other words'
    fired: Tensor  # in how many contexts the feature fired at all


@dataclass
class WordTally:
    """How strongly each feature fires for each word, as a mean over tokens, as far as names need it.

    A context that already says a word, such as "{} on a red car" for "red", is left out of what other words do there,
    so words that are said have rows of their own; of all others the best few of each feature are enough. With S said
    words memory is (3 S + 12) · d_sae numbers, however many words there are.
    """

    words: Sequence[str]
    contexts: Sequence[str]
    said: Tensor  # (S,): which words the contexts say
    open: Tensor  # (S, C): which contexts do not say them
    total: Tensor  # (1, d_sae): sum over all runs
    now: Tensor  # (2, d_sae): of the word under way the sum over contexts, and in how many the feature fired
    best: Tensor  # (3, RANKED, d_sae): of the best words that no context says the sum, in how many it fired, the word
    own: Tensor  # (2, S, d_sae): as `now`, of the said words
    others: Tensor  # (S, d_sae): sum over what other words do in the contexts that do not say this one
    done: int = 0  # runs, word by word

    @classmethod
    def new(cls, words: Sequence[str], contexts: Sequence[str], d_sae: int) -> WordTally:
        says = [[f" {word.lower()} " in f" {context.lower()} " for context in contexts] for word in words]
        always = next((word for word, row in zip(words, says, strict=True) if all(row)), None)
        if always is not None:
            raise ValueError(f"contexts: each of them says {always!r}; give one that does not.")
        said = [word for word, row in enumerate(says) if any(row)]
        most = MOST_BYTES // (3 * 4 * d_sae)
        if len(said) > most:
            raise ValueError(
                f"contexts: they say {len(said)} of the words, but with {d_sae} features there is room for at most "
                f"{most} such words; give contexts that say fewer of them."
            )
        best = torch.zeros(3, RANKED, d_sae)
        best[0] = NO_WORD
        return cls(
            words,
            contexts,
            said=torch.tensor(said, dtype=torch.int64),
            open=~torch.tensor([says[word] for word in said], dtype=torch.bool).reshape(len(said), len(contexts)),
            total=torch.zeros(1, d_sae),
            now=torch.zeros(2, d_sae),
            best=best,
            own=torch.zeros(2, len(said), d_sae),
            others=torch.zeros(len(said), d_sae),
        )

    @property
    def runs(self) -> int:
        return len(self.words) * len(self.contexts)

    def next(self) -> str:
        """The prompt of the next run."""
        return self.upcoming(1)[0]

    def upcoming(self, count: int) -> list[str]:
        """The prompts of the next runs, fewer at the end."""
        runs = range(self.done, min(self.done + count, self.runs))
        places = [divmod(run, len(self.contexts)) for run in runs]
        return [self.contexts[context].replace(SLOT, self.words[word]) for word, context in places]

    def add(self, activation: Tensor) -> None:
        """Mean activation (d_sae,) of the prompt that `next` gave."""
        word, context = divmod(self.done, len(self.contexts))
        activation = activation.float().cpu()
        self.total += activation
        self.now[0] += activation
        self.now[1] += activation > 0
        self.others[self.open[:, context] & (self.said != word)] += activation
        self.done += 1
        if context + 1 == len(self.contexts):
            self._close(word)

    def _close(self, word: int) -> None:
        """Files the word whose last context is done."""
        if word in self.said:
            self.own[:, self.said == word] = self.now[:, None]
        else:
            candidate = torch.cat([self.now, torch.full_like(self.total, word)])
            rows = torch.cat([self.best, candidate[:, None]], dim=1)
            order = rows[0].argsort(dim=0, descending=True, stable=True)[:RANKED]
            self.best = rows.gather(1, order.expand(3, -1, -1))
        self.now.zero_()

    def best_words(self) -> BestWords:
        """Of words that no context says the sums alone tell the order, since all are compared with the same total."""
        places = len(self.contexts)
        best, best_fired, best_words = self.best
        own, own_fired = self.own
        rest = torch.cat([(self.total - best) / places, self.others / self.open.sum(1, keepdim=True)])
        mean = torch.cat([best, own]) / places
        height, order = (mean - rest / (len(self.words) - 1)).topk(min(RANKED, len(self.words)), dim=0)
        words = torch.cat([best_words, self.said[:, None].expand(-1, own.shape[1])]).long()
        fired = torch.cat([best_fired, own_fired])
        return BestWords(words.gather(0, order), mean.gather(0, order), height, fired.gather(0, order))

    def labels(self, threshold: float) -> Labels:
        """A label for each feature that fired: a word or two, or "unclear", with the score.

        The score is the part of the activation for the best word that other words do not have: 1 where they leave the
        feature silent. A feature is unclear where the score is below `threshold`, more words raise it alike, or the
        best word makes it fire in a few contexts only.
        """
        order, mean, height, fired = self.best_words()
        score = (height[0] / mean[0].clamp_min(1e-12)).clamp(0, 1)
        reliable = fired[0] >= RELIABLE * len(self.contexts)
        near = (height >= NEAR * height[0]).sum(0)
        found = {}
        highest = torch.cat([self.best[0], self.own[0]]).amax(0)
        for k in (highest > 0).nonzero().flatten().tolist():
            words = order[:, k].tolist()
            clear = float(score[k]) >= threshold and int(near[k]) <= MOST_NAMES and bool(reliable[k])
            name = ", ".join(self.words[word] for word in words[: int(near[k])]) if clear else UNCLEAR
            heights = zip(words[:TOLD], height[:TOLD, k].tolist(), strict=False)
            note = "raised most by " + ", ".join(
                f"{self.words[word]} {above:.3g}" for word, above in heights if above > 0
            )
            found[k] = Label(name[:200], note[:2000], SOURCE, round(float(score[k]), 3), len(self.contexts))
        return found

    def save(self, path: Path, key: str) -> None:
        """Keeps what is done, for `resumed` with the same key."""
        tensors = {name: getattr(self, name) for name in _KEPT}
        write_whole(path, tensors, {"key": key, "done": str(self.done)})

    @classmethod
    def resumed(cls, path: Path, key: str, words: Sequence[str], contexts: Sequence[str], d_sae: int) -> WordTally:
        """What `save` kept under this key, else a new tally; a broken or foreign file counts as none."""
        fresh = cls.new(words, contexts, d_sae)
        try:
            source, metadata = open_safetensors(path)
        except ValueError:
            return fresh
        shapes = {name: tuple(getattr(fresh, name).shape) for name in _KEPT}
        done = metadata.get("done", "")
        same = metadata.get("key") == key and {name: info.shape for name, info in source.infos.items()} == shapes
        if not same or not done.isdecimal() or len(done) > 9 or int(done) > fresh.runs:
            return fresh
        for name in _KEPT:
            setattr(fresh, name, source.whole(name).float())
        fresh.done = int(done)
        return fresh


class See(Protocol):
    """Runs prompts through a model and tells how strongly each feature fires."""

    def __call__(self, prompts: Sequence[str], on_step: OnStep) -> Tensor:
        """Mean activations (prompts, d_sae) over tokens and steps; `on_step` hears how far this is, and may raise."""
        ...


def tally_words(
    tally: WordTally,
    see: See,
    on_progress: OnProgress = unheard,
    batch: int = 1,
    save: Callable[[], None] | None = None,
) -> WordTally:
    """All runs that the tally still lacks, `batch` prompts at once.

    `save` is called about every minute, and where the loop is cancelled or fails with runs done.
    """
    saved = time.monotonic()
    try:
        while tally.done < tally.runs:
            prompts = tally.upcoming(batch)
            for activation in see(prompts, steps_of(on_progress, tally.done, tally.runs, len(prompts))):
                tally.add(activation)
            if save is not None and time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
    finally:
        if save is not None and 0 < tally.done < tally.runs:
            save()
    return tally


def tally_resumable(
    path: Path, key: str, words: Sequence[str], contexts: Sequence[str], d_sae: int, see: See,
    on_progress: OnProgress = unheard, batch: int = 1,
) -> WordTally:  # fmt: skip
    """All words in all contexts, `batch` prompts at once, going on from what is kept at `path` under this key.

    It is kept there until all is done.
    """
    tally = WordTally.resumed(path, key, words, contexts, d_sae)
    tally_words(tally, see, on_progress, batch, lambda: tally.save(path, key))
    path.unlink(missing_ok=True)
    return tally


class Listen(Protocol):
    """Runs prompts through a model, the same way at each call."""

    def parts(self, prompts: Sequence[str]) -> Iterable[Sequence[str]]:
        """The prompts in their order, cut into parts that can run together."""
        ...

    def __call__(
        self, prompts: Sequence[str], sees: Sequence[Callable[[Tensor, Moment], None]], on_step: OnStep
    ) -> Tensor:
        """Shows each of `sees` the tokens of its site, (batch, tokens, d_in), at every call of the model.

        The prompts stand one behind the other, with as many rows each. Returns the latents that came out, (batch,
        channels, height, width).
        """
        ...


OnRun = Callable[[str, Tensor, Sequence[FeatureReader]], None]  # of a prompt, its latent, and readers with peaks


def mean_activations(listen: Listen, members: Sequence[Member], on_run: OnRun | None = None) -> See:
    """Means over all tokens and steps on the prompt's side, members' features in a row.

    `on_run` hears of each prompt when it is done, such as to keep its pictures.
    """

    def see(prompts: Sequence[str], on_step: OnStep) -> Tensor:
        def on_progress(done: float, total: int, shown: Any) -> None:
            on_step(done / total, shown)

        rows = list[Tensor]()
        for part in listen.parts(prompts):
            readers = [[FeatureReader(member.sae, member.site) for _ in part] for member in members]
            for reader in chain(*readers) if on_run is not None else ():
                reader.peaks = PeakTally(reader.sae.d_sae, reader.site.stream)
            steps = steps_of(on_progress, len(rows), len(prompts), len(part))
            latents = listen(part, [Together(own) for own in readers], steps)
            for number, prompt in enumerate(part):
                own = [of_member[number] for of_member in readers]
                if on_run is not None:
                    on_run(prompt, latents.chunk(len(part))[number], own)
                rows.append(torch.cat([reader.tally.mean for reader in own]))
        return torch.stack(rows)

    return see
