"""Public SAEs of image models and of their text encoders: where they are, what they were trained on, where they belong.

Read off the projects' own pages and code. None of the repositories below that lacks a licence grants one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..places.site import Site, site_from_name

HUB = "https://huggingface.co"
FLUX = "FLUX.1-schnell"


@dataclass(frozen=True)
class KnownCheckpoint:
    """One SAE. `name` is what the command line calls it, and the folder below models/sae that it goes into."""

    name: str
    repository: str  # on the Hugging Face Hub
    file: str | None  # path of the weight file in it; None where it is not known to us
    config: str | None  # path of its config, None where it has none
    model: str
    location: str  # in a model of ours, or words for another one
    stream: str | None  # image, text or joint; None of another model
    d_in: int
    d_sae: int
    layout: str
    licence: str | None = None
    note: str = ""
    embedding: tuple[str, str] | None = None  # tensor and tokens that it reads, for SAEs of embeddings

    @property
    def page(self) -> str:
        return f"{HUB}/{self.repository}"

    @property
    def url(self) -> str | None:
        """Where the weight file can be downloaded."""
        return None if self.file is None else f"{self.page}/resolve/main/{self.file}"

    @property
    def target(self) -> str | None:
        """The weight file's path below models/sae."""
        return None if self.file is None else f"{self.name}/{self.file}"

    @property
    def site(self) -> Site | None:
        """Where it belongs, for SAEs of blocks."""
        return site_from_name(f"{self.location}-{self.stream}") if self.stream else None


def _reny(
    name: str,
    model: str,
    location: str,
    stream: str | None,
    d_in: int,
    d_sae: int,
    note: str = "",
    embedding: tuple[str, str] | None = None,
) -> KnownCheckpoint:
    return KnownCheckpoint(
        name,
        f"viccpoes/{name}",
        "model.safetensors",
        "config.json",
        model,
        location,
        stream,
        d_in,
        d_sae,
        "RE-N-Y TopK",
        None,
        note,
        embedding,
    )


def _reny_table() -> Iterator[KnownCheckpoint]:
    for block in (0, 18):
        for number, stream in enumerate(("text", "image")):
            location = f"transformer_blocks.{block}"
            yield _reny(f"cc3m-{location}-{number}", FLUX, location, stream, 3072, 49_152, "k 16, 256×256, 1 step")
    for block, note in ((9, ""), (37, "; the last block, where little is left to change")):
        location = f"single_transformer_blocks.{block}"
        yield _reny(f"cc3m-{location}", FLUX, location, "joint", 3072, 49_152, f"k 16, 256×256, 1 step{note}")
    for k in (4, 16, 64, 128):
        vision, text = (f"cc3m-{side}-topk-lr-3e-4-k-{k}-expansion-4" for side in ("vision", "text"))
        cls, pooled = ("penultimate_hidden_states", "0"), ("pooled_output", "all")
        yield _reny(vision, "CLIP ViT-L/14", "vision, hidden_states[-2], CLS token", None, 1024, 4096, f"k {k}", cls)
        yield _reny(
            text, "CLIP ViT-L/14", "text, pooler_output", None, 768, 3072, f"k {k}; FLUX hardly reacts to it", pooled
        )


def _unbox_table() -> Iterator[KnownCheckpoint]:
    blocks = (
        "down_blocks.2.attentions.1",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    )
    for block in blocks:
        folder = f"unet.{block}_k10_hidden5120_auxk256_bs4096_lr0.0001/final"
        yield KnownCheckpoint(
            f"sdxl-unbox-{block}", "surokpro2/sdxl-saes", f"{folder}/state_dict.pth", f"{folder}/config.json",
            "SDXL-Turbo", f"{block}.update", "image", 1280, 5120, "sdxl-unbox", None,
            "k 10; its makers add 10 times the mean",
        )  # fmt: skip


