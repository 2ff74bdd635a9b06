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

CONFIG_NAME = "config.json"
LAYOUTS = "dictionary_learning"
_WHERE = f"{CONFIG_NAME} (trainer)"

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
    hook = trainer.get("submodule_name")
    return Reading(tensors, architecture, f"{LAYOUTS} {name}", hook if isinstance(hook, str) else None)


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
