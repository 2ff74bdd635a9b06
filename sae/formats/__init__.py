"""Checkpoint layouts: one module each, found by the tensors' names and the config beside the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.owner import Origin
from ..dictionary.weights import Weights
from ..files.quote import AllowedFolders, quoted, shown
from ..places.site import site_from_name
from . import (
    dictionary_learning,
    diffract,
    foreign_directions,
    gemma_scope,
    gytis,
    hf_topk,
    jayhsu,
    llama_scope,
    lucas,
    openai,
    overcomplete,
    own,
    prisma,
    qwen_scope,
    reny,
    saedit,
    saelens,
    saev,
    sdxl_unbox,
    sparsify,
)
from .beside import read_statistics_beside, with_statistics
from .checkpoint import Checkpoint, Config, Header, Reader
from .known import known_site
from .named_tensors import Container, open_container, read_config, stem_of, weight_file
from .provenance import trained_on

__all__ = ["AUTO", "LAYOUT_NAMES", "READERS", "load", "with_statistics"]

# Where several match, the first one is taken: those that a config or a rare tensor marks come first.
READERS: tuple[Reader, ...] = (
    own, foreign_directions, saev, gytis, overcomplete, diffract, llama_scope, hf_topk, openai, jayhsu, sdxl_unbox,
    lucas, reny, sparsify, saedit, prisma, dictionary_learning, gemma_scope, qwen_scope, saelens,
)  # fmt: skip
LAYOUT_NAMES: tuple[str, ...] = tuple(name for reader in READERS for name in reader.LAYOUT_NAMES)
AUTO = "auto"

_ASKED = re.compile(r"(?P<layout>[a-z0-9_]+)(?::(?P<k>[0-9]{1,9}))?")
_TRANSCODER_TENSORS = ("W_skip", "b_dec_out")
_TRANSCODER_FLAGS = ("is_transcoder", "transcode", "skip_connection")
_LORA_MARKS = ("lora_", ".lora.", "lokr_", "hada_")


def load(
    path: Path, name: str | None = None, architecture: str = AUTO, within: Sequence[Path] = ()
) -> SparseAutoencoder:
    """Opens the SAE in a weight file or its folder; config and statistics are read from beside it, weights when used.

    `name` is the file's path inside models/sae, with or without the suffix; its folders may tell the site.
    `architecture` is one of LAYOUT_NAMES where the files leave the layout open, with `:k` where they do not tell k.
    With `within`, no file whose real place is outside these folders is opened. Raises ValueError, one sentence naming
    the file, for anything that is not a sound SAE of a known layout.
    """
    path = weight_file(path)
    own_name = (name or f"{path.parent.name}/{path.name}").removesuffix(path.suffix)
    label = shown(own_name + path.suffix)  # as messages call the file
    own_name = own_name.removesuffix(path.stem) + stem_of(path) if own_name.endswith(path.stem) else own_name
    allowed = AllowedFolders(within)
    container = open_container(path, label, allowed)
    names = {reader.CONFIG_NAME for reader in READERS}
    configs = {file: container.configs.get(file) or _read_config(path, file, label, allowed) for file in names}
    _refuse_others(label, container.source.infos, [*configs.values(), _inner_config(container)])
    reader, checkpoint = _find_reader(path, label, container, configs, architecture)
    reading = reader.read(checkpoint)
    named = site_from_name(reading.hook) if reading.hook else None
    site = reading.site or named or site_from_name(own_name) or known_site(own_name)
    sae = SparseAutoencoder(
        Weights(reading.tensors, reading.architecture),
        name=shown(own_name),
        site=site,
        modulation=reading.modulation,
        origin=Origin(
            reading.layout,
            container.files,
            reading.config or checkpoint.config or {},
            reading.hook,
            tuple(within),
            reading.notes,
        ),
    )
    sae.contrast, sae.transcoder = reading.contrast, reading.transcoder
    sae.trained_on = trained_on(sae)
    sae.statistics = read_statistics_beside(path, sae, allowed)
    return sae


def _read_config(path: Path, config_name: str, label: str, allowed: AllowedFolders) -> Config | None:
    """`<stem>.json` where several SAEs share a folder, else the reader's own name for it."""
    own = path.with_name(f"{stem_of(path)}.json")
    above = path.parent.parent / config_name  # dictionary_learning keeps intermediate SAEs one folder down
    candidates = [own, path.with_name(config_name), *([above] if path.parent.name == "checkpoints" else [])]
    found = next((file for file in candidates if file.is_file()), candidates[1])
    return read_config(found, label, allowed)