def _diffract_table() -> Iterator[KnownCheckpoint]:
    for block in (6, 12, 18):
        for short, stream, point in (("img", "image", "ff"), ("txt", "text", "ff_context")):
            file = f"sae_{short}_{block}"
            yield KnownCheckpoint(
                f"diffract-{file}", "Artalmaz31/DifFRACT", f"temporal-aware-saes/{file}.pt", None, FLUX,
                f"transformer_blocks.{block}.{point}", stream, 3072, 49_152, "DifFRACT", None,
                "depends on the noise level",
            )  # fmt: skip
    for block in (*range(16), 18):
        for short, stream, point in (("img", "image", "ff"), ("txt", "text", "ff_context")):
            file = f"transcoder_{short}_{block}"
            yield KnownCheckpoint(
                f"diffract-{file}", "Artalmaz31/DifFRACT", f"temporal-aware-transcoders/{file}.pt", None, FLUX,
                f"transformer_blocks.{block}.{point}.transcoder", stream, 3072, 49_152, "DifFRACT transcoder", None,
                "MLP's input to its output; depends on the noise level",
            )  # fmt: skip


def _saeuron_table() -> Iterator[KnownCheckpoint]:
    """Trained on 100 time steps of both sides of guidance."""
    for number, what in ((1, "objects"), (2, "styles")):
        block = f"up_blocks.1.attentions.{number}"
        yield KnownCheckpoint(
            f"saeuron-{block}", "bcywinski/SAeUron", f"unet.{block}/sae.safetensors", f"unet.{block}/cfg.json",
            "Stable Diffusion 1.4 (UnlearnCanvas)", block, "image", 1280, 20_480, "SAeUron", None,
            f"k 32; of {what}; its makers unlearn by negative multiples",
        )  # fmt: skip


_TOKENS = ("token_embeddings", "all")


def _klein_table() -> Iterator[KnownCheckpoint]:
    """Of Qwen3-8B, whose hidden states 9, 18 and 27 FLUX.2 Klein 9B reads."""
    encoder = "Qwen3-8B (FLUX.2 Klein 9B)"
    for block in (8, 17, 26):
        for k in (50, 100):
            yield KnownCheckpoint(
                f"qwen-scope-qwen3-8b-layer{block}-L0_{k}", f"Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_{k}",
                f"layer{block}.sae.pt", None, encoder, f"behind block {block}: hidden state {block + 1}", None, 4096,
                65_536, "Qwen-Scope", "Qwen's own", f"k {k}; of the base model, where Klein reads the chat model",
                _TOKENS,
            )  # fmt: skip
    for block in (9, 18, 27):
        folder = f"saes_Qwen_Qwen3-8B_batch_top_k/resid_post_layer_{block}/trainer_2"
        yield KnownCheckpoint(
            f"qwen3-8b-saes-layer_{block}", "adamkarvonen/qwen3-8b-saes", f"{folder}/ae.pt", f"{folder}/config.json",
            encoder, f"behind block {block}: hidden state {block + 1}", None, 4096, 65_536, "dictionary_learning", None,
            f"k 80; Klein reads {block}, one before: not measured; tokens above ten times the median length left out",
            _TOKENS,
        )  # fmt: skip


_SEE = "see its page"


