"""Tensors that are read when they are asked for: from files (`tensor_file.py`), from memory, or computed row by row."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .quote import quoted

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_BYTES = 4 * 2**20  # largest scratch buffer while reading
CHECKED_ELEMENTS = 2**20  # looked at in one go for NaN
# Weights are used as float32, which ends at 3.4e38, in sums of thousands of products: activations of 1e6 times an
# encoder of 1e8 in a width of 1e4, times a decoder of 1e8 and 1e5 features, come to 1e31, and a gate's factor of 1e8 or
# a norm may be among them. fp16 ends at 65,504, and no SAE that is known has a number beyond it.
LARGEST = 1e8


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: a type that torch lacks
    start: int = 0  # offset of the first byte in the file

    @property
    def row_length(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class TensorSource(ABC):
    """Named tensors, read in the stored type. What is read is checked for NaN and infinite values."""

    label: str  # names the file in messages
    infos: Mapping[str, TensorInfo]
    bytes_read: int = 0  # bytes of tensor data read so far

    def rows(self, key: str, ids: Sequence[int]) -> Tensor:
        """(len(ids), ...): the asked rows (first dimension)."""
        wanted = sorted(set(ids))
        self.stored_dtype(key)
        runs = [self._read_rows(key, first, last + 1) for first, last in join_runs(wanted, gap=1)]
        if not runs:
            return torch.empty((0, *self.infos[key].shape[1:]), dtype=self.stored_dtype(key))
        return self._checked(key, _in_order(_picked(runs, wanted), wanted, ids, dim=0))

    def columns(self, key: str, ids: Sequence[int]) -> Tensor:
        """(rows, len(ids)): the asked columns of a matrix."""
        wanted = sorted(set(ids))
        self.stored_dtype(key)
        if not wanted:
            return torch.empty((self.infos[key].shape[0], 0), dtype=self.stored_dtype(key))
        return self._checked(key, _in_order(self._read_columns(key, wanted), wanted, ids, dim=1))

    def whole(self, key: str) -> Tensor:
        """The whole tensor."""
        self.stored_dtype(key)
        return self._checked(key, self._read_all(key))

    def blocks(self, key: str) -> Iterator[tuple[int, Tensor]]:
        """(first row, block of rows) over the whole tensor, each block at most BLOCK_BYTES large."""
        count = self.infos[key].shape[0]
        step = max(1, BLOCK_BYTES // max(1, self.infos[key].row_length * self.stored_dtype(key).itemsize))
        for first in range(0, count, step):
            yield first, self._checked(key, self._read_rows(key, first, min(first + step, count)))

    def number(self, key: str) -> float:
        """The only entry of a tensor, of whatever type; ValueError where it has more."""
        info = self.infos[key]
        if info.elements != 1 or info.dtype is None or info.dtype.is_complex:
            raise ValueError(
                f"{self.label}: the tensor {quoted(key)} must be a single number, but has the shape "
                f"{quoted(info.shape)}."
            )
        return float(self._checked(key, self._read_all(key)).reshape(()).item())

    def integers(self, key: str, most: int) -> list[int]:
        """The entries of a vector of up to `most` whole numbers, of whatever type; ValueError for anything else."""
        info = self.infos[key]
        if len(info.shape) != 1 or info.elements > most or info.dtype is None or info.dtype.is_complex:
            raise ValueError(
                f"{self.label}: the tensor {quoted(key)} must be up to {most} whole numbers, but has the shape "
                f"{quoted(info.shape)}."
            )
        values = self._checked(key, self._read_all(key))
        if not torch.equal(values.double(), values.double().round()):
            raise ValueError(f"{self.label}: the tensor {quoted(key)} must hold whole numbers.")
        return [int(value) for value in values.tolist()]

    def sample(self, key: str, pieces: int, length: int) -> bytes:
        """Runs of `length` entries at `pieces` evenly spread places, as they are stored: a look at the content."""
        return b"".join(self._read_run(key, first, count) for first, count in self._runs(key, pieces, length))

    def _runs(self, key: str, pieces: int, length: int) -> list[tuple[int, int]]:
        """(first entry, entries) of each run; one that holds everything where the tensor is small."""
        entries = self.infos[key].elements
        if entries <= pieces * length:
            return [(0, entries)]
        return [(place * (entries - length) // (pieces - 1), length) for place in range(pieces)]

    def _read_run(self, key: str, first: int, count: int) -> bytes:
        row_length = max(1, self.infos[key].row_length)
        row = first // row_length
        rows = (
            self._read_rows(key, row, -(-(first + count) // row_length))
            if self.infos[key].shape
            else self._read_all(key)
        )
        run = rows.reshape(-1)[first - row * row_length :][:count].detach().cpu().contiguous()
        return run.view(torch.uint8).numpy().tobytes()

    @abstractmethod
    def _read_rows(self, key: str, start: int, stop: int) -> Tensor: ...

    @abstractmethod
    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor: ...

    def _read_all(self, key: str) -> Tensor:
        return self._read_rows(key, 0, self.infos[key].shape[0] if self.infos[key].shape else 1)

    def stored_dtype(self, key: str) -> torch.dtype:
        """The tensor's type; ValueError where it is none that SAE weights are stored in."""
        dtype = self.infos[key].dtype
        if dtype is None or dtype not in FLOATS.values():
            raise ValueError(
                f"{self.label}: the tensor {quoted(key)} does not hold floating point numbers; SAE weights are "
                f"accepted in "
                f"{', '.join(FLOATS)}."
            )
        return dtype

    def _checked(self, key: str, values: Tensor) -> Tensor:
        largest = largest_size(values)
        if not math.isfinite(largest):
            raise ValueError(
                f"{self.label}: the tensor {quoted(key)} holds NaN or infinite values; only finite weights are "
                f"accepted, so download or export the file again."
            )
        return self._bounded(key, values, largest)

    def usable(self, key: str, values: Tensor) -> Tensor:
        """The values that a tensor comes to where it is used; ValueError where they are too large to reckon with."""
        return self._bounded(key, values, largest_size(values))

    def _bounded(self, key: str, values: Tensor, largest: float) -> Tensor:
        if not largest <= LARGEST:
            raise ValueError(
                f"{self.label}: the tensor {quoted(key)} comes to the number {largest:.3g} in use, where all beyond "
                f"{LARGEST:g} overflows; download or export the file again."
            )
        return values