def _inner_config(container: Container) -> Config | None:
    inside = container.extras.get("config")
    return inside if isinstance(inside, Mapping) else None


def _find_reader(
    path: Path, label: str, container: Container, configs: Mapping[str, Config | None], architecture: str
) -> tuple[Reader, Checkpoint]:
    asked, k = _parse_asked(architecture)
    for reader in READERS:
        checkpoint = Checkpoint(
            path, label, container.source, configs[reader.CONFIG_NAME], container.metadata, container.extras,
            container.wrapper, asked, k,
        )  # fmt: skip
        if asked in reader.LAYOUT_NAMES or (asked is None and reader.matches(checkpoint)):
            return reader, checkpoint
        if reader is llama_scope and reader.matches(checkpoint):
            raise ValueError(
                f"{label}: architecture: {asked} was given, but {llama_scope.CONFIG_NAME} beside it is of Llama Scope; "
                f"write auto."
            )
    found = ", ".join(shown(key, 30) for key in sorted(container.source.infos)[:3]) or "none"
    layouts = ", ".join(reader.LAYOUTS for reader in READERS)
    raise ValueError(f"{label}: its tensors ({found}, ...) are of no SAE layout that is read; known are {layouts}.")


def _parse_asked(architecture: str) -> tuple[str | None, int | None]:
    if architecture.strip() in ("", AUTO):
        return None, None
    match = _ASKED.fullmatch(architecture.strip())
    if match is None or match["layout"] not in LAYOUT_NAMES:
        raise ValueError(
            f"architecture: {quoted(architecture)} is not a layout; use auto or one of {', '.join(LAYOUT_NAMES)}, "
            f"with :k "
            f"where the file does not tell k, as in overcomplete_topk:32."
        )
    return match["layout"], None if match["k"] is None else int(match["k"])


def _refuse_others(label: str, header: Header, configs: Sequence[Config | None]) -> None:
    """Files that hold something else than an SAE."""
    if any(mark in key for key in header for mark in _LORA_MARKS):
        raise ValueError(f"{label}: this is a LoRA, not an SAE; load it with a LoRA loader and give an SAE here.")
    crosscoder = any("crosscoder" in text.lower() for text in (*_kinds(configs), *header))
    if crosscoder or any(key in header and len(header[key].shape) == 3 for key in ("W_enc", "W_dec")):
        raise ValueError(
            f"{label}: this is a crosscoder, which reads several layers or models at once; only SAEs, and transcoders "
            f"of one MLP, are accepted."
        )
    transcoder = any(key in header for key in _TRANSCODER_TENSORS)
    for config in filter(None, configs):
        widths = [config.get(key) for key in ("d_in", "d_out")]
        transcoder |= any(config.get(flag) is True for flag in _TRANSCODER_FLAGS)
        transcoder |= all(isinstance(width, int) for width in widths) and widths[0] != widths[1]
    transcoder |= any("transcoder" in text for text in _kinds(configs))
    if transcoder and not set(sparsify.TENSORS) <= set(header):  # whose transcoders are read
        raise ValueError(
            f"{label}: this is a transcoder, which predicts another layer's activations, of a layout that is not read; "
            f"accepted are SAEs, which reconstruct their own input, and the transcoders of DifFRACT and sparsify."
        )


def _kinds(configs: Sequence[Config | None]) -> list[str]:
    """What configs call their class."""
    words = ("architecture", "sae_type", "model_type", "type", "dict_class")
    places = [config for config in configs if config]
    places += [inner for config in places if isinstance(inner := config.get("trainer"), Mapping)]
    return [text for place in places for word in words if isinstance(text := place.get(word), str)]
