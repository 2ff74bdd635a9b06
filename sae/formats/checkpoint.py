"""What the reader of a layout gets to see, and what it hands back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..dictionary.activations import Architecture
from ..dictionary.modulation import Modulation
from ..dictionary.owner import ContrastOf
from ..dictionary.weights import Weight
from ..files.quote import quoted
from ..files.tensors import TensorInfo, TensorSource
from ..places.site import Site

Header = Mapping[str, TensorInfo]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """An opened weight file (or its shards) and the reader's config from beside it, None where there is none."""

    path: Path
    label: str  # names the file in messages
    source: TensorSource
    config: Config | None
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a safetensors file
    extras: Mapping[str, Any] = field(default_factory=dict)  # what else a file of torch.save holds
    wrapper: str | None = None  # the entry of such a file in which the tensors stand
    asked: str | None = None  # the layout that the user named, one of the reader's LAYOUT_NAMES
    asked_k: int | None = None

    @property
    def header(self) -> Header:
        return self.source.infos

    def has(self, *keys: str) -> bool:
        """Whether the file has all these tensors."""
        return all(key in self.header for key in keys)

    def fail(self, sentence: str) -> ValueError:
        return ValueError(f"{self.label}: {sentence}")

    def undecided(self, choice: str, config_name: str, needed: str, names: Sequence[str]) -> ValueError:
        """What to say where tensors and config leave the layout open. `needed` is what the config must have."""
        fault = f"there is no {config_name} beside it" if self.config is None else f"{config_name} lacks {needed}"
        return self.fail(
            f"its tensors alone do not tell the layout ({choice}), and {fault}; put the {config_name} that was "
            f"published with these weights, with {needed}, into the same folder, or name the layout in the input "
            f"architecture: {' or '.join(names)}."
        )

    def check_tensors(
        self, wanted: Collection[str], layout: str, optional: Collection[str] = (), ignored: Collection[str] = ()
    ) -> None:
        """Raises ValueError unless the file holds exactly these tensors; `ignored` ones may be there as well."""
        missing = [key for key in wanted if key not in self.header]
        beyond = [key for key in self.header if key not in {*wanted, *optional, *ignored}]
        if missing or beyond:
            fault = f"lacks the tensor {missing[0]!r}" if missing else f"has the unknown tensor {quoted(beyond[0])}"
            raise self.fail(f"the file {fault}; the {layout} layout has exactly {', '.join(sorted(wanted))}.")

    def check_config_shape(self, config: Config, keys: Mapping[str, int], config_name: str) -> None:
        """Raises ValueError where a number in the config contradicts the tensors."""
        for key, actual in keys.items():
            if config.get(key) is not None and config[key] != actual:
                raise self.fail(
                    f"{config_name} says {key} = {quoted(config[key])}, but the tensors have {actual}; put the "
                    f"config that "
                    f"belongs to these weights beside them."
                )

    def width_and_count(self, decoder: str, transposed: bool) -> tuple[int, int]:
        """(d_in, d_sae) of the matrix `decoder`, stored as (d, F) where `transposed`."""
        shape = self.header[decoder].shape
        if len(shape) != 2:
            raise self.fail(f"{decoder} must be a matrix, but has the shape {quoted(shape)}.")
        return (shape[0], shape[1]) if transposed else (shape[1], shape[0])

    def whole_number(self, config: Config, key: str, config_name: str) -> int:
        """A whole number from the config; its range is checked against the tensors later."""
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(f"{config_name} must give {key} as a whole number, but has {quoted(value)}.")
        return value

    def k(self, config: Config | None, key: str, config_name: str) -> int:
        """k from the config, or from what the user gave where the config has none."""
        stored = (config or {}).get(key)
        if self.asked_k is None or (config is not None and stored is not None and stored != self.asked_k):
            if config is None:
                raise self.fail(f"k is not in the file; give it with the layout, as in {self.asked}:32.")
            k = self.whole_number(config, key, config_name)
            if self.asked_k is not None:
                raise self.fail(f"architecture: k = {self.asked_k} was given, but {config_name} has {key} = {k}.")
            return k
        return self.asked_k

    def flag(self, config: Config, key: str, default: bool, config_name: str) -> bool:
        """A yes or no from the config; null means the default."""
        value = config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(f"{config_name} must give {key} as true or false, but has {quoted(value)}.")
        return value

    def stored(self, **names: str) -> dict[str, Weight]:
        """Canonical name = stored name, for tensors that are stored as they are used."""
        return {canonical: Weight(self.source, key) for canonical, key in names.items()}

    def turned(self, **names: str) -> dict[str, Weight]:
        """Canonical name = stored name, for matrices that are stored as (d, F)."""
        return {canonical: Weight(self.source, key, transposed=True) for canonical, key in names.items()}


@dataclass(frozen=True)
class Reading:
    """A checkpoint in canonical terms."""

    tensors: Mapping[str, Weight]
    architecture: Architecture
    layout: str  # as people call it, such as "SAELens topk"
    hook: str | None = None  # the place in the network that the config names
    site: Site | None = None  # the same, where the layout has it in our terms
    modulation: Modulation | None = None
    config: Config | None = None  # where the file holds its own
    contrast: ContrastOf | None = None  # where it holds directions that no training made
    transcoder: bool = False  # whether it predicts what comes out of the MLP that it reads the input of
    notes: tuple[str, ...] = ()  # what is to be told of how it was read, a sentence each


class Reader(Protocol):
    """A module in this folder. Adding a layout is one such module and one entry in READERS."""

    @property
    def CONFIG_NAME(self) -> str:  # noqa: N802
        """The config beside its files."""

    @property
    def LAYOUTS(self) -> str:  # noqa: N802
        """What the reader is called in messages."""

    @property
    def LAYOUT_NAMES(self) -> tuple[str, ...]:  # noqa: N802
        """Names of its layouts for the input `architecture`."""

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the tensors' names (and the config, if need be) are this reader's."""

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Maps the tensors to canonical names; ValueError when the config is missing or does not fit."""
