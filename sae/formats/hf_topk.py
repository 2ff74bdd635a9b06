"""The `topk_sae` family: SAEs as models of transformers, config.json with `model_type`, and model.safetensors.

Its code descends from multimodal-sae and is copied between projects; Mayfull/CLIP_TopKSAE is of it. Where its training
chooses over a batch (`batch_topk_sae`, `matryoshka_sae`) or inside the part of a modality (`vl_...`), its own `encode`
keeps the k largest of each token, and so do we.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "Hugging Face's topk_sae"
LAYOUT_NAMES = ("hf_topk",)

_BATCH = "its training chose k for each token on average over a batch; read as its encode does, k for each token."
_APART = "its features are of pictures, both and texts in the ratio 1:2:1; read as its encode does, over all of them."
_TYPES: dict[str, str | None] = {
    "topk_sae": None, "batch_topk_sae": _BATCH, "matryoshka_sae": _BATCH, "vl_topk_sae": _APART,
    "vl_batch_topk_sae": _APART, "vl_matryoshka_sae": _APART,
}  # fmt: skip
_TENSORS = ("encoder.weight", "encoder.bias", "b_dec")
_DECODERS = ("W_dec", "decoder.weight")
_WIDTHS, _COUNTS = ("hidden_size", "d_in", "d_model"), ("latent_size", "num_latents", "d_sae")
_WORDS = words(
    LAYOUTS,
    read=f"model_type k active_groups group_sizes {' '.join((*_WIDTHS, *_COUNTS))}",
    idle="normalize_decoder multi_topk use_batch_topk_in_eval shared_group_sizes shared_active_groups vl_split_ratio "
    "auto_map auxk_alpha",
)


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("encoder.weight") and (checkpoint.config or {}).get("model_type") in _TYPES


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config
    if config is None and checkpoint.asked_k is None:
        names = ("hf_topk:32", "sparsify:32")
        raise checkpoint.undecided("a topk_sae with its k", CONFIG_NAME, "model_type, latent_size and k", names)
    decoder = next((name for name in _DECODERS if checkpoint.has(name)), _DECODERS[0])
    checkpoint.check_tensors((*_TENSORS, decoder), LAYOUTS)
    turned = checkpoint.header[decoder].shape != checkpoint.header["encoder.weight"].shape
    d_in, d_sae = checkpoint.width_and_count(decoder, turned)
    config = config or {}
    kind = config.get("model_type", "topk_sae")
    if kind not in _TYPES:
        raise checkpoint.fail(f"{CONFIG_NAME} has model_type = {quoted(kind)}; known are {', '.join(_TYPES)}.")
    _check_sizes(checkpoint, config, d_in, d_sae)
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias"),
        **checkpoint.stored(input_bias="b_dec", output_bias="b_dec"),
        **(checkpoint.turned(decoder=decoder) if turned else checkpoint.stored(decoder=decoder)),
    }
    told = _TYPES[kind]
    notes = ((told,) if told else ()) + _WORDS.check(checkpoint, checkpoint.config, CONFIG_NAME)
    k = checkpoint.k(checkpoint.config, "k", CONFIG_NAME)
    return Reading(tensors, Architecture("topk", k=k), f"{LAYOUTS} ({kind})", notes=notes)


def _check_sizes(checkpoint: Checkpoint, config: Config, d_in: int, d_sae: int) -> None:
    """0 latents: as many as the width and its expansion_factor make, or the groups."""
    given = {key: value for key, value in config.items() if key not in _COUNTS or value}
    checkpoint.check_config_shape(given, {**dict.fromkeys(_WIDTHS, d_in), **dict.fromkeys(_COUNTS, d_sae)}, CONFIG_NAME)
    groups, active = config.get("group_sizes"), config.get("active_groups")
    if active is not None and (not isinstance(groups, list) or active != len(groups)):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has active_groups = {quoted(active)} of the groups {quoted(groups)}; only SAEs of which "
            f"all are active are read."
        )
