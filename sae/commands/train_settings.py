"""The values of `python -m sae train`: each a flag, and a line in a TOML file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..training.config import TopKConfig
from ..training.run import BUFFER_TOKENS

OWN, SAE_LENS = "own", "sae-lens"
TRAINERS = (OWN, SAE_LENS)
SOURCES = ("shapes", "diffusers", "pictures", "texts", "shards")
OWN_CONFIG = {"d_in", "d_sae"}  # of TopKConfig: told by the source, and called features here
_SAME = {field.name: field.default for field in fields(TopKConfig) if field.default is not MISSING}


def said(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Paths are from where the command is run."""

    out: str = said("", "folder that gets one folder for each site, the checkpoint and the log")
    source: str = said("shapes", f"where tokens come from: {', '.join(SOURCES)}")
    sites: tuple[str, ...] = said(
        ("transformer_blocks.0:text",), "places in the model, LOCATION:STREAM, trained side by side from one forward"
    )
    model: str = said("", "folder of a FLUX pipeline (diffusers) or of an encoder (pictures, texts)")
    prompts: str = said("", "text file with a prompt a line (diffusers, texts)")
    data: str = said("", "folder of pictures, or of shards")
    steps_a_picture: int = said(8, "sampling steps of a picture (diffusers)")
    side: int = said(1024, "width and height of a picture in pixels (diffusers)")
    features: int = said(8192, "features of the SAE")
    k: int = said(32, "active features of a token, on average for batchtopk and matryoshka")
    steps: int = said(10_000, "steps of training")
    batch_tokens: int = said(_SAME["batch_tokens"], "tokens a step")
    architecture: str = said(
        _SAME["architecture"],
        "topk, batchtopk or matryoshka; with the trainer sae-lens standard, jumprelu, gated or matching_pursuit",
    )
    trainer: str = said(OWN, "own, or sae-lens where that is installed")
    sparsity: float = said(1.0, "weight of the loss that keeps codes sparse (trainer sae-lens)")
    widths: tuple[int, ...] = said(
        (), "first features of a matryoshka SAE that have to do alone; by itself 1/16 to 1/2"
    )
    rate: float = said(_SAME["rate"], "learning rate")
    warmup_steps: int = said(_SAME["warmup_steps"], "steps in which the rate rises")
    decay_share: float = said(_SAME["decay_share"], "last part of the steps, in which it falls to 0")
    clip_norm: float = said(_SAME["clip_norm"], "largest norm of the gradient")
    aux_k: int = said(0, "dead features in the auxiliary loss; half of the width when 0")
    aux_weight: float = said(_SAME["aux_weight"], "weight of the auxiliary loss")
    dead_tokens: int = said(_SAME["dead_tokens"], "a feature is dead after so many tokens without firing")
    bias_start: str = said(_SAME["bias_start"], "median or mean of the first batch")
    average: float = said(_SAME["average"], "decay of a running average of the weights, such as 0.999; 0 for none")
    products: str = said(_SAME["products"], "type of the encoder's product: auto, float32 or bfloat16")
    seed: int = said(0, "of weights, order and noise")
    device: str = said("cpu", "where the SAE is trained and the model runs")
    share: float = said(1.0, "share of the tokens of each call of the model that are kept")
    tokens: int = said(
        0, "tokens of each site that are collected, and then given again and again; 0 for new ones always"
    )
    buffer_tokens: int = said(BUFFER_TOKENS, "tokens of each site in memory, to be mixed")
    held_out_tokens: int = said(20_000, "tokens that training never sees, to measure the result on")
    tried_features: int = said(100, "features whose steering is measured on the result, where the model is at hand")
    keep: str = said("", "folder for shards of the tokens, to train on again with source = shards")
    keep_tokens: int = said(1_000_000, "tokens of each site to keep")
    save_every: int = said(500, "steps between two checkpoints")
    report_every: int = said(50, "steps between two lines of the log")
    log: str = said("", "csv or tensorboard: writes the progress beside the result")
    dtype: str = said("float32", "type of the written weights: float32, float16 or bfloat16")

    def at(self, *sites: str) -> Settings:
        """The same at other places."""
        return replace(self, sites=sites)

    def config(self, d_in: int) -> TopKConfig:
        """The configuration of one SAE. Raises ValueError where it cannot be trained."""
        same = {f.name: getattr(self, f.name) for f in fields(TopKConfig) if f.name not in OWN_CONFIG}
        return TopKConfig(**same | {"d_in": d_in, "d_sae": self.features, "aux_k": self.aux_k or None})


_FIELDS: dict[str, Field[Any]] = {one.name: one for one in fields(Settings)}


def add_flags(parser: ArgumentParser, names: tuple[str, ...] = tuple(_FIELDS)) -> None:
    """A flag for each value; one that is not given leaves the file's value, or the default, as it is."""
    for name in names:
        default: Any = _FIELDS[name].default
        text = _FIELDS[name].metadata["help"]
        several = isinstance(default, tuple)
        kind = type(default[0]) if several and default else int if several else type(default)
        told = " ".join(map(str, default)) if several else default
        shown = f"{text} ({told})" if told not in ("", None) else text
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            nargs="+" if several else None,
            default=None,
            help=shown.replace("%", "%%"),
            metavar=kind.__name__.upper(),
        )


def read_settings(given: Namespace, config: Path | None = None) -> Settings:
    """Flags over the file's values over the defaults. ValueError names the value that is wrong."""
    values = {} if config is None else _checked(_read_toml(config), config.name)
    for name in _FIELDS:
        flag = getattr(given, name, None)
        if flag is not None:
            values[name] = tuple(flag) if isinstance(flag, list) else flag
    return Settings(**values)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise ValueError(
            f"config: reading {path.name} needs Python 3.11 or newer; give its values as flags instead, or run another "
            "Python."
        ) from error
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config: {path} cannot be read ({error.strerror}); give a TOML file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"config: {path.name} is no valid TOML ({error}).") from error


def _checked(values: Mapping[str, Any], label: str) -> dict[str, Any]:
    checked = {}
    for name, value in values.items():
        if name not in _FIELDS:
            near = get_close_matches(name, _FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_FIELDS)}."
            raise ValueError(f"config: {label} has {name!r}, which is no value of training; {hint}")
        checked[name] = _of_kind(name, value, label)
    return checked


def _of_kind(name: str, value: Any, label: str) -> Any:
    default = _FIELDS[name].default
    if isinstance(default, tuple):
        kind = type(default[0]) if default else int
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return tuple(value)
        raise ValueError(f"config: {label} has {name} = {value!r}, but a list of {kind.__name__} is needed.")
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"config: {label} has {name} = {value!r}, but {type(default).__name__} is needed.")
    return value
