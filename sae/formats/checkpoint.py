"""What a checkpoint family gets to see, and what it hands back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..activations import Architecture
from ..tensors import TensorFile, TensorInfo
from ..weights import Weight

Header = Mapping[str, TensorInfo]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """An opened weight file and the family's config from beside it, None where there is none."""

    path: Path
    label: str  # names the file in messages
    source: TensorFile
    config: Config | None

    @property
    def header(self) -> Header:
        return self.source.infos

    def fail(self, sentence: str) -> ValueError:
        return ValueError(f"{self.label}: {sentence}")

    def check_tensors(self, wanted: Collection[str], layout: str) -> None:
        """Raises ValueError unless the file holds exactly these tensors."""
        missing = [key for key in wanted if key not in self.header]
        beyond = [key for key in self.header if key not in wanted]
        if missing or beyond:
            fault = f"lacks the tensor {missing[0]!r}" if missing else f"has the unknown tensor {beyond[0]!r}"
            raise self.fail(f"the file {fault}; the {layout} layout has exactly {', '.join(sorted(wanted))}.")

    def check_config_shape(self, config: Config, keys: Mapping[str, int], config_name: str) -> None:
        """Raises ValueError where a number in the config contradicts the tensors."""
        for key, actual in keys.items():
            if key in config and config[key] != actual:
                raise self.fail(
                    f"{config_name} says {key} = {config[key]!r}, but the tensors have {actual}; put the config that "
                    f"belongs to these weights beside them."
                )

    def whole_number(self, config: Config, key: str, config_name: str) -> int:
        """A whole number from the config; its range is checked against the tensors later."""
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(f"{config_name} must give {key} as a whole number, but has {value!r}.")
        return value


@dataclass(frozen=True)
class Reading:
    """A checkpoint in canonical terms."""

    tensors: Mapping[str, Weight]
    architecture: Architecture
    hook: str | None = None  # the place in the network that the config names


class Family(Protocol):
    """A module in this folder. Adding a layout is one such module and one entry in FAMILIES."""

    CONFIG_NAME: str
    LAYOUTS: str  # what the family is called in messages

    def matches(self, header: Header, config: Config | None) -> bool:
        """Whether the tensors' names (and the config, if need be) are this family's."""

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Maps the tensors to canonical names; ValueError when the config is missing or does not fit."""
