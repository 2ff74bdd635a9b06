"""A small decoder that makes sharp edges of what the linear code says: python -m lab.emoji.decoder --folder F."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .changed import shifted
from .drawings import load_drawings
from .emoji_pictures import to_pictures
from .latents import LinearCode

log = logging.getLogger(__name__)

FOLD = 4  # the network works on 32×32 places of 4×4 pixels
WIDTH, BLOCKS = 96, 4
STEPS, RATE, BATCH = 1_200, 2e-3, 16
NOISE = 0.35  # standard deviation at most, of latents of variance 1: what is left when sampling ends is as large
EDGES = 1.0  # weight of differences between neighbours in the loss


class Block(nn.Module):
    """Looks around (depthwise 7×7), thinks, and adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width, padding_mode="replicate"),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 3 * width, 1),
            nn.GELU(),
            nn.Conv2d(3 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Decoder(nn.Module):
    """Tokens (n, rows · columns, 64) to pictures (n, 3, 16 · rows, 16 · columns) in 0..1."""

    def __init__(self, code: LinearCode) -> None:
        super().__init__()
        self.code = code
        inner = 3 * FOLD**2
        last = nn.Conv2d(WIDTH, inner, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            nn.Conv2d(inner, WIDTH, 3, padding=1, padding_mode="replicate"),
            *(Block(WIDTH) for _ in range(BLOCKS)),
            last,
        )

    def forward(self, tokens: Tensor, rows: int = 8) -> Tensor:
        return self.raw(tokens, rows).clamp(0, 1)

    def raw(self, tokens: Tensor, rows: int = 8) -> Tensor:
        """Not limited to 0..1, for training."""
        blurred = self.code.decode(tokens, rows)
        detail = self.layers(functional.pixel_unshuffle(blurred, FOLD) * 2 - 1)
        return blurred + functional.pixel_shuffle(detail, FOLD)

    def save(self, path: Path) -> None:
        save_file({name: weight.half().contiguous() for name, weight in self.state_dict().items()}, path)

    @classmethod
    def load(cls, path: Path, code: LinearCode) -> Decoder:
        decoder = cls(code)
        decoder.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
        return decoder.eval().requires_grad_(False)


def load_decoder(run: Path) -> Callable[[Tensor], Tensor]:
    """The run's decoder; before it is trained, the code's own pictures."""
    code = LinearCode.load(run / "code.safetensors")
    trained = run / "decoder.safetensors"
    return Decoder.load(trained, code) if trained.exists() else code.decode


def sharpness_loss(made: Tensor, real: Tensor) -> Tensor:
    """Mean error of pixels, and of their differences from the neighbours."""
    loss = functional.l1_loss(made, real)
    for dim in (2, 3):
        loss = loss + EDGES * functional.l1_loss(made.diff(dim=dim), real.diff(dim=dim))
    return loss


def train_decoder(pixels: Tensor, code: LinearCode, steps: int = STEPS) -> Decoder:
    """On real drawings (n, 128, 128, 3) uint8, a little moved, their latents noised."""
    torch.manual_seed(0)
    decoder = Decoder(code)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
        real = shifted(to_pictures(pixels[chosen]), generator)
        tokens = code.encode(real)
        strength = NOISE * torch.rand(BATCH, 1, 1, generator=generator).square()
        tokens = tokens + strength * torch.randn(tokens.shape, generator=generator)
        loss = sharpness_loss(decoder.raw(tokens), real)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        if (step + 1) % 100 == 0:
            log.info("step %d of %d, loss %.4f", step + 1, steps, loss.item())
    return decoder.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the run's, which has the code")
    parser.add_argument("--drawings", type=Path, help="folder of lab.emoji.drawings; the run's parent unless given")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    drawings, pixels = load_drawings(given.drawings or given.folder.parent)
    code = LinearCode.load(given.folder / "code.safetensors")
    training = [number for number, drawing in enumerate(drawings) if not drawing.held_out]
    train_decoder(pixels[training], code, given.steps).save(given.folder / "decoder.safetensors")


if __name__ == "__main__":
    main()
