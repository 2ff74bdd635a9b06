"""A weight file of a small random FLUX, the same numbers on every machine, so that no test has to keep it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH = 128  # the smallest that ComfyUI reads: one head of 16 + 56 + 56
TEXT_WIDTH = 1024  # of the conditioning that core's LotusConditioning gives
POOLED, TIME, CHANNELS, MLP = 16, 256, 64, 4 * WIDTH
DOUBLE, SINGLE = 2, 1  # blocks
GAIN = 1.5  # above 1, so that what is steered in one block still shows at the end


def write_random_flux(path: Path, seed: int = 11) -> None:
    """Writes it in the names that FLUX was published with, for UNETLoader."""
    # Uniform numbers are made from whole ones, exactly; normal ones differ between processors in the last digits.
    random = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: _filled(name, shape, random) for name, shape in _shapes()}, path)


def _filled(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    if name.endswith("norm.scale"):
        return torch.ones(shape)
    spread = 0.2 if len(shape) == 1 else GAIN * (12 / shape[1]) ** 0.5  # of a matrix: to the deviation of its inputs
    return (torch.rand(shape, generator=random) - 0.5) * spread


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear("img_in", CHANNELS, WIDTH)
    yield from _linear("txt_in", TEXT_WIDTH, WIDTH)
    for name, width in (("time_in", TIME), ("vector_in", POOLED)):
        yield from _linear(f"{name}.in_layer", width, WIDTH)
        yield from _linear(f"{name}.out_layer", WIDTH, WIDTH)
    for block in range(DOUBLE):
        for side in ("img", "txt"):
            name = f"double_blocks.{block}.{side}"
            yield from _linear(f"{name}_mod.lin", WIDTH, 6 * WIDTH)
            yield from _linear(f"{name}_attn.qkv", WIDTH, 3 * WIDTH)
            yield from _norms(f"{name}_attn.norm")
            yield from _linear(f"{name}_attn.proj", WIDTH, WIDTH)
            yield from _linear(f"{name}_mlp.0", WIDTH, MLP)
            yield from _linear(f"{name}_mlp.2", MLP, WIDTH)
    for block in range(SINGLE):
        name = f"single_blocks.{block}"
        yield from _linear(f"{name}.modulation.lin", WIDTH, 3 * WIDTH)
        yield from _linear(f"{name}.linear1", WIDTH, 3 * WIDTH + MLP)
        yield from _linear(f"{name}.linear2", WIDTH + MLP, WIDTH)
        yield from _norms(f"{name}.norm")
    yield from _linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)
    yield from _linear("final_layer.linear", WIDTH, CHANNELS)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norms(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("query_norm", "key_norm"):
        yield f"{name}.{part}.scale", (WIDTH,)
