"""dictionary_learning's seven classes: ae.pt, with config.json beside it or above its folder `checkpoints`.

Source: github.com/saprmarks/dictionary_learning. The factor of a normalised training set is folded into the biases
and the threshold when an SAE is saved, so a norm_factor in the config is not applied again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "config.json"
LAYOUTS = "dictionary_learning"
_WHERE = f"{CONFIG_NAME} (trainer)"
_WORDS = words(
    LAYOUTS,
    read="dict_class activation_dim dict_size submodule_name layer lm_name",
    # A factor of normalised training data is folded into what is saved; the thresholds are in the file.
    idle="""
    trainer_class norm_factor normalize_activations l1_penalty threshold_beta threshold_start_step group_fractions
    group_weights group_sizes target_l0 decay_start k_anneal_steps use_constrained_optimizer
    initial_sparsity_penalty steps_list bandwidth wandb_name num_groups active_groups p_start
    sparsity_queue_length
    """,
)
_TOP = words(LAYOUTS, read="trainer buffer", idle="norm_factor normalize_activations")
_BUFFER = words(
    LAYOUTS, read="io",
    idle="d_submodule n_ctxs refresh_batch_size out_batch_size max_activation_norm_multiple add_special_tokens",
)  # fmt: skip

_IDS = {
    "AutoEncoder": "dictionary_learning_standard",
    "AutoEncoderNew": "dictionary_learning_new",
    "GatedAutoEncoder": "dictionary_learning_gated",
    "AutoEncoderTopK": "dictionary_learning_topk",
    "BatchTopKSAE": "dictionary_learning_batch_topk",
    "MatryoshkaBatchTopKSAE": "dictionary_learning_matryoshka",
    "JumpReluAutoEncoder": "dictionary_learning_jumprelu",
}
LAYOUT_NAMES = tuple(_IDS.values())
_ENCODER = ("encoder.weight", "encoder.bias")
_BOTH = ("W_enc", "b_enc", "W_dec", "b_dec")


def matches(checkpoint: Checkpoint) -> bool:
    if isinstance((checkpoint.config or {}).get("trainer"), Mapping):
        return checkpoint.has("encoder.weight") or checkpoint.has("W_enc")
    selected = checkpoint.has("b_dec", *_ENCODER, "decoder.weight")
    return selected or checkpoint.has(*_BOTH, "group_sizes") or checkpoint.has(*_ENCODER, "decoder.bias")


def read(checkpoint: Checkpoint) -> Reading:
    name = _class(checkpoint)
    tensors, architecture = _READERS[name](checkpoint)
    trainer = _trainer(checkpoint)
    turned = "decoder.weight" in checkpoint.header
    d_in, d_sae = checkpoint.width_and_count("decoder.weight" if turned else "W_dec", turned)
    checkpoint.check_config_shape(trainer, {"activation_dim": d_in, "dict_size": d_sae}, _WHERE)
    # k of the training, where the codes need none
    known = _WORDS.and_read("k") if "TopK" in name or name == "JumpReluAutoEncoder" else _WORDS
    notes = _TOP.check(checkpoint, checkpoint.config, CONFIG_NAME) + known.check(checkpoint, trainer, _WHERE)
    notes += _BUFFER.check(checkpoint, _buffer(checkpoint), f"{CONFIG_NAME} (buffer)")
    return Reading(tensors, architecture, f"{LAYOUTS} {name}", _hook(checkpoint, trainer), notes=notes)


def _buffer(checkpoint: Checkpoint) -> Config:
    buffer = (checkpoint.config or {}).get("buffer")
    return buffer if isinstance(buffer, dict) else {}


def _hook(checkpoint: Checkpoint, trainer: Config) -> str | None:
    """The module whose output it reads, or its input where the buffer says so."""
    hook, side = trainer.get("submodule_name"), _buffer(checkpoint).get("io", "out")
    if side not in ("out", "in"):
        raise checkpoint.fail(f"{CONFIG_NAME} (buffer) has io = {quoted(side)}; known are out and in.")
    return (hook if side == "out" else f"{hook}.input") if isinstance(hook, str) else None


def _trainer(checkpoint: Checkpoint) -> Config:
    trainer = (checkpoint.config or {}).get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _class(checkpoint: Checkpoint) -> str:
    if checkpoint.asked is not None:
        return next(name for name, layout in _IDS.items() if layout == checkpoint.asked)
    name = _trainer(checkpoint).get("dict_class")
    if name is None and checkpoint.has("group_sizes"):
        return "MatryoshkaBatchTopKSAE"  # the only one with this tensor
    if name is None:
        choice = "which of dictionary_learning's classes"
        if checkpoint.has("decoder.bias"):
            choice += ", or Llama Scope, whose hyperparams.json lies one folder above"
        first, *others = LAYOUT_NAMES
        names = f"{first} (or {', '.join(other.removeprefix(LAYOUTS) for other in others)})"
        raise checkpoint.undecided(choice, CONFIG_NAME, "trainer.dict_class", (names,))
    if not isinstance(name, str) or name not in _IDS:
        raise checkpoint.fail(f"{_WHERE} has dict_class = {quoted(name)}; known are {', '.join(_IDS)}.")
    return name


def _linear(checkpoint: Checkpoint, bias: str) -> dict[str, Weight]:
    return {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias", input_bias=bias, output_bias=bias),
        **checkpoint.turned(decoder="decoder.weight"),
    }


Parts = tuple[dict[str, Weight], Architecture]


def _standard(checkpoint: Checkpoint) -> Parts:
    checkpoint.check_tensors(("bias", *_ENCODER, "decoder.weight"), f"{LAYOUTS} AutoEncoder")
    return _linear(checkpoint, "bias"), Architecture("relu")


def _new(checkpoint: Checkpoint) -> Parts:
    checkpoint.check_tensors((*_ENCODER, "decoder.weight", "decoder.bias"), f"{LAYOUTS} AutoEncoderNew")
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias", output_bias="decoder.bias"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    return tensors, Architecture("relu")


def _gated(checkpoint: Checkpoint) -> Parts:
    names = ("decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight")
    checkpoint.check_tensors(names, f"{LAYOUTS} GatedAutoEncoder")
    tensors = {
        **checkpoint.stored(gate_bias="gate_bias", magnitude_bias="mag_bias", r_mag="r_mag"),
        **checkpoint.stored(input_bias="decoder_bias", output_bias="decoder_bias", encoder="encoder.weight"),
        **checkpoint.turned(decoder="decoder.weight"),
    }
    return tensors, Architecture("gated")


def _topk(checkpoint: Checkpoint) -> Parts:
    names = ("b_dec", *_ENCODER, "decoder.weight")
    checkpoint.check_tensors(names, f"{LAYOUTS} AutoEncoderTopK", optional=("k", "threshold"))
    trainer = _trainer(checkpoint) or None
    if checkpoint.has("k"):
        stored = int(checkpoint.source.number("k"))
        checkpoint.check_config_shape(trainer or {}, {"k": stored}, _WHERE)
        return _linear(checkpoint, "b_dec"), Architecture("topk", k=stored)
    return _linear(checkpoint, "b_dec"), Architecture("topk", k=checkpoint.k(trainer, "k", _WHERE))


def _batch_topk(checkpoint: Checkpoint) -> Parts:
    names = ("b_dec", *_ENCODER, "decoder.weight", "threshold")
    checkpoint.check_tensors(names, f"{LAYOUTS} BatchTopKSAE", ignored=("k",))
    return {**_linear(checkpoint, "b_dec"), **checkpoint.stored(threshold="threshold")}, Architecture("batchtopk")


def _matryoshka(checkpoint: Checkpoint) -> Parts:
    names = (*_BOTH, "threshold")
    checkpoint.check_tensors(names, f"{LAYOUTS} MatryoshkaBatchTopKSAE", ignored=("k", "group_sizes"))
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(encoder_bias="b_enc", decoder="W_dec", input_bias="b_dec", output_bias="b_dec"),
        **checkpoint.stored(threshold="threshold"),
    }
    return tensors, Architecture("batchtopk")


def _jumprelu(checkpoint: Checkpoint) -> Parts:
    checkpoint.check_tensors((*_BOTH, "threshold"), f"{LAYOUTS} JumpReluAutoEncoder")
    tensors = {
        **checkpoint.turned(encoder="W_enc"),
        **checkpoint.stored(encoder_bias="b_enc", decoder="W_dec", output_bias="b_dec", threshold="threshold"),
    }
    return tensors, Architecture("jumprelu")


_READERS: dict[str, Callable[[Checkpoint], Parts]] = {
    "AutoEncoder": _standard,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jumprelu,
}
