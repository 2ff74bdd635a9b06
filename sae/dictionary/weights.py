"""An SAE's weights under one set of names, read when they are used.

Canonical names, with F = d_sae and d = d_in:
  encoder (F, d) · encoder_bias (F) · input_bias (d), subtracted from x · threshold (F) or a scalar ·
  gate_bias, magnitude_bias, r_mag (F) · decoder (F, d) · output_bias (d) ·
  skip (d, d), of a transcoder: what it adds to x̂ of x itself, skip · x
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..files.quote import quoted
from ..files.tensors import TensorMemory, TensorSource
from .activations import VECTORS, Architecture

PartName = Literal["encoder", "decoder"]
REMEMBERED_READS = 8


@dataclass(frozen=True)
class Weight:
    """One canonical tensor: where it is stored, and what must be done to it.

    `transform` works in float32: element by element, such as the exponential of a stored logarithm, or, on a matrix
    that is stored as (F, d), row by row.
    """

    source: TensorSource
    key: str
    transposed: bool = False  # a matrix that is stored as (d, F)
    transform: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.source.infos[self.key].shape
        return shape[::-1] if self.transposed else shape

    def rows(self, ids: Sequence[int]) -> Tensor:
        """The rows of the features `ids`, float32: (len(ids), d), or (len(ids),) of a vector or a scalar."""
        if self.shape in ((), (1,)):  # one threshold for all features
            return self._transformed(self.source.whole(self.key).float()).expand(len(ids))
        stored = self.source.columns(self.key, ids).T if self.transposed else self.source.rows(self.key, ids)
        return self._transformed(stored.float())

    def whole(self) -> Tensor:
        """The whole matrix in its stored type; vectors and scalars in float32."""
        if len(self.shape) < 2:
            return self.vector()
        if not self.transposed and self.transform is None:
            return self.source.whole(self.key)
        out = torch.empty(self.shape, dtype=self.source.stored_dtype(self.key))
        for first, block in self.source.blocks(self.key):
            if self.transform is not None:
                block = self.source.usable(self.key, self.transform(block.float()).to(out.dtype))
            if self.transposed:
                out[:, first : first + len(block)] = block.T
            else:
                out[first : first + len(block)] = block
        return out

    def vector(self) -> Tensor:
        """A whole vector or scalar, float32."""
        return self._transformed(self.source.whole(self.key).float())

    def norms(self) -> Tensor:
        """(F,) float32: the length of each row of a matrix, read block by block."""
        squares = torch.zeros(self.shape[0])
        for first, block in self.source.blocks(self.key):
            lengths = self._transformed(block.float()).square()
            if self.transposed:
                squares += lengths.sum(0).cpu()
            else:
                squares[first : first + len(block)] = lengths.sum(1).cpu()
        return squares.sqrt()

    def _transformed(self, values: Tensor) -> Tensor:
        return values if self.transform is None else self.source.usable(self.key, self.transform(values))


class Part(nn.Module):
    """One part of an SAE in memory: `weight` (F, d) in the stored type, vectors in float32, nothing trainable."""

    def __init__(self, weight: Tensor, vectors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.vectors = nn.ParameterDict({name: nn.Parameter(v, requires_grad=False) for name, v in vectors.items()})
        self._lengths: tuple[torch.device, torch.dtype, Tensor] | None = None

    def feature_rows(self, features: slice | Tensor, device: torch.device) -> Tensor:
        """The rows of some features as float32 on `device`."""
        return self.weight[features].to(device=device, dtype=torch.float32)

    def lengths(self) -> Tensor:
        """(F,) float32: ‖row‖ as the rows are stored where they are now; measured once for a place."""
        device, dtype = self.weight.device, self.weight.dtype
        if self._lengths is None or self._lengths[:2] != (device, dtype):
            with torch.inference_mode(False):
                summed = torch.promote_types(dtype, torch.float32)  # torch refuses to take float64 as that
                found = torch.linalg.vector_norm(self.weight, dim=1, dtype=summed).float()
            self._lengths = (device, dtype, found)
        return self._lengths[2]

    def vector(self, name: str, device: torch.device) -> Tensor | None:
        """A vector as float32 on `device` (a host may have cast the part), or None where the SAE has none."""
        return self.vectors[name].to(device=device, dtype=torch.float32) if name in self.vectors else None


class Weights:
    """The weights of one SAE: single rows read from the source, whole parts materialised when first asked for."""

    def __init__(self, tensors: Mapping[str, Weight], architecture: Architecture) -> None:
        self.tensors = dict(tensors)
        self.architecture = architecture
        self.handles: dict[str, Any] = {}  # what a host keeps for a part, for as long as these weights live
        self._parts: dict[str, Part] = {}
        self._reads: OrderedDict[tuple[str, tuple[int, ...] | None], Tensor] = OrderedDict()
        self._lock = threading.RLock()  # one thread reads, the others wait for what it read

    @classmethod
    def in_memory(cls, tensors: Mapping[str, Tensor], architecture: Architecture, label: str) -> Weights:
        """Weights over tensors that already have the canonical names and orientation."""
        source = TensorMemory(tensors, label)
        return cls({name: Weight(source, name) for name in tensors}, architecture)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_sae, d_in)"""
        d_sae, d_in = self.tensors["decoder"].shape
        return d_sae, d_in

    @property
    def materialised(self) -> tuple[str, ...]:
        """The parts that are in memory."""
        return tuple(self._parts)

    def part(self, name: PartName) -> Part:
        """One part as a module, read on the first call and kept. A host may move it to another device."""
        with self._lock:
            if name not in self._parts:
                with torch.inference_mode(False):
                    self._parts[name] = self._encoder() if name == "encoder" else self._decoder()
            return self._parts[name]

    def encoder_vectors(self) -> tuple[str, ...]:
        """The per-feature vectors that encoding reads."""
        return tuple(name for name in ("encoder_bias", *VECTORS[self.architecture.kind]) if name in self.tensors)

    def vectors_of(self, ids: Sequence[int]) -> dict[str, Tensor]:
        """The entries of the encoder's vectors for some features, each (len(ids),) float32 on the CPU."""
        vectors = {name: self.rows(name, ids) for name in self.encoder_vectors()}
        if self.architecture.decoder_norm != "none":
            vectors["decoder_norm"] = self.rows("decoder", ids).norm(dim=1)
        self._check_factors(vectors)
        return vectors

    def _check_factors(self, vectors: Mapping[str, Tensor]) -> None:
        """A gated SAE multiplies by exponentials."""
        if "r_mag" in vectors:
            stored = self.tensors["r_mag"]
            stored.source.usable(stored.key, vectors["r_mag"].exp())

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """The rows of some features, float32 on the CPU, without materialising anything. Do not write into it."""
        part = self._parts.get(name)
        if part is not None:
            picked = torch.tensor(ids, dtype=torch.int64, device=part.weight.device)
            return part.feature_rows(picked, torch.device("cpu"))
        return self._remember((name, tuple(ids)), lambda: self.tensors[name].rows(ids))

    def optional_vector(self, name: str) -> Tensor | None:
        """A whole vector as float32 on the CPU, or None where the SAE has none. Do not write into it."""
        if name not in self.tensors:
            return None
        return self._remember((name, None), self.tensors[name].vector)

    def optional_matrix(self, name: str) -> Tensor | None:
        """A whole matrix as float32 on the CPU, or None where the SAE has none. Do not write into it."""
        if name not in self.tensors:
            return None
        return self._remember((name, None), lambda: self.tensors[name].whole().float())

    def _remember(self, key: tuple[str, tuple[int, ...] | None], read: Callable[[], Tensor]) -> Tensor:
        """The same few rows are asked for at every sampling step."""
        with self._lock:
            found = self._reads.get(key)
            if found is None:
                with torch.inference_mode(False):
                    found = read().cpu()
                self._reads[key] = found
                while len(self._reads) > REMEMBERED_READS:
                    self._reads.popitem(last=False)
            return found

    def _encoder(self) -> Part:
        d_sae, _ = self.shape
        # `clone` gives an expanded scalar, one threshold for all features, its own memory
        vectors = {name: self.tensors[name].vector().expand(d_sae).clone() for name in self.encoder_vectors()}
        self._check_factors(vectors)
        bias = self.optional_vector("input_bias")
        if bias is not None:
            vectors["input_bias"] = bias
        if self.architecture.decoder_norm != "none":
            vectors["decoder_norm"] = self.tensors["decoder"].norms()
        return Part(self.tensors["encoder"].whole(), vectors)

    def _decoder(self) -> Part:
        bias = self.optional_vector("output_bias")
        return Part(self.tensors["decoder"].whole(), {} if bias is None else {"output_bias": bias})


