"""Trains the emoji transformer and its words by flow matching: python -m lab.emoji.train_flux --folder F.

Needs the drawings that lab.emoji.drawings wrote into the folder. Carries on from the folder's state.pt to the same
result; `--decay` lets the learning rate fall to zero over so many more steps, which makes the best weights of a run.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .attention import plain_attention
from .drawings import Drawing, load_drawings
from .emoji_flux import EmojiModel
from .emoji_pictures import to_pictures
from .latents import LinearCode, fit_code
from .prompts import Words, full_prompt, known_words, sampling_weights, told

log = logging.getLogger(__name__)

MUON_RATE, ADAM_RATE, WORD_RATE = 3e-3, 2e-3, 1e-2
WARM_UP = 100  # steps
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
AVERAGE_POWER = 7.0  # the average reaches back over about one eighth of the run (Karras et al. 2024, σ_rel 0.1)
LOGIT_MEAN, LOGIT_SPREAD = 1.0, 1.3  # of the noise levels
LOG_EVERY, SAVE_EVERY, JUDGE_EVERY = 50, 100, 500
SEED = 1


@dataclass
class Data:
    """The drawings' tokens (n, 64, 64), who may be trained on, and how often."""

    drawings: list[Drawing]
    tokens: Tensor
    words: Words
    training: list[int]
    weights: list[float]
    held_out: list[int]


