"""Text and picture encoders by their models: which model an SAE names, and how near another one is to it.

A model that an SAE's file names and that is not the encoder at hand is another space, whatever its width. Of a base
model against its chat version, a text model against its vision version, features are of use; how near is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..dictionary.autoencoder import SparseAutoencoder
from ..formats.known import known_checkpoint
from ..formats.provenance import told_model

Near = Mapping[str, str]  # pattern of a model's name -> how far it is from the encoder; "" is the very one

BASE, CHAT = (
    "the base model, where this encoder is its chat version",
    "the chat version, where this encoder is the base",
)
VISION, TEXT = (
    "the vision model, where this encoder is the text model",
    "the text model, where this encoder is the VL one",
)
TUNED = "another training of the same model"


def _qwen(size: str, vision: bool = False) -> Near:
    text, both = rf"qwen3-{size}", rf"qwen3-vl-{size}"
    base = f"{text}-base"
    if vision:
        return {f"{both}(-instruct)?": "", both: TUNED, base: f"{TEXT}, and base", text: TEXT}
    return {base: BASE, f"{text}(-chat)?": "", text: TUNED, f"{both}(-instruct)?": VISION}


_GEMMA_2 = {r"gemma-2-2b(-pt)?": "", r"gemma-2-2b-it": CHAT, r"gemma-2-2b": TUNED}
_GEMMA_3 = {r"gemma-3-4b-it": "", r"gemma-3-4b(-pt)?": BASE, r"gemma-3-4b": TUNED}
_LLAVA = "of which this encoder is LLaVA's further training"
_LLAMA_3 = {
    r"llava-llama-3-8b[a-z0-9.-]*": "", r"(meta-)?llama-3-8b-instruct": f"the chat version, {_LLAVA}",
    r"(meta-)?llama-3-8b": f"the base model, {_LLAVA}",
}  # fmt: skip
_LLAMA_31 = {
    r"(meta-)?llama-?3[.-]1-8b-instruct": "", r"(meta-)?llama-?3[.-]1-8b(-base)?": BASE, r"llama-?3[.-]1-8b": TUNED,
}  # fmt: skip
_CLIP_L = {r"clip-vit-l(arge)?-?(patch)?-?14": "", r"clip-l": ""}
# By what the encoder is called in `spot.py` and `hidden_states.py`.
MODELS: Mapping[str, Near] = {
    "Qwen3-4B (FLUX.2 Klein 4B)": _qwen("4b"),
    "Qwen3-8B (FLUX.2 Klein 9B)": _qwen("8b"),
    "Qwen3-4B (Z-Image)": _qwen("4b"),
    "Mistral 3 Small (FLUX.2)": {r"mistral-(3-)?small-[a-z0-9.-]*": "", r"mistral-3-small": ""},
    "Qwen3-VL-4B (Krea 2)": _qwen("4b", vision=True),
    "Qwen3-VL-4B (FLUX 3 Klein)": _qwen("4b", vision=True),
    "Qwen3-VL-8B (Ideogram 4)": _qwen("8b", vision=True),
    "Gemma 2 2B (Lumina 2)": _GEMMA_2,
    "Gemma 3 4B (NewBie)": _GEMMA_3,
    "Llama 3 8B (HunyuanVideo)": _LLAMA_3,
    "Llama 3.1 8B Instruct (HiDream I1)": _LLAMA_31,
    "T5-XXL text": {r"t5-?(v1[.-]1-)?xxl": ""},
    "CLIP-L text": _CLIP_L,
    "CLIP ViT-L": _CLIP_L,
    "CLIP-L and CLIP-G text": {},
    "CLIP-H text": {r"clip-vit-h(uge)?-?14": ""},
    "CLIP ViT-H": {r"clip-vit-h(uge)?-?14": ""},
    "CLIP-G text": {r"clip-vit-bigg-?14": ""},
    "CLIP ViT-bigG": {r"clip-vit-bigg-?14": ""},
    "SigLIP so400m": {r"siglip-so400m": ""},
    "DINOv2 giant": {r"dinov2-(giant|vitg14)": ""},
}
# Names that are of some model for certain: such a one is either the encoder or another.
_FAMILIES = re.compile(
    r"(?<![a-z])(gpt|pythia|llama|gemma|qwen|mistral|mixtral|phi|bert|roberta|olmo|deepseek|opt-|bloom|falcon|clip|siglip|"
    r"dino|t5|vit-|smollm|tinystories|gpt-?j|gpt-?neo|solu|gelu)"
)
_IN_PATH = re.compile(
    r"(?<![a-z0-9])(qwen3(?:\.5)?-(?:vl-)?[0-9.]+b(?:-a3b)?(?:-base|-instruct)?|qwen4b|llama-?3(?:[._-]1)?-8b(?:-instruct|-base)?"
    r"|gemma-[23]-[0-9]+b(?:-it|-pt)?|gemma-scope-(?:2-)?[0-9]+b(?:-pt|-it)?|gpt2-[a-z]+|pythia-[0-9.]+[mb]|"
    r"clip-vit-[a-z]+-?(?:patch)?-?[0-9]+)(?![a-z0-9])",
    re.IGNORECASE,
)
_SCOPES = (("gemma-scope-2-", "gemma-3-"), ("gemma-scope-", "gemma-2-"), ("qwen4b", "qwen3-4b-base"))


def model_of(sae: SparseAutoencoder) -> str | None:
    """The model that an SAE was trained on, as its file says, else its path, else the table of public SAEs."""
    told = told_model(sae)
    if told is not None:
        return told
    known = known_checkpoint(sae.name)
    text = known is not None and known.embedding is not None and known.embedding[0] == "token_embeddings"
    found = _IN_PATH.search((known.repository if known is not None and text else sae.name).replace("_", "-"))
    if found is None:
        return known.model.split(" (")[0] if known is not None and text else None
    start = next((pair for pair in _SCOPES if found[1].lower().startswith(pair[0])), ("", ""))
    return start[1] + found[1][len(start[0]) :]


def distance(model: str, encoder: str) -> str | None:
    """How far a model is from an encoder: "" where it is the very one, None where it is another."""
    near, name = MODELS.get(encoder, {}), _plain(model)
    for pattern, far in near.items():
        if re.fullmatch(pattern, name):
            return far
    tuned = [pattern for pattern in near if re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", name)]
    return TUNED if tuned else None


def is_known(model: str) -> bool:
    """Whether a name is for certain that of some model, and not a name of one's own."""
    return bool(_FAMILIES.search(_plain(model)))


def _plain(model: str) -> str:
    """`open-clip:laion/CLIP-ViT-B-32` as clip-vit-b-32, `Llama 3 8B` as llama-3-8b."""
    return re.sub(r"[\s_]+", "-", model.lower().rsplit("/", 1)[-1].rsplit(":", 1)[-1].strip())
