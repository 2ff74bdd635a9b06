"""SAEs of FLUX.1-dev's MLP outputs: a training checkpoint with its config inside.

Source: github.com/lucas-zhao6/Sparse-Autoencoders-for-Interpreting-Visual-Features-in-FLUX.1-Diffusion-Transformers.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "lucas-zhao6"
LAYOUT_NAMES = ("lucas",)

_TENSORS = ("pre_bias", "encoder.weight", "encoder.bias", "decoder.weight")
_WHERE = "its config"
_WORDS = words(
    LAYOUTS, read="layer timestep input_dim hidden_dim use_topk topk_k normalize_data",
    idle="num_workers data_dir output_dir save_every weight_decay grad_clip patience num_epochs use_l1",
)  # fmt: skip


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has("pre_bias", "encoder.bias")


def read(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_TENSORS, LAYOUTS)
    inside = checkpoint.extras.get("config")
    config = inside if isinstance(inside, dict) else checkpoint.config
    if config is None and checkpoint.asked is None:
        names = ("lucas:32", "lucas")
        raise checkpoint.undecided("TopK, or L1 without a k", CONFIG_NAME, "use_topk and topk_k", names)
    if config is not None and checkpoint.flag(config, "normalize_data", False, _WHERE):
        raise checkpoint.fail(
            "it was trained on data that were normalised by a mean and a deviation that are not in the file "
            "(normalize_data is true), so its codes cannot be computed; use one that was trained without."
        )
    tensors = {
        **checkpoint.stored(input_bias="pre_bias", output_bias="pre_bias", encoder="encoder.weight"),
        **checkpoint.stored(encoder_bias="encoder.bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    d_in, d_sae = checkpoint.width_and_count("decoder.weight", transposed=True)
    checkpoint.check_config_shape(config or {}, {"input_dim": d_in, "hidden_dim": d_sae}, _WHERE)
    chosen = config is not None and checkpoint.flag(config, "use_topk", False, _WHERE)
    if chosen or checkpoint.asked_k is not None:
        architecture = Architecture("topk", k=checkpoint.k(config if chosen else None, "topk_k", _WHERE))
    else:
        architecture = Architecture("relu")
    if config is not None and not chosen and "use_topk" not in config and config.get("topk_k") is not None:
        raise checkpoint.fail(f"{_WHERE} has topk_k without use_topk, which says whether it counts; add use_topk.")
    layer = (config or {}).get("layer")
    hook = f"transformer_blocks.{layer}.ff" if isinstance(layer, int) and not isinstance(layer, bool) else None
    notes = _WORDS.check(checkpoint, config, _WHERE, strict=config is not None and "use_topk" not in config)
    if config is inside:
        notes += _WORDS.check(checkpoint, checkpoint.config, CONFIG_NAME)
    return Reading(tensors, architecture, f"{LAYOUTS} {'TopK' if architecture.k else 'L1'}", hook, notes=notes)
