"""What a tap and a TopK encode cost at FLUX's width, with random weights, against the plain way in the same run."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.places.moment import COND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord

TOKENS, D_IN, D_SAE = 2_048, 3_072, 49_152
FEW = 256  # tokens of the TopK measurement, which takes minutes with all of them
ROUNDS = 9
MOMENT = Moment(0.5, (COND,), 512, 64, 128)  # 32 × 64 tokens
SITE = parse_location("transformer_blocks.1", "image")


def seconds(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The middle processor time of each way. Each round runs them in turn: a busy machine is unkind to all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if number:  # the first is to warm up
                times[name].append(time.process_time() - start)
    return {name: median(found) for name, found in times.items()}


def _tap(sae: SparseAutoencoder, x: Tensor, unit: str, method: str = "add", mask: bool = False) -> Callable[[], Tensor]:
    fires = {"mean": 1.0, "density": 0.5}
    replaces = [Edit(5, **fires)] if method == "swap" else []
    steering = Steering(sae, [Edit(3, 0.3, **fires)], method, 1.0, unit, replaces)
    region = torch.ones(1, 512, 1024) if mask else None
    active = Intervention(steering, SITE, mask=region).begin(SteeringRecord())
    return lambda: active(x, MOMENT)


def time_taps() -> None:
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(64, D_IN, generator=random) for name in ("encoder", "decoder")}
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"))
    x = torch.randn(1, TOKENS, D_IN, generator=random).bfloat16()
    row = tensors["decoder"][3].bfloat16()
    found = seconds(
        {
            "plain x + d": lambda: x + row,
            "add, raw": _tap(sae, x, "raw"),
            "add, token_norm": _tap(sae, x, "token_norm"),
            "add, token_norm, mask": _tap(sae, x, "token_norm", mask=True),
            "swap": _tap(sae, x, "raw", "swap"),
        }
    )
    base = found["plain x + d"]
    print(f"One tap, {TOKENS:,} tokens of {D_IN:,}, bfloat16, {torch.get_num_threads()} thread(s):")
    for name, value in found.items():
        print(f"  {name:22} {value * 1000:8.2f} ms   {value / base:6.2f} × plain x + d")


def time_topk() -> None:
    """Surgery's x̂ against a dense encode, topk, scatter and dense decode; the weights are made in bfloat16."""
    encoder = torch.empty(D_SAE, D_IN, dtype=torch.bfloat16).normal_()
    decoder = torch.empty(D_SAE, D_IN, dtype=torch.bfloat16).normal_()
    sae = SparseAutoencoder.from_tensors({"encoder": encoder, "decoder": decoder}, Architecture("topk", k=16))
    x = torch.randn(FEW, D_IN).bfloat16()

    def dense() -> Tensor:
        codes = x.float() @ encoder.float().T
        values, indices = codes.topk(16)
        return torch.zeros_like(codes).scatter_(1, indices, values.relu()) @ decoder.float()

    sae.reconstruct(x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sae.reconstruct(x)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found = seconds({"dense encode and decode": dense, "reconstruct": lambda: sae.reconstruct(x)}, rounds=1)
    base = found["dense encode and decode"]
    print(f"TopK, {D_SAE:,} features of {D_IN:,}, {FEW} tokens:")
    for name, value in found.items():
        print(f"  {name:24} {value:8.2f} s   {base / value:5.2f} × as fast as dense")
    print(f"  peak memory of reconstruct: {grown:.0f} MB more than before it")


def time_products() -> None:
    """Whether a product in bfloat16 is worth choosing candidates with, see `sae/dictionary/candidates.py`."""
    tokens, rows = torch.randn(FEW, D_IN), torch.randn(FEW * 8, D_IN)
    low = tokens.bfloat16(), rows.bfloat16()
    found = seconds({"float32": lambda: tokens @ rows.T, "bfloat16": lambda: low[0] @ low[1].T}, rounds=3)
    ratio = found["bfloat16"] / found["float32"]
    print(f"A product of {FEW} tokens and {len(rows):,} rows takes {ratio:.2f} × as long in bfloat16 as in float32")
