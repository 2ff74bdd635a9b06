"""SAEdit's matryoshka SAEs of T5 embeddings: config.json and pytorch_model.bin.

Source: github.com/bartbussmann/matryoshka_sae as SAEdit uses it. The file has an encoder bias that is not used.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture
from .checkpoint import Checkpoint, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "SAEdit"
LAYOUT_NAMES = ("saedit",)

_WORDS = words(
    LAYOUTS, read="act_size dict_size input_unit_norm",
    idle="top_k group_sizes top_k_aux aux_penalty n_batches_to_dead max_grad_norm beta1 beta2 model_dtype sae_type "
    "hook_point layer site num_batches_in_buffer perf_log_freq seq_len act_name top_k_matryoshka",
)  # fmt: skip
_TENSORS = ("W_enc", "W_dec", "b_dec", "threshold")


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.has(*_TENSORS) and "act_size" in (checkpoint.config or {})


def read(checkpoint: Checkpoint) -> Reading:
    checkpoint.check_tensors(_TENSORS, LAYOUTS, ignored=("b_enc",))
    config = checkpoint.config or {}
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"act_size": d_in, "dict_size": d_sae}, CONFIG_NAME)
    normalised = checkpoint.flag(config, "input_unit_norm", False, CONFIG_NAME)
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(decoder="W_dec", input_bias="b_dec", output_bias="b_dec", threshold="threshold"),
    }
    architecture = Architecture("batchtopk", normalization="layer_norm" if normalised else "none")
    return Reading(tensors, architecture, LAYOUTS, notes=_WORDS.check(checkpoint, config, CONFIG_NAME))
