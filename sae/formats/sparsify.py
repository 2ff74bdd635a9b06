"""EleutherAI's sparsify, and SAeUron, which grew from an early version of it: cfg.json and sae.safetensors.

Sources: github.com/EleutherAI/sparsify, github.com/cywinski/SAeUron. SAeUron may normalise each token; its batch and
sample selection is switched off when it loads an SAE. A transcoder of sparsify takes nothing off its input, and one
with a skip connection adds W_skip x to what it predicts.
"""

from __future__ import annotations

from ..dictionary.activations import Architecture, Kind
from ..files.quote import quoted
from .checkpoint import Checkpoint, Config, Reading
from .words import words

CONFIG_NAME = "cfg.json"
LAYOUTS = "sparsify and SAeUron"
LAYOUT_NAMES = ("sparsify", "saeuron")

_SKIP = "W_skip"
TENSORS = ("encoder.weight", "encoder.bias", "b_dec")
_WORDS = words(
    LAYOUTS, read="activation k d_in num_latents signed input_unit_norm skip_connection transcode",
    idle="expansion_factor normalize_decoder multi_topk batch_topk sample_topk",
)  # fmt: skip
_KINDS: dict[str, Kind] = {"topk": "topk", "groupmax": "groupmax"}


def matches(checkpoint: Checkpoint) -> bool:
    if not checkpoint.has(*TENSORS):
        return False
    config = checkpoint.config
    return checkpoint.has("W_dec") or (config is not None and "k" in config and "trainer" not in config)


def read(checkpoint: Checkpoint) -> Reading:
    config = checkpoint.config
    if config is None and checkpoint.asked is None:
        choice = "sparsify or SAeUron, with their k"
        raise checkpoint.undecided(choice, CONFIG_NAME, "d_in, num_latents and k", ("sparsify:32", "saeuron:32"))
    name = "W_dec" if checkpoint.has("W_dec") else "decoder.weight"  # very old files have the second
    transcoder = checkpoint.flag(config or {}, "transcode", False, CONFIG_NAME)
    skip = checkpoint.flag(config or {}, "skip_connection", checkpoint.has(_SKIP), CONFIG_NAME)
    checkpoint.check_tensors((*TENSORS, name, *((_SKIP,) if skip else ())), LAYOUTS)
    turned = name == "decoder.weight" and checkpoint.header[name].shape != checkpoint.header["encoder.weight"].shape
    tensors = {
        **checkpoint.stored(encoder="encoder.weight", encoder_bias="encoder.bias"),
        **checkpoint.stored(output_bias="b_dec", **({} if transcoder else {"input_bias": "b_dec"})),
        **(checkpoint.stored(skip=_SKIP) if skip else {}),
        **(checkpoint.turned(decoder=name) if turned else checkpoint.stored(decoder=name)),
    }
    d_in, d_sae = checkpoint.width_and_count(name, turned)
    _check_config(checkpoint, config or {}, d_in, d_sae)
    architecture, layout = _architecture(checkpoint, config or {})
    notes = _WORDS.check(checkpoint, config, CONFIG_NAME)
    if not transcoder:
        return Reading(tensors, architecture, layout, notes=notes)
    return Reading(tensors, architecture, f"{layout} transcoder", transcoder=True, notes=notes)


def _architecture(checkpoint: Checkpoint, config: Config) -> tuple[Architecture, str]:
    saeuron = checkpoint.asked == "saeuron" or "input_unit_norm" in config or "batch_topk" in config
    activation = config.get("activation", "topk")
    if not isinstance(activation, str) or activation not in _KINDS:
        raise checkpoint.fail(f"{CONFIG_NAME} has activation = {quoted(activation)}; known are {', '.join(_KINDS)}.")
    normalised = checkpoint.flag(config, "input_unit_norm", False, CONFIG_NAME)
    k = checkpoint.k(checkpoint.config, "k", CONFIG_NAME)
    kind = _KINDS[activation]
    if checkpoint.flag(config, "signed", False, CONFIG_NAME):  # in the summer of 2024 only
        if kind != "topk":
            raise checkpoint.fail(
                f"{CONFIG_NAME} has signed = True with activation = {quoted(activation)}; known is topk."
            )
        kind = "signed_topk"
    architecture = Architecture(kind, k=k, normalization="layer_norm" if normalised else "none")
    return architecture, "SAeUron" if saeuron else f"sparsify {activation}"


def _check_config(checkpoint: Checkpoint, config: Config, d_in: int, d_sae: int) -> None:
    checkpoint.check_config_shape(config, {"d_in": d_in}, CONFIG_NAME)
    if config.get("num_latents"):  # 0: d_in times expansion_factor
        checkpoint.check_config_shape(config, {"num_latents": d_sae}, CONFIG_NAME)
