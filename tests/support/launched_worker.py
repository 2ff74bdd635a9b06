"""One of the processes of an accelerate launch: trains on its part of each batch; rank 0 writes losses and weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sae.hosts.accelerate import launched_processes
from sae.training.config import TopKConfig
from sae.training.trainer import TopKTrainer
from world import WIDTH, WORLD

PART, STEPS = 128, 40


def trained(count: int, peers, rank: int) -> dict[str, torch.Tensor]:
    """Losses (steps,), unexplained shares, and the decoder, of `count` parts of each batch of two."""
    config = TopKConfig(
        d_in=WIDTH, d_sae=96, k=3, steps=STEPS, batch_tokens=PART * count, rate=3e-3, warmup_steps=5, dead_tokens=600
    )
    trainer, told = TopKTrainer(config, peers=peers), []
    for batch in WORLD.batches(seed=1, count=STEPS, size=2 * PART):
        own = batch[rank * PART : (rank + count) * PART]
        losses = trainer.train_step(own)
        told.append(torch.stack([losses.reconstruction, losses.auxiliary, losses.fired.float().mean()]).detach())
    return {"told": torch.stack(told), "decoder": trainer.model.decoder.detach()}


def main() -> None:
    torch.set_num_threads(1)
    with launched_processes("cpu") as peers:
        if peers is None:
            raise SystemExit("not launched among others")
        result = trained(1, peers, peers.rank)
        save_file(result, Path(sys.argv[1]) / f"rank{peers.rank}.safetensors")


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of torch's groups end a program with an error now and then, while it shuts down
