"""What a tap and a TopK encode cost at FLUX's width, with random weights, against the plain way in the same run."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
from torch import Tensor

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.places.moment import COND, Moment
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from sae.steering.methods import METHODS
from sae.steering.record import SteeringRecord

TOKENS, D_IN, D_SAE = 2_048, 3_072, 49_152
FEW, MANY = 256, 4_096  # tokens of the TopK measurement: on a CPU all of them would take minutes
ROUNDS = 9
MOMENT = Moment(0.5, (COND,), 512, 64, 128)  # 32 × 64 tokens
CPU = torch.device("cpu")
SITE = parse_location("transformer_blocks.1", "image")


def seconds(
    ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, device: torch.device = CPU
) -> dict[str, float]:
    """The middle time of each way. Each round runs them in turn: a busy machine is unkind to all alike.

    Processor time on a CPU; on a GPU from where it has nothing to do to where it has nothing to do.
    """
    clock = clock_of(device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if number:  # the first is to warm up
                times[name].append(clock() - start)
    return {name: median(found) for name, found in times.items()}


def clock_of(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" else partial(_idle_clock, device)


def _idle_clock(device: torch.device) -> float:
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _repeated(way: Callable[[], object], times: int) -> Callable[[], None]:
    """So often that starting and waiting do not count."""

    def run() -> None:
        for _ in range(times):
            way()

    return run


def _tap(sae: SparseAutoencoder, x: Tensor, unit: str, method: str = "add", mask: bool = False) -> Callable[[], Tensor]:
    fires = {"mean": 1.0, "density": 0.5}
    replaces = [Edit(5, **fires)] if METHODS[method].needs_replaces else []
    steering = Steering(sae, [Edit(3, 0.3, **fires)], method, 1.0, unit, replaces)
    region = torch.ones(1, 512, 1024) if mask else None
    active = Intervention(steering, SITE, mask=region).begin(SteeringRecord())
    return lambda: active(x, MOMENT)


def time_taps(device: torch.device = CPU) -> None:
    random = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(64, D_IN, generator=random) for name in ("encoder", "decoder")}
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"))
    x = torch.randn(1, TOKENS, D_IN, generator=random).bfloat16().to(device)
    row = tensors["decoder"][3].bfloat16().to(device)
    ways: dict[str, Callable[[], object]] = {
        "plain x + d": lambda: x + row,
        "add, raw": _tap(sae, x, "raw"),
        "add, token_norm": _tap(sae, x, "token_norm"),
        "add, token_norm, mask": _tap(sae, x, "token_norm", mask=True),
        "swap": _tap(sae, x, "raw", "swap"),
    }
    times = 1 if device == CPU else 50
    found = seconds({name: _repeated(way, times) for name, way in ways.items()}, device=device)
    base = found["plain x + d"]
    where = f"{torch.get_num_threads()} thread(s)" if device == CPU else f"{times} in a row"
    print(f"One tap, {TOKENS:,} tokens of {D_IN:,}, bfloat16, {where}:")
    for name, value in found.items():
        print(f"  {name:22} {value / times * 1000:8.3f} ms   {value / base:6.2f} × plain x + d")


def dense_topk(x: Tensor, encoder: Tensor, decoder: Tensor, k: int) -> Tensor:
    """x̂ by all codes in float32 and a dense decode."""
    codes = x.float() @ encoder.float().T
    values, indices = codes.topk(k)
    return torch.zeros_like(codes).scatter_(1, indices, values.relu()) @ decoder.float()


def time_topk(device: torch.device = CPU) -> None:
    """Surgery's x̂ against a dense encode, topk, scatter and dense decode; the weights are made in bfloat16."""
    shape, kinds = (D_SAE, D_IN), {"dtype": torch.bfloat16, "device": device}
    encoder, decoder = torch.empty(shape, **kinds).normal_(), torch.empty(shape, **kinds).normal_()
    sae = SparseAutoencoder.from_tensors({"encoder": encoder, "decoder": decoder}, Architecture("topk", k=16))
    x = torch.randn(FEW if device == CPU else MANY, D_IN).bfloat16().to(device)
    sae.reconstruct(x[:1])
    peak = _more_memory(lambda: sae.reconstruct(x), device)
    ways: dict[str, Callable[[], object]] = {
        "dense encode and decode": lambda: dense_topk(x, encoder, decoder, 16),
        "reconstruct": lambda: sae.reconstruct(x),
        "encode alone": lambda: sae.encode_sparse(x),
    }
    found = seconds(ways, rounds=1 if device == CPU else 5, device=device)
    base = found["dense encode and decode"]
    print(f"TopK, {D_SAE:,} features of {D_IN:,}, {len(x):,} tokens:")
    for name, value in found.items():
        print(f"  {name:24} {value * 1000:10.2f} ms   {base / value:5.2f} × as fast as dense")
    print(f"  peak memory of reconstruct: {peak:.0f} MB more than before it")
    if device != CPU:
        _compare_ways(sae, x)


def _more_memory(way: Callable[[], object], device: torch.device) -> float:
    """MB that it takes at its peak over what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    way()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _compare_ways(sae: SparseAutoencoder, x: Tensor) -> None:
    """Codes by candidates against all features in float32: time, and whether they are the same."""
    ways = {"by candidates": sae.encode_sparse, "in full": lambda tokens: sae._selected(tokens.float())}
    codes = {name: way(x) for name, way in ways.items()}
    found = seconds({name: partial(way, x) for name, way in ways.items()}, 3, x.device)
    same = [(part.indices.sort(1).values) for part in codes.values()]
    differ = int((same[0] != same[1]).any(1).sum())
    print(f"  candidates take {found['by candidates'] / found['in full']:.3f} × the time of the full product;", end=" ")
    print(f"of {len(x):,} tokens {differ} have other features")


def time_products() -> None:
    """Whether a product in bfloat16 is worth choosing candidates with, see `sae/dictionary/fast/candidates.py`."""
    tokens, rows = torch.randn(FEW, D_IN), torch.randn(FEW * 8, D_IN)
    low = tokens.bfloat16(), rows.bfloat16()
    found = seconds({"float32": lambda: tokens @ rows.T, "bfloat16": lambda: low[0] @ low[1].T}, rounds=3)
    ratio = found["bfloat16"] / found["float32"]
    print(f"A product of {FEW} tokens and {len(rows):,} rows takes {ratio:.2f} × as long in bfloat16 as in float32")
