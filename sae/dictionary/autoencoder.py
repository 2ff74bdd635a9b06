"""The sparse autoencoder: one class for every architecture and every checkpoint layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..places.site import Site
from .activations import (
    ActiveList,
    Architecture,
    RunningGroupMax,
    RunningTopK,
    SparseCodes,
    TokenFrame,
    activate,
    merged,
    normalize,
    to_device,
    token_frame,
)
from .fast.availability import have_kernels, sums_of_rows
from .fast.candidates import topk_codes, worthwhile
from .modulation import Modulation
from .owner import ContrastOf, Origin, Owner, TrainedOn, identity
from .statistics import FeatureStatistics
from .weights import Part, PartName, Weights, check_weights, feature_chunks

__all__ = ["Architecture", "SparseAutoencoder", "SparseCodes"]

SCRATCH_BYTES = 64 * 2**20  # largest temporary float32 tensor

Ids = Sequence[int] | Tensor
Sigma = float | Tensor | None


class SparseAutoencoder:
    """encode(x) -> codes f, decode(f) -> x̂, direction(k) -> what x̂ gains when f_k grows by 1.

    x is (..., d_in) in any floating type; results are float32 on the device of x. Weights may live elsewhere: chunks
    of them are brought to x. Every encoding method takes `sigma`, the noise level (0 to 1 in FLUX), which SAEs with a
    `modulation` need. An x of another width and a feature outside 0..d_sae-1 raise ValueError.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        name: str = "SAE",
        site: Site | None = None,
        statistics: FeatureStatistics | None = None,
        modulation: Modulation | None = None,
        origin: Origin | None = None,
        trained_on: TrainedOn | None = None,
    ) -> None:
        """Raises ValueError when the weights contradict each other or the architecture."""
        check_weights(weights, name)
        self.weights = weights
        self.architecture = weights.architecture
        self.d_sae, self.d_in = weights.shape
        self.name = name
        self.site = site
        self.statistics = statistics
        self.modulation = modulation
        self.origin = origin  # None for an SAE that was made in memory
        self.trained_on = trained_on  # None where nothing tells
        self.contrast: ContrastOf | None = None  # of directions that no training made, see contrast.py
        self.transcoder = False  # whether x̂ stands for what comes out of the MLP that x goes into

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        architecture: Architecture,
        *,
        name: str = "SAE in memory",
        site: Site | None = None,
        statistics: FeatureStatistics | None = None,
    ) -> SparseAutoencoder:
        """An SAE over tensors with the canonical names of `weights.py`; they are shared, not copied."""
        weights = Weights.in_memory(tensors, architecture, name)
        return cls(weights, name=name, site=site, statistics=statistics)

    def __repr__(self) -> str:
        where = f", {self.site}" if self.site else ""
        return f"{self.name}: {self.d_sae} features of width {self.d_in} ({self.architecture}{where})"

    @property
    def count(self) -> int:
        """How many directions there are: d_sae."""
        return self.d_sae

    @property
    def owner(self) -> Owner:
        """This SAE by its content. Reads a few kilobytes on the first call."""
        return Owner(identity(self.weights, kept=self.origin is not None), self.name)

    def at(self, site: Site | None) -> SparseAutoencoder:
        """The same SAE, with the same weights in memory, for another place in the network."""
        moved = copy(self)
        moved.site = site
        return moved

    def part(self, name: PartName) -> Part:
        """The encoder or the decoder as a module, read into memory on the first call."""
        return self.weights.part(name)

    def modules_for(self, *reads: PartName) -> list[nn.Module]:
        """The modules that a host must manage when it reads the encoder, the decoder or both."""
        return [self.part(name) for name in reads]

    # Encoding

    def encode(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """(..., d_in) -> dense codes (..., d_sae). Large: prefer `encode_sparse`."""
        if self.architecture.k is not None:
            return self.encode_sparse(x, sigma).to_dense(self.d_sae)
        centred = self._input(x, sigma)
        dense = torch.empty((len(centred), self.d_sae), device=x.device)
        for first, rows, codes in self._chunks(centred):
            dense[rows, first : first + codes.shape[1]] = codes
        return dense.view(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Tensor, sigma: Sigma = None) -> SparseCodes:
        """(..., d_in) -> codes (..., n): n is k for topk, else the largest number of active features of any token."""
        centred, encoder = self._input(x, sigma), self.part("encoder")
        if self.architecture.kind == "matching_pursuit":
            found = self._pursued(centred)
        elif worthwhile(encoder, self.architecture, x.device) and not centred.requires_grad:  # kernels have no gradient
            found = topk_codes(centred, encoder, self.architecture, self._selected, SCRATCH_BYTES)
        else:
            found = self._selected(centred)
        shape = (*x.shape[:-1], found.values.shape[-1])
        return SparseCodes(found.values.view(shape), found.indices.view(shape))

    def codes(self, x: Tensor, ids: Ids, sigma: Sigma = None) -> Tensor:
        """(..., d_in) -> codes (..., len(ids)) of the features `ids` alone.

        Only their rows are read and computed, except for topk and groupmax, where the features compete.
        """
        features = self._features(ids)
        if self.architecture.k is not None:
            return self.encode_sparse(x, sigma).pick(torch.tensor(features, dtype=torch.int64))
        tokens = self._tokens(x)
        rows = to_device(self.weights.rows("encoder", features), x.device)
        vectors = {name: to_device(v, x.device) for name, v in self.weights.vectors_of(features).items()}
        bias = self.weights.optional_vector("input_bias")
        codes = self._activate(self._centred(tokens, self._modulated(x, sigma), bias), rows, vectors)
        return codes.view(*x.shape[:-1], len(features))

    # Decoding

    def decode(self, f: Tensor, like: Tensor | None = None) -> Tensor:
        """Dense codes (..., d_sae) -> x̂ (..., d_in). `like` is the x that was encoded; normalised SAEs need it."""
        if f.shape[-1] != self.d_sae:
            raise ValueError(f"codes: {self.name} has {self.d_sae} features, but the codes {list(f.shape)} do not.")
        flat = f.reshape(-1, self.d_sae).float()
        active = ActiveList(len(flat), f.device)
        active.add(0, slice(0, len(flat)), flat)
        packed = active.pack()
        shape = (*f.shape[:-1], packed.values.shape[-1])
        return self.decode_sparse(SparseCodes(packed.values.view(shape), packed.indices.view(shape)), like)

    def decode_sparse(self, codes: SparseCodes, like: Tensor | None = None) -> Tensor:
        """Sparse codes (..., n) -> x̂ (..., d_in); only the decoder rows of the active features are gathered."""
        shape = codes.values.shape
        values, indices = (part.reshape(shape[:-1].numel(), shape[-1]) for part in codes)
        width = values.shape[-1]
        if width and self._sums_by_kernels(values):
            starts = torch.arange(0, values.numel(), width, device=values.device)
            out = sums_of_rows(self.part("decoder").weight, indices.flatten(), values.float().flatten(), starts)
        else:
            out = torch.zeros((len(values), self.d_in), device=values.device)
            step = max(1, SCRATCH_BYTES // (4 * self.d_in * max(1, width)))
            for first in range(0, len(values) if width else 0, step):
                rows = slice(first, first + step)
                out[rows] = self._gather(values[rows].float(), indices[rows])
        bias = self.part("decoder").vector("output_bias", out.device)
        if bias is not None:
            out += bias
        return self._unnormalised(out.view(*shape[:-1], self.d_in), like)

    def reconstruct(self, x: Tensor, sigma: Sigma = None) -> Tensor:
        """x̂ (..., d_in) of x (..., d_in); of a transcoder the MLP's output, with its linear part where it has one."""
        rebuilt = self.decode_sparse(self.encode_sparse(x, sigma), like=x)
        skip = self.weights.optional_matrix("skip")
        return rebuilt if skip is None else rebuilt + x.float() @ skip.to(x.device).T

    def direction(self, ids: Ids) -> Tensor:
        """(len(ids), d_in) on the CPU: what x̂ gains when each feature grows by 1, before `token_scale`.

        Reads these rows of the decoder and nothing else.
        """
        return self._effective(self.weights.rows("decoder", self._features(ids))).clone()

    def token_scale(self, x: Tensor) -> Tensor:
        """(..., 1): what a direction is multiplied by at each token of x, 1 unless the SAE normalises its input."""
        return self._frame(x).scale

    # Details

    def _tokens(self, x: Tensor) -> Tensor:
        """x as (tokens, d_in) float32."""
        self._check_width(x)
        return x.reshape(-1, self.d_in).float()

    def _check_width(self, x: Tensor) -> None:
        if not x.ndim or x.shape[-1] != self.d_in or not x.is_floating_point():
            raise ValueError(
                f"sae: {self.name} reads floating point activations of width {self.d_in}, but got {x.dtype} of shape "
                f"{list(x.shape)}; use an SAE that was trained at this place of this model."
            )

    def _features(self, ids: Ids) -> tuple[int, ...]:
        features = tuple(int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids))
        for feature in features:
            if not 0 <= feature < self.d_sae:
                raise ValueError(
                    f"feature: {self.name} has no feature {feature}; its features are 0 to {self.d_sae - 1}."
                )
        return features

    def _frame(self, x: Tensor) -> TokenFrame:
        self._check_width(x)
        return token_frame(x, self.architecture.normalization)

    def _selected(self, centred: Tensor) -> SparseCodes:
        """Codes (tokens, n) of what `_input` gives, with every feature computed in float32."""
        chosen = self._selection(len(centred), centred.device)
        for first, rows, codes in self._chunks(centred):
            chosen.add(first, rows, codes)
        if isinstance(chosen, ActiveList):
            return chosen.pack()
        behind_gates = self.architecture.kind == "gated_topk"
        return SparseCodes(chosen.values.relu() if behind_gates else chosen.values, chosen.indices)

    def _selection(self, tokens: int, device: torch.device) -> RunningTopK | RunningGroupMax | ActiveList:
        k = self.architecture.k
        if k is None:
            return ActiveList(tokens, device)
        if self.architecture.kind == "groupmax":
            return RunningGroupMax(tokens, k, self.d_sae, device)
        return RunningTopK(tokens, k, device, signed=self.architecture.kind in ("signed_topk", "gated_topk"))

    def _modulated(self, x: Tensor, sigma: Sigma) -> TokenFrame | None:
        """What the noise level makes of the tokens: scale and shift, each (1 or tokens, d_in)."""
        if self.modulation is None:
            return None
        if sigma is None:
            raise ValueError(f"sigma: the codes of {self.name} depend on the noise level (0 to 1), but none was given.")
        return self.modulation.frame(sigma, x)

    def _centred(self, tokens: Tensor, modulated: TokenFrame | None, input_bias: Tensor | None) -> Tensor:
        normalised = normalize(tokens, self.architecture.normalization)
        if modulated is not None:
            normalised = normalised * modulated.scale + modulated.shift
        return normalised if input_bias is None else normalised - to_device(input_bias, tokens.device)

    def _input(self, x: Tensor, sigma: Sigma) -> Tensor:
        """x (..., d_in) as the encoder's rows are multiplied with it, (tokens, d_in) float32."""
        tokens, modulated = self._tokens(x), self._modulated(x, sigma)
        return self._centred(tokens, modulated, self.part("encoder").vector("input_bias", x.device))

    def _pursued(self, left: Tensor) -> SparseCodes:
        """Matching pursuit (Mallat and Zhang 1993): k times the feature that fits best what is left of a token.

        At first that is what `_input` gives.
        """
        found = []
        for _ in range(self.architecture.k or 0):
            best = RunningTopK(len(left), 1, left.device)
            for first, rows, codes in self._chunks(left):
                best.add(first, rows, codes)
            left = left - self._gather(best.values, best.indices)
            found.append(best)
        values, indices = (torch.cat([getattr(best, name) for best in found], 1) for name in ("values", "indices"))
        return merged(SparseCodes(values, indices))

    def _chunks(self, centred: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
        """(first feature, slice of tokens, codes (tokens, features) before a selection), in bounded memory."""
        encoder, device = self.part("encoder"), centred.device
        vectors = {name: encoder.vectors[name].to(device, torch.float32) for name in encoder.vectors}
        for features in feature_chunks(self.d_sae, self.d_in, SCRATCH_BYTES):
            weight = encoder.feature_rows(features, device)
            chunk = {name: vector[features] for name, vector in vectors.items() if name != "input_bias"}
            step = max(1, SCRATCH_BYTES // (4 * len(weight)))
            for first in range(0, len(centred), step):
                rows = slice(first, min(first + step, len(centred)))
                yield features.start, rows, self._activate(centred[rows], weight, chunk)

    def _activate(self, centred: Tensor, weight: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        """Codes (tokens, n) of n features: their encoder rows (n, d_in) and vectors (n,)."""
        pre = centred @ weight.T
        if "encoder_bias" in vectors:
            pre = pre + vectors["encoder_bias"]
        return activate(pre, vectors, self.architecture)

    def _sums_by_kernels(self, values: Tensor) -> bool:
        """They have no gradient."""
        weight, plain = self.part("decoder").weight, self.architecture.decoder_norm == "none"
        return plain and not values.requires_grad and weight.device == values.device and have_kernels(weight)

    def _gather(self, values: Tensor, indices: Tensor) -> Tensor:
        """values, indices (tokens, n) -> the weighted sum (tokens, d_in) of decoder rows."""
        decoder = self.part("decoder")
        if decoder.weight.is_cuda and decoder.weight.device == values.device:  # finding what is there twice would wait
            rows = decoder.weight.index_select(0, indices.flatten()).unflatten(0, indices.shape)
            return torch.bmm(values.unsqueeze(1), self._effective(rows.float())).squeeze(1)
        features, place = indices.unique(return_inverse=True)
        rows = self._effective(decoder.feature_rows(features.to(decoder.weight.device), values.device))
        if values.device.type == "mps":  # embedding_bag is missing there in many releases of torch
            return torch.einsum("tn,tnd->td", values, rows[place])
        return functional.embedding_bag(place, rows, per_sample_weights=values, mode="sum")

    def _effective(self, rows: Tensor) -> Tensor:
        """Decoder rows (..., d_in) as they act on x̂: of unit length where the codes carry the norm."""
        if self.architecture.decoder_norm == "none":
            return rows
        return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def _unnormalised(self, reconstruction: Tensor, like: Tensor | None) -> Tensor:
        if self.architecture.normalization == "none":
            return reconstruction
        if like is None:
            raise ValueError(
                f"like: {self.name} normalises each token ({self.architecture}), so decoding needs the x that was "
                f"encoded, but none was given."
            )
        frame = self._frame(like)
        return reconstruction * frame.scale + frame.shift