def check_weights(weights: Weights, name: str) -> None:
    """Raises ValueError when the shapes contradict each other or the architecture lacks a tensor."""
    tensors, kind = weights.tensors, weights.architecture.kind
    missing = [key for key in ("encoder", "decoder", *VECTORS[kind]) if key not in tensors]
    if missing:
        raise ValueError(f"{name}: a {kind} SAE needs the tensor {missing[0]}, which is not there.")
    for key in ("encoder", "decoder"):
        if len(tensors[key].shape) != 2 or 0 in tensors[key].shape:
            raise ValueError(
                f"{name}: {tensors[key].key} must be a matrix, but has the shape {quoted(tensors[key].shape)}."
            )
    d_sae, d_in = weights.shape
    for key, wanted in _expected_shapes(d_sae, d_in).items():
        if key in tensors and tensors[key].shape not in wanted:
            raise ValueError(
                f"{name}: {tensors[key].key} has the shape "
                f"{quoted(tensors[key].source.infos[tensors[key].key].shape)}, which does not fit the {d_sae} "
                f"features of width {d_in} that {tensors['decoder'].key} has."
            )
    for weight in tensors.values():
        weight.source.stored_dtype(weight.key)
    k = weights.architecture.k
    if k is not None and not 1 <= k <= d_sae:
        raise ValueError(f"{name}: k is {quoted(k)}, but must lie between 1 and the number of features, {d_sae}.")
    if kind == "groupmax" and k is not None and d_sae % k:
        raise ValueError(
            f"{name}: the {d_sae} features cannot be cut into {quoted(k)} equal groups; k must divide them."
        )


def _expected_shapes(d_sae: int, d_in: int) -> dict[str, list[tuple[int, ...]]]:
    per_feature: dict[str, list[tuple[int, ...]]] = {
        key: [(d_sae,)] for key in ("encoder_bias", "gate_bias", "magnitude_bias", "r_mag")
    }
    return {
        "encoder": [(d_sae, d_in)],
        "input_bias": [(d_in,)],
        "skip": [(d_in, d_in)],
        "output_bias": [(d_in,)],
        "threshold": [(d_sae,), (1,), ()],
        **per_feature,
    }


def feature_chunks(d_sae: int, d_in: int, limit_bytes: int, multiple: int = 1) -> Iterator[slice]:
    """Slices of features whose float32 rows take at most `limit_bytes`, as many as a multiple where that allows it."""
    step = aligned(limit_bytes // (4 * d_in), multiple)
    return (slice(first, min(first + step, d_sae)) for first in range(0, d_sae, step))


def aligned(count: int, multiple: int) -> int:
    """At least 1, and a whole number of times `multiple` where there are so many."""
    return max(1, count - count % multiple if count >= multiple else count)
