"""Kandinsky 2.2 by diffusers: its two halves from local folders, and what each of them computes.

The prior makes a CLIP image embedding of a text; the decoder draws a picture and is told nothing but that embedding.
diffusers is imported when a half is used, never before: the rest of the pack works without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..embeddings.spot import tensor_name

INDEX = "model_index.json"
Half = Literal["prior", "decoder"]
PIPELINES: dict[Half, tuple[str, ...]] = {
    "prior": ("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline"),
    "decoder": ("KandinskyV22Pipeline", "KandinskyV22Img2ImgPipeline"),
}
# part -> the library and the class that reads it
PARTS: dict[Half, dict[str, tuple[str, str]]] = {
    "prior": {
        "prior": ("diffusers", "PriorTransformer"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "image_processor": ("transformers", "CLIPImageProcessor"),
        "scheduler": ("diffusers", "UnCLIPScheduler"),
    },
    "decoder": {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "movq": ("diffusers", "VQModel"),
        "scheduler": ("diffusers", "DDPMScheduler"),
    },
}
MODULES = ("prior", "text_encoder", "image_encoder", "unet", "movq")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "UnCLIPScheduler")  # what diffusers' own pipelines are used with
CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")

OnStep = Callable[[int, int, Tensor], None]  # steps done, of how many, latents


def import_library(name: str) -> Any:
    """diffusers or transformers; ImportError with the line that installs it."""
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(
            f'Kandinsky 2.2 needs {name}, which is not installed: run "{sys.executable}" -m pip install {name}, then '
            "restart ComfyUI. Everything else of this pack works without it."
        ) from error


def check_folder(folder: Path, half: Half) -> str:
    """The scheduler's class in a folder that holds this half, complete; ValueError says what is wrong otherwise."""
    what = f"{half}: {folder.name}"
    wanted = f"a diffusers folder of Kandinsky 2.2's {half}, such as kandinsky-2-2-{half}"
    if not (folder / INDEX).is_file():
        raise ValueError(f"{what} has no {INDEX}; choose {wanted}.")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        name = index.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{what} has an {INDEX} that cannot be read; choose {wanted}.") from error
    if name not in PIPELINES[half]:
        raise ValueError(f"{what} holds a {name}; choose {wanted}.")
    missing = [part for part in PARTS[half] if not any((folder / part / config).is_file() for config in CONFIGS)]
    unweighted = [part for part in PARTS[half] if part in MODULES and part not in missing]
    missing += [part for part in unweighted if not weight_files(folder / part)]
    if missing:
        raise ValueError(f"{what} is incomplete, it lacks {', '.join(missing)}; download it again.")
    entry = index.get("scheduler")
    scheduler = entry[1] if isinstance(entry, list) and len(entry) == 2 else PARTS[half]["scheduler"][1]
    if scheduler not in SCHEDULERS:
        raise ValueError(f"{what} asks for the scheduler {scheduler}; use one of {', '.join(SCHEDULERS)}.")
    return scheduler


def weight_files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin") and file.is_file()]


@dataclass
class KandinskyHalf:
    """One half in a local folder; its parts are read when they are first used. Raises as `check_folder` does."""

    folder: Path
    half: Half
    dtype: torch.dtype = torch.float32
    handles: dict[str, Any] = field(default_factory=dict, repr=False)  # what a host keeps for each module
    _parts: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.scheduler_class = check_folder(self.folder, self.half)

    def part(self, name: str) -> Any:
        if name not in self._parts:
            self._parts[name] = self._read(name)
        return self._parts[name]

    def modules(self, *names: str) -> list[nn.Module]:
        return [self.part(name) for name in names]

    def _read(self, name: str) -> Any:
        library, class_name = PARTS[self.half][name]
        read = getattr(import_library(library), self.scheduler_class if name == "scheduler" else class_name)
        options: dict[str, Any] = {"subfolder": name, "local_files_only": True}
        if name not in MODULES:
            return read.from_pretrained(str(self.folder), **options)
        files = weight_files(self.folder / name)
        if files and all(".fp16." in file for file in files):
            options["variant"] = "fp16"
        options["dtype" if library == "transformers" else "torch_dtype"] = self.dtype
        return read.from_pretrained(str(self.folder), **options).eval().requires_grad_(False)


class PriorResult(NamedTuple):
    """Image embeddings (texts, width) float32, and those of what the decoder is to keep away from."""

    embeds: Tensor
    negative: Tensor


def run_prior(
    half: KandinskyHalf,
    texts: Sequence[str],
    negative: str,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    on_step: OnStep,
) -> PriorResult:
    """What KandinskyV22PriorPipeline gives, each text with its own seed.

    Without negative text the negative is the embedding of a blank picture.
    """
    if negative.strip() and len(seeds) > 1:
        seeds = [*seeds, *seeds]  # the pipeline draws the negative's embedding in the same batch
    if steps < 2:
        raise ValueError(f"steps: {steps} came, but the prior's schedule needs 2 or more.")
    diffusers = import_library("diffusers")
    names = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")
    pipeline = diffusers.KandinskyV22PriorPipeline(**{name: half.part(name) for name in names})
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        list(texts),
        negative_prompt=[negative] * len(texts) if negative.strip() else None,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=_generators(seeds),
        callback_on_step_end=_told(on_step),
    )
    return PriorResult(result.image_embeds.float(), result.negative_image_embeds.float())


def _generators(seeds: Sequence[int]) -> torch.Generator | list[torch.Generator]:
    """One for all rows, as diffusers' users have it, or one for each."""
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made[0] if len(made) == 1 else made


def _told(on_step: OnStep) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps, tensors["latents"])
        return {}

    return callback


