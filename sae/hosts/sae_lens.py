"""SAELens' own trainers (github.com/decoderesearch/SAELens, version 6), fed with our batches.

They train the architectures that are not trained here, and write them in SAELens' layout, which the library reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .encoders import needed_package

MAJOR = 6
WEIGHTS = "sae_weights.safetensors"
NORM_BATCHES = 10  # by which the tokens' average norm is estimated; the factor is folded into the weights at the end
# Each architecture with the name of its weight of sparsity, None where it has none.
SPARSITY = {
    "standard": "l1_coefficient",
    "gated": "l1_coefficient",
    "jumprelu": "l0_coefficient",
    "matching_pursuit": None,
}


@dataclass(frozen=True)
class SaeLensConfig:
    """What decides a training run, given the data."""

    architecture: str
    d_in: int
    d_sae: int
    steps: int
    batch_tokens: int
    rate: float
    warmup_steps: int
    decay_steps: int
    sparsity: float  # weight of the loss of sparsity
    k: int  # features that matching pursuit chooses, one after another
    seed: int
    device: str


def check_installed() -> None:
    """ValueError where SAELens is missing or of another major version."""
    told = str(needed_package("sae_lens", "trainer").__version__)
    if told.split(".")[0] != str(MAJOR):
        raise ValueError(f"trainer: SAELens {told} is installed, but version {MAJOR} is needed.")


class SaeLensRun:
    """One training run. It cannot be taken up again: stopped early, it ends with what it has."""

    def __init__(self, config: SaeLensConfig, batches: Iterator[Tensor]) -> None:
        check_installed()
        torch.manual_seed(config.seed)  # SAELens draws its weights from the common row of random numbers
        self.stopping = False  # set, it ends after the step under way
        self._batches = batches
        self._sae = _made(config)
        trainers = needed_package("sae_lens.training.sae_trainer", "trainer")
        self._trainer: Any = trainers.SAETrainer(_settings(config), self._sae, self._fed())

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self._trainer.n_training_steps)

    def train(self) -> None:
        """To the end, with SAELens' own bar."""
        self._trainer.fit()

    def write(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Writes cfg.json, with `metadata` in it, and the weights, whose path is returned."""
        for name, text in metadata.items():
            self._sae.cfg.metadata[name] = text
        self._sae.save_inference_model(folder)
        return folder / WEIGHTS

    def _fed(self) -> Iterator[Tensor]:
        for batch in self._batches:
            if self.stopping:  # the loop ends when it has seen as many tokens as it was told
                self._trainer.cfg.total_training_samples = 0
            yield batch


def _made(config: SaeLensConfig) -> Any:
    registry = needed_package("sae_lens.registry", "trainer")
    sae_class, config_class = registry.get_sae_training_class(config.architecture)
    weight = SPARSITY[config.architecture]
    more: dict[str, Any] = {} if weight is None else {weight: config.sparsity}
    if config.architecture == "matching_pursuit":
        more |= {
            "max_iterations": config.k, "residual_threshold": 0.0, "stop_on_duplicate_support": False,
            "decoder_init_norm": 1.0,
        }  # fmt: skip
    return sae_class(
        config_class(
            d_in=config.d_in,
            d_sae=config.d_sae,
            device=config.device,
            normalize_activations="expected_average_only_in",
            **more,
        )
    )


def _settings(config: SaeLensConfig) -> Any:
    configs = needed_package("sae_lens.config", "trainer")
    return configs.SAETrainerConfig(
        total_training_samples=config.steps * config.batch_tokens,
        train_batch_size_samples=config.batch_tokens,
        lr=config.rate,
        lr_end=config.rate / 10,
        lr_warm_up_steps=config.warmup_steps,
        lr_decay_steps=config.decay_steps,
        device=config.device,
        n_batches_for_norm_estimate=NORM_BATCHES,
        logger=configs.LoggingConfig(log_to_wandb=False),
    )