class TensorMemory(TensorSource):
    """Tensors that are already in memory, such as those of a trainer. They are not copied."""

    def __init__(self, tensors: Mapping[str, Tensor], label: str = "SAE in memory") -> None:
        self.label = label
        self.tensors = {key: tensor.detach() for key, tensor in tensors.items()}
        self.infos = {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        tensor = self.tensors[key]
        part = tensor[start:stop] if tensor.ndim else tensor
        self.bytes_read += part.nbytes
        return part

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        part = self.tensors[key][:, list(ids)]
        self.bytes_read += part.nbytes
        return part


class ComputedRows(TensorSource):
    """One float32 tensor, (F, d) or (F,), whose rows are computed from others: `compute(start, stop)` gives some."""

    KEY = "computed"

    def __init__(self, shape: tuple[int, ...], compute: Callable[[int, int], Tensor], label: str) -> None:
        self.label = label
        self.compute = compute
        self.infos = {self.KEY: TensorInfo(shape, torch.float32)}

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        out = torch.empty((stop - start, *self.infos[key].shape[1:]))
        step = max(1, BLOCK_BYTES // max(1, out[:1].nbytes))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            out[first - start : last - start] = self.compute(first, last)
        self.bytes_read += out.nbytes
        return out

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        return self._read_all(key)[:, list(ids)]


class JoinedTensors(TensorSource):
    """Several sources as one, such as the shards of a checkpoint."""

    def __init__(self, sources: Sequence[TensorSource], label: str) -> None:
        """Raises ValueError when two sources have a tensor of the same name."""
        self.label = label
        self.sources: dict[str, TensorSource] = {}
        for source in sources:
            for key in source.infos:
                if key in self.sources:
                    raise ValueError(
                        f"{label}: the tensor {quoted(key)} stands in {self.sources[key].label} and in "
                        f"{source.label}; each "
                        f"tensor may be in one shard only, so download the files again."
                    )
                self.sources[key] = source
        self.infos = {key: source.infos[key] for key, source in self.sources.items()}

    def _read_rows(self, key: str, start: int, stop: int) -> Tensor:
        part = self.sources[key]._read_rows(key, start, stop)
        self.bytes_read += part.nbytes
        return part

    def _read_columns(self, key: str, ids: Sequence[int]) -> Tensor:
        part = self.sources[key]._read_columns(key, ids)
        self.bytes_read += part.nbytes
        return part

    def _read_run(self, key: str, first: int, count: int) -> bytes:
        return self.sources[key]._read_run(key, first, count)


def largest_size(values: Tensor) -> float:
    """The largest absolute value, infinite or NaN where one is. In pieces, which stay in the processor's cache."""
    if not values.is_floating_point() or not values.numel():
        return 0.0
    if not values.ndim:
        return abs(float(values))
    step = max(1, CHECKED_ELEMENTS * len(values) // values.numel())
    ends = [float(end) for piece in values.split(step) for end in piece.aminmax()]
    return math.nan if any(map(math.isnan, ends)) else max(map(abs, ends))


def join_runs(ids: Sequence[int], gap: int) -> list[tuple[int, int]]:
    """Sorted ids as (first, last) runs; ids at most `gap` apart share a run."""
    runs: list[tuple[int, int]] = []
    for i in ids:
        if runs and i - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _picked(runs: list[Tensor], wanted: Sequence[int]) -> Tensor:
    return runs[0] if len(runs) == 1 and len(runs[0]) == len(wanted) else torch.cat(runs)


def _in_order(values: Tensor, wanted: Sequence[int], ids: Sequence[int], dim: int) -> Tensor:
    """Values of the sorted unique ids `wanted`, laid out as `ids` asks."""
    if list(ids) == list(wanted):
        return values
    place = {feature: i for i, feature in enumerate(wanted)}
    return values.index_select(dim, torch.tensor([place[i] for i in ids], device=values.device))