class EncodedPictures(NamedTuple):
    """What the prior's CLIP sees in pictures, float32; `blank` is what Kandinsky takes for "no picture"."""

    image_embeds: Tensor  # (batch, width)
    last_hidden_state: Tensor  # (batch, tokens, hidden)
    penultimate_hidden_states: Tensor  # (batch, tokens, hidden)
    blank: Tensor  # (1, width)


def encode_pictures(half: KandinskyHalf, pictures: Sequence[Any]) -> EncodedPictures:
    """Embeds PIL pictures as KandinskyV22PriorPipeline.interpolate does."""
    import_library("diffusers")
    encoder, processor = half.part("image_encoder"), half.part("image_processor")
    device = next(encoder.parameters()).device
    pixels = processor(list(pictures), return_tensors="pt").pixel_values.to(device, encoder.dtype)
    with torch.no_grad():
        seen = encoder(pixels, output_hidden_states=True)
        blank = encoder(torch.zeros_like(pixels[:1])).image_embeds
    return EncodedPictures(
        seen.image_embeds.float(), seen.last_hidden_state.float(), seen.hidden_states[-2].float(), blank.float()
    )


def embed_texts(half: KandinskyHalf, texts: Sequence[str]) -> Tensor:
    """The projected embeddings (texts, width) float32 that the prior's CLIP gives to texts, cut where they are long."""
    tokenizer, encoder = half.part("tokenizer"), half.part("text_encoder")
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    device = next(encoder.parameters()).device
    with torch.no_grad():
        seen = encoder(tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device))
    return seen.text_embeds.float().cpu()


@dataclass(frozen=True)
class Window:
    """The part of a run in which the decoder sees another embedding (batch, width)."""

    embeds: Tensor
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent, end_percent: {self.start_percent:g} and {self.end_percent:g} came; give 0 to 1, the "
                "start first."
            )

    def open_at(self, timestep: float, last: int) -> bool:
        """Whether a step at this timestep (`last` is pure noise) lies in it; percent counts as ComfyUI does."""
        percent = 1 - timestep / last
        return self.start_percent <= percent + 1e-6 and (percent + 1e-6 < self.end_percent or self.end_percent == 1)


def check_size(half: KandinskyHalf, width: int, height: int) -> None:
    """ValueError for a side that the decoder would round up."""
    cell = movq_scale(half) ** 2
    for name, side in (("width", width), ("height", height)):
        if side < cell or side % cell:
            lower = max(cell, side // cell * cell)
            raise ValueError(
                f"{name}: {side} is no multiple of {cell}, which this decoder needs; use {lower} or {lower + cell}."
            )


def movq_scale(half: KandinskyHalf) -> int:
    """Pixels a latent cell covers, each way."""
    return 2 ** (len(half.part("movq").config.block_out_channels) - 1)


def check_embeds(half: KandinskyHalf, name: str, embeds: Tensor | None) -> Tensor:
    """The embedding as the decoder takes it, (batch, width); ValueError for one of another encoder."""
    width = half.part("unet").config.encoder_hid_dim
    wanted = tensor_name("image_embeds", width)
    if embeds is None or embeds.ndim != 2:
        raise ValueError(f"{name}: it has no image_embeds; this decoder needs {wanted}.")
    if embeds.shape[-1] != width:
        raise ValueError(
            f"{name}: it has {tensor_name('image_embeds', embeds.shape[-1])}, but this decoder needs {wanted}."
        )
    if not embeds.shape[0] or not torch.isfinite(embeds).all():
        raise ValueError(f"{name}: its image_embeds are empty, NaN or infinite; encode again.")
    return embeds


def draw(
    half: KandinskyHalf, embeds: Tensor, negative: Tensor, size: tuple[int, int], steps: int, guidance: float,
    seeds: Sequence[int], on_step: OnStep, window: Window | None = None,
) -> Tensor:  # fmt: skip
    """Pictures (batch, height, width, 3) in 0..1, as KandinskyV22Pipeline draws them; size is (width, height).

    One picture for each embedding (batch, width); a negative of one row and one seed serve all. In `window` the decoder
    sees other embeddings, which diffusers' step callback puts in for the next step.
    """
    unet, movq, scheduler = (half.part(name) for name in ("unet", "movq", "scheduler"))
    pipeline = import_library("diffusers").KandinskyV22Pipeline(unet, scheduler, movq)
    pipeline.set_progress_bar_config(disable=True)
    device, batch = next(unet.parameters()).device, embeds.shape[0]
    rows = {"embed": embeds, "negative": negative, "steered": embeds if window is None else window.embeds}
    for name, tensor in rows.items():
        if tensor.shape[0] not in (1, batch):
            raise ValueError(f"{name}: it has {tensor.shape[0]} rows for {batch} pictures; give one or {batch}.")
    plain, below, other = (tensor.to(device, unet.dtype).expand(batch, -1) for tensor in rows.values())

    def at(step: int) -> Tensor:
        last = scheduler.config.num_train_timesteps - 1
        inside = window is not None and window.open_at(float(scheduler.timesteps[step]), last)
        return other if inside else plain

    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps, tensors["latents"])
        if window is None or step + 1 == pipeline.num_timesteps:
            return {}
        following = at(step + 1)
        return {"image_embeds": torch.cat([below, following]) if guidance > 1 else following}

    scheduler.set_timesteps(steps, device=device)
    result = pipeline(
        image_embeds=at(0),
        negative_image_embeds=below,
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=_generators(seeds),
        output_type="np",
        callback_on_step_end=callback,
    )
    return torch.from_numpy(result.images)