def _encoders_table() -> Iterator[KnownCheckpoint]:
    """Of the text encoders of other generators; how near each is, the steering node says."""
    vision = "Qwen3-VL-8B (Ideogram 4)"
    for block in (9, 18, 27):  # hidden states 10, 19 and 28
        yield KnownCheckpoint(
            f"ideogram-qwen-scope-layer{block}-L0_50", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50", f"layer{block}.sae.pt",
            None, vision, f"behind block {block}: hidden state {block + 1}", None, 4096, 65_536, "Qwen-Scope",
            "Qwen's own", "k 50; of the base text model, where Ideogram reads the VL one; others beside it", _TOKENS,
        )  # fmt: skip
    rows = (
        ("llama-3-8b-32x-layers.29", "EleutherAI/sae-llama-3-8b-32x", "layers.29/sae.safetensors", "layers.29/cfg.json",
         "Llama 3 8B (HunyuanVideo)", "behind block 29: hidden state 30", 4096, 131_072, "sparsify",
         "of the base model, where HunyuanVideo reads LLaVA's"),
        ("llama-scope-L15R-8x", "fnlp/Llama3_1-8B-Base-LXR-8x",
         "Llama3_1-8B-Base-L15R-8x/checkpoints/final.safetensors", "Llama3_1-8B-Base-L15R-8x/hyperparams.json",
         "Llama 3.1 8B Instruct (HiDream I1)", "behind block 15: hidden state 16", 4096, 32_768, "Llama Scope",
         "of the base model, where HiDream reads the chat model; every block is there"),
        ("saes-llama-3.1-8b-instruct", "andyrdt/saes-llama-3.1-8b-instruct", None, None,
         "Llama 3.1 8B Instruct (HiDream I1)", "behind several blocks", 4096, 131_072, "dictionary_learning", ""),
        ("qwen4b-headfinal", "mjkmain/Qwen4B_headfinal_sae", None, None, "Qwen3-VL-4B (FLUX 3 Klein)",
         "hidden states 8, 16, 20, 24, 28, 32", 2560, 40_960, "not looked at",
         "of the base text model, where FLUX 3 Klein and Krea 2 read the VL one"),
        ("gemma-scope-2-4b", "google/gemma-scope-2-4b-pt", None, None, "Gemma 3 4B (NewBie)",
         "behind block 32: hidden state 33", 2560, 16_384, "Gemma Scope 2", "of the base model"),
        ("qwen3-geospatial", "dc-321/qwen3-geospatial-sae-weights", None, None, "Qwen3", "as its files name it", 2560,
         20_480, "SAELens in a zip", "widths as its files have them"),
    )  # fmt: skip
    for name, repository, file, config, model, place, d_in, d_sae, layout, note in rows:
        yield KnownCheckpoint(
            name, repository, file, config, model, place, None, d_in, d_sae, layout, _SEE, note,
            _TOKENS if file else None,
        )  # fmt: skip
    yield KnownCheckpoint(
        "clip-topk-sae", "Mayfull/CLIP_TopKSAE", None, None, "CLIP", "image and text embeddings", None, 512, 4096,
        "topk_sae", _SEE, "widths as its config has them",
    )  # fmt: skip


KNOWN: tuple[KnownCheckpoint, ...] = (
    *_reny_table(),
    *_diffract_table(),
    *_unbox_table(),
    KnownCheckpoint(
        "clip-sae-128", "gytdau/clip-sae-128", "sparse_autoencoder_128.pth", None, "Kandinsky 2.2 (CLIP ViT-bigG/14)",
        "image_embeds, not normalised", None, 1280, 163_840, "Gytis' CLIP SAE", None, "about 58,000 features are alive",
        ("image_embeds", "all"),
    ),
    KnownCheckpoint(
        "t5-matryoshka-top-300", "Ronenk94/T5_matryoshka_sae", "matryoshka_sae_top_300/pytorch_model.bin",
        "matryoshka_sae_top_300/config.json", "T5-XXL (FLUX's text encoder)", "token embeddings", None, 4096, 65_536,
        "SAEdit", None, "", _TOKENS,
    ),
    *_klein_table(),
    *_encoders_table(),
    KnownCheckpoint(
        "gemma-scope-2b-layer_24", "google/gemma-scope-2b-pt-res", "layer_24/width_16k/average_l0_73/params.npz", None,
        "Gemma 2 2B (Lumina 2)", "behind block 24: hidden state 25", None, 2304, 16_384, "Gemma Scope", "CC-BY-4.0",
        "73 features a token; wider and sparser ones beside it", _TOKENS,
    ),
    *_saeuron_table(),
    KnownCheckpoint(
        "prisma-clip-b-32", "Prisma-Multimodal/sae_clip", None, None, "CLIP ViT-B/32", "residual stream of each layer",
        None, 768, 49_152, "SAELens",
    ),
)  # fmt: skip


def known_checkpoint(name: str) -> KnownCheckpoint | None:
    """The entry whose name or repository is a part of a path such as `cc3m-transformer_blocks.0-1/model`."""
    parts = set(name.replace("\\", "/").split("/"))
    exact = (entry for entry in KNOWN if entry.name in parts)
    of_repository = (entry for entry in KNOWN if PurePosixPath(entry.repository).name in parts)
    return next(exact, None) or next(of_repository, None)


def known_site(name: str) -> Site | None:
    """Where a known SAE of blocks belongs; None where only its repository is told, which has SAEs of several places."""
    entry = known_checkpoint(name)
    if entry is None or entry.name in name:
        return entry.site if entry else None
    places = {other.site for other in KNOWN if other.repository == entry.repository}
    return entry.site if len(places) == 1 else None