def prepare(folder: Path, run: Path) -> Data:
    """Reads the drawings; makes the run's code and list of words at its first start."""
    drawings, pixels = load_drawings(folder)
    training = [number for number, drawing in enumerate(drawings) if not drawing.held_out]
    held_out = [number for number, drawing in enumerate(drawings) if drawing.held_out]
    if not (run / "code.safetensors").exists():
        fit_code(to_pictures(pixels[training[::3]])).save(run / "code.safetensors")
        Words(known_words([drawings[number] for number in training])).save(run / "words.json")
    code = LinearCode.load(run / "code.safetensors")
    tokens = torch.cat([code.encode(to_pictures(part)) for part in pixels.split(256)])
    weights = sampling_weights(drawings[number] for number in training)
    return Data(drawings, tokens, Words.load(run / "words.json"), training, weights, held_out)


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Sigmas (count,): logit-normal towards noise: a drawing's large areas show through until sigma is above 0.8, and
    only beyond that do the words decide what it shows."""
    return torch.sigmoid(LOGIT_MEAN + LOGIT_SPREAD * torch.randn(count, generator=generator))


def flow_loss(
    model: Callable[..., Tensor], clean: Tensor, rows: Tensor, generator: torch.Generator, autocast: bool
) -> Tensor:
    """Rectified flow: x_t = (1 - t) x_0 + t noise, the target is noise - x_0."""
    noise = torch.randn(clean.shape, generator=generator)
    sigma = noise_levels(len(clean), generator)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        velocity = model(noisy, sigma, rows)
    return (velocity.float() - (noise - clean)).square().mean()


class Training:
    """A model, its optimizers, its averaged weights and the step that they are at."""

    def __init__(self, words: int, batch: int, compiled: bool, autocast: bool) -> None:
        torch.manual_seed(0)
        self.model = EmojiModel(words)
        self.runs = torch.compile(self.model) if compiled else self.model
        self.batch, self.autocast = batch, autocast
        self.step = self.first = 0  # `first` is the step that the optimizers began at
        self.average = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, weight in self.model.transformer.named_parameters():
            inner = weight.ndim == 2 and "transformer_blocks." in name and ".norm" not in name
            (matrices if inner else rest).append(weight)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, MUON_RATE, WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [{"params": rest, "lr": ADAM_RATE}, {"params": [self.model.words], "lr": WORD_RATE}],
                betas=(0.9, 0.99),
                weight_decay=WEIGHT_DECAY,
            ),
        ]
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def take_step(self, data: Data, factor: float) -> float:
        """One step on prompts and noise that follow from its number; `factor` is of the learning rates."""
        draws = SEED * 1_000_003 + self.step
        rng, generator = random.Random(draws), torch.Generator().manual_seed(draws)
        chosen = rng.choices(data.training, data.weights, k=self.batch)
        rows = torch.tensor([data.words.row_of(told(data.drawings[number], rng)) for number in chosen])
        loss = flow_loss(self.runs, data.tokens[chosen], rows, generator, self.autocast)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
        self.step += 1
        self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        pull = 1 - (1 - 1 / self.step) ** (AVERAGE_POWER + 1)
        for name, weight in self.model.named_parameters():
            self.average[name].lerp_(weight, pull)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "first": self.first,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.first, self.average = state["step"], state["first"], state["average"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def start_from(self, path: Path) -> None:
        """Goes on from the averaged weights of another run at its step; the optimizers begin anew."""
        with safe_open(path, "pt") as file:
            self.step = self.first = int(file.metadata()["step"])
        weights = load_file(path)
        self.model.load_state_dict({name: weight.float() for name, weight in weights.items()})
        self.average = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    @torch.no_grad()
    def held_out_loss(self, data: Data, count: int = 256) -> float:
        """Of the averaged weights on drawings that training never sees, told whole, with the same noise each time."""
        chosen = data.held_out[:: max(1, len(data.held_out) // count)][:count]
        rows = torch.tensor([data.words.row_of(full_prompt(data.drawings[number])) for number in chosen])
        current = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        self.model.load_state_dict(self.average)
        generator = torch.Generator().manual_seed(0)
        losses = []
        for part, row in zip(torch.tensor(chosen).split(self.batch), rows.split(self.batch), strict=True):
            loss = flow_loss(self.model, data.tokens[part], row, generator, self.autocast)
            losses.append(loss.item() * len(part))
        self.model.load_state_dict(current)
        return sum(losses) / len(chosen)


def save(training: Training, run: Path) -> None:
    """state.pt, to carry on, and average.safetensors, to draw with."""
    torch.save(training.state(), run / "state.tmp")
    (run / "state.tmp").replace(run / "state.pt")
    average = {name: weight.half() for name, weight in training.average.items()}
    save_file(average, run / "average.tmp", {"step": str(training.step)})
    (run / "average.tmp").replace(run / "average.safetensors")


def rate_factor(step: int, first: int, last: int | None, decay: int) -> float:
    """A short warm-up from `first` on, then constant; in the `decay` steps before `last` a straight line to zero."""
    rising = min(1.0, (step - first + 1) / WARM_UP)
    return rising if last is None or not decay else min(rising, (last - step) / decay)


def train(training: Training, data: Data, run: Path, last: int | None, decay: int) -> None:
    running, seconds = [], time.perf_counter()
    while last is None or training.step < last:
        running.append(training.take_step(data, rate_factor(training.step, training.first, last, decay)))
        if training.step % LOG_EVERY == 0:
            spent, seconds = time.perf_counter() - seconds, time.perf_counter()
            log.info("step %d, loss %.4f, %.2f s a step", training.step, np.mean(running), spent / len(running))
            running = []
        if training.step % SAVE_EVERY == 0 or training.step == last:
            save(training, run)
        if training.step % JUDGE_EVERY == 0 or training.step == last:
            log.info("step %d, held-out loss %.4f", training.step, training.held_out_loss(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the run's: checkpoints, words, code")
    parser.add_argument("--drawings", type=Path, help="folder of lab.emoji.drawings; the run's parent unless given")
    parser.add_argument("--start", type=Path, help="averaged weights to start from, such as the repository's")
    parser.add_argument("--steps", type=int, help="stop after so many in all; without it training goes on until ended")
    parser.add_argument("--decay", type=int, default=0, help="of these steps the last, in which the rate falls to zero")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="about a seventh faster; needs a C++ compiler")
    parser.add_argument("--float32", action="store_true", help="for processors that do not multiply in bfloat16")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    given.folder.mkdir(parents=True, exist_ok=True)
    data = prepare(given.drawings or given.folder.parent, given.folder)
    training = Training(len(data.words), given.batch, given.compile, not given.float32)
    state = given.folder / "state.pt"
    if state.exists():
        training.load_state(torch.load(state, map_location="cpu", weights_only=True))
        log.info("carrying on at step %d", training.step)
    elif given.start is not None:
        training.start_from(given.start)
        log.info("starting from the averaged weights of step %d", training.step)
    with plain_attention():
        train(training, data, given.folder, given.steps, given.decay)


if __name__ == "__main__":
    main()
