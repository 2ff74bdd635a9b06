"""Pipelines and encoders from local folders, as the training of SAEs reads them: diffusers, transformers, Kandinsky."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.small_json import read_json
from .kandinsky import KandinskyHalf, embed_texts, encode_pictures

INDEX, CONFIG = "model_index.json", "config.json"


def needed_package(name: str, what: str) -> Any:
    """A package that only some uses need; ValueError with the line that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ValueError(
            f'{what}: it needs {package}, which is not installed: run "{sys.executable}" -m pip install {package}.'
        ) from error


def load_pipeline(folder: Path, device: str) -> Any:
    """A FLUX pipeline of diffusers, in bfloat16 unless it runs on a processor."""
    diffusers = needed_package("diffusers", "source")
    if not (folder / INDEX).is_file():
        raise ValueError(f"model: {folder} has no {INDEX}; give the folder of a FLUX pipeline in diffusers' layout.")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder), torch_dtype=dtype, local_files_only=True)
    if type(getattr(pipeline, "transformer", None)).__name__ != "FluxTransformer2DModel":
        raise ValueError(f"model: {folder.name} is a {type(pipeline).__name__} without a FLUX transformer; give FLUX.")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def picture_encoder(folder: Path, device: str) -> Callable[[Sequence[Path]], Tensor]:
    """Paths of pictures to embeddings (n, width): Kandinsky's prior, CLIP's projection, what SigLIP and DINO pool."""
    if (folder / INDEX).is_file():
        half = _kandinsky(folder, "image_encoder", device)
        return lambda files: encode_pictures(half, opened(files)).image_embeds
    transformers = needed_package("transformers", "source")
    kind, processor = _model_type(folder), _read(transformers.AutoImageProcessor, folder)
    if kind.startswith("clip"):
        reader, field = transformers.CLIPVisionModelWithProjection, "image_embeds"
    elif kind.startswith("siglip"):
        reader, field = transformers.SiglipVisionModel, "pooler_output"
    else:
        reader, field = transformers.AutoModel, "pooler_output"
    model = _read(reader, folder).eval().to(device)

    def encode(files: Sequence[Path]) -> Tensor:
        pixels = processor(opened(files), return_tensors="pt").pixel_values
        with torch.no_grad():
            return _field(model(pixels.to(device)), field, kind)

    return encode


def text_encoder(folder: Path, device: str) -> Callable[[Sequence[str]], Tensor]:
    """Texts to embeddings (n, width): of Kandinsky's prior, or CLIP's projection."""
    if (folder / INDEX).is_file():
        half = _kandinsky(folder, "text_encoder", device)
        return lambda texts: embed_texts(half, texts)
    transformers = needed_package("transformers", "source")
    kind, tokenizer = _model_type(folder), _read(transformers.AutoTokenizer, folder)
    if not kind.startswith("clip"):
        raise ValueError(f"model: {folder.name} is a {kind}; give the folder of a CLIP text encoder, or of a prior.")
    model = _read(transformers.CLIPTextModelWithProjection, folder).eval().to(device)

    def encode(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
        with torch.no_grad():
            return _field(model(**tokens), "text_embeds", kind)

    return encode


def _kandinsky(folder: Path, part: str, device: str) -> KandinskyHalf:
    for package in ("diffusers", "transformers"):
        needed_package(package, "source")
    half = KandinskyHalf(folder, "prior")
    half.part(part).to(device)
    return half


def _model_type(folder: Path) -> str:
    return str(read_json(folder / CONFIG, "config of an encoder", f"model: {folder.name}").get("model_type", "unknown"))


def _read(reader: Any, folder: Path) -> Any:
    try:
        return reader.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model: {folder.name} has no {reader.__name__} that transformers can read; give an encoder's whole folder."
        ) from error


def _field(output: Any, name: str, kind: str) -> Tensor:
    value = getattr(output, name, None)
    if value is None:
        raise ValueError(f"model: a {kind} has no {name}; give CLIP, SigLIP, DINO or a prior of Kandinsky 2.2.")
    return value.float().cpu()


def opened(files: Sequence[Path]) -> list[Any]:
    """The pictures in RGB; ValueError names one that cannot be read."""
    from PIL import Image

    def read(file: Path) -> Any:
        try:
            with Image.open(file) as picture:
                return picture.convert("RGB")
        except OSError as error:
            raise ValueError(f"data: {file.name} is no picture that can be read; remove it.") from error

    return [read(file) for file in files]
