"""SAELens checkpoints: cfg.json and sae_weights.safetensors of version 6, its training runs, and older versions.

Source: github.com/decoderesearch/SAELens. Others write its tensors with words of their own for the same things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..dictionary.activations import Architecture, Kind, Normalization
from ..dictionary.weights import Weight
from ..files.quote import quoted
from ..files.tensors import ComputedRows
from .checkpoint import Checkpoint, Config, Reading
from .words import Words, words

CONFIG_NAME = "cfg.json"
LAYOUTS = "SAELens"
LAYOUT_NAMES = ("saelens",)

_KINDS: dict[str, Kind] = {
    "standard": "relu",
    "tanh-relu": "tanh_relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
    "matching_pursuit": "matching_pursuit",
}
_PLAIN = {re.sub("[^a-z]", "", name): name for name in _KINDS} | {"relu": "standard", "vanilla": "standard"}
_TELLING = ("architecture", "sae_type", "activation_fn_str", "activation_fn", "activation", "act_fn")
_NUMBER = ("k", "top_k")
# canonical name -> stored name, besides W_enc, W_dec and b_dec
_GATED = {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "r_mag": "r_mag"}
_VECTORS: dict[Kind, dict[str, str]] = {
    "jumprelu": {"encoder_bias": "b_enc", "threshold": "threshold"},
    "gated": _GATED,
    "matching_pursuit": {},
    "batchtopk": {"encoder_bias": "b_enc", "threshold": "topk_threshold"},
}
_MARKS = {"threshold": "jumprelu", "topk_threshold": "batchtopk", "b_gate": "gated"}
_SCALING = "scaling_factor"
_NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}
_DATASET_NORM = "expected_average_only_in"  # one factor for the whole data set, folded into released weights
_HOOKS = ("hook_name", "hook_point")
_HEADS = ("hook_head_index", "hook_point_head_index")
_WORDS = words(
    LAYOUTS,
    read=f"""{" ".join((*_TELLING, *_HOOKS, *_HEADS))} d_in d_model d_sae apply_b_dec_to_input normalize_activations
    norm_scaling_factor reshape_activations finetuning_scaling_factor activation_fn_kwargs metadata""",
    idle="""hook_point_layer hook_layer hook_eval matryoshka_widths k_schedule use_error_term sae_set release sae_id
    b_enc_init_method l1_warm_up_steps decoder_init_norm topk_threshold_lr subtract_mean_of_batch""",
)
_ALSO: dict[Kind, tuple[str, ...]] = {
    "topk": (*_NUMBER, "rescale_acts_by_decoder_norm"),
    "batchtopk": (*_NUMBER, "rescale_acts_by_decoder_norm"),  # k of the training
    "jumprelu": _NUMBER,  # of the batchtopk that it was made of
    "matching_pursuit": ("max_iterations", "residual_threshold", "stop_on_duplicate_support"),
}
_METADATA = words(LAYOUTS, read=" ".join((*_HOOKS, *_HEADS)), idle="hook_layer sequence_separator_token")


def matches(checkpoint: Checkpoint) -> bool:
    tied = (checkpoint.config or {}).get("architecture") == "matching_pursuit"  # its encoder is the decoder
    return checkpoint.has("W_dec", "b_dec") and (tied or checkpoint.has("W_enc"))


def read(checkpoint: Checkpoint) -> Reading:
    config, notes = _config(checkpoint)
    name = config["architecture"]
    kind = _KINDS[name]
    vectors = _VECTORS.get(kind, {"encoder_bias": "b_enc"})
    encoder = "W_dec" if kind == "matching_pursuit" else "W_enc"
    scaled = checkpoint.flag(config, "finetuning_scaling_factor", False, CONFIG_NAME)
    wanted = [*dict.fromkeys((encoder, "W_dec")), "b_dec", *vectors.values(), *([_SCALING] if scaled else [])]
    checkpoint.check_tensors(wanted, f"SAELens {name}", ignored=(_SCALING,))
    if kind == "matching_pursuit":
        _refuse_early_ends(checkpoint, config)
    d_in, d_sae = checkpoint.width_and_count("W_dec", transposed=False)
    checkpoint.check_config_shape(config, {"d_in": d_in, "d_model": d_in, "d_sae": d_sae}, CONFIG_NAME)
    factor = _dataset_factor(checkpoint, config)
    tensors = checkpoint.stored(**vectors)
    tensors["encoder"] = _times(checkpoint, encoder, factor, transposed=encoder == "W_enc")
    tensors["decoder"] = _finetuned(checkpoint, factor) if scaled else _times(checkpoint, "W_dec", 1 / factor)
    tensors["output_bias"] = _times(checkpoint, "b_dec", 1 / factor)
    if checkpoint.flag(config, "apply_b_dec_to_input", True, CONFIG_NAME):
        tensors["input_bias"] = tensors["output_bias"]
    return Reading(tensors, _architecture(checkpoint, config), f"SAELens {name}", _hook(config), notes=notes)


def _architecture(checkpoint: Checkpoint, config: Config) -> Architecture:
    kind = _KINDS[config["architecture"]]
    normalization = _NORMALIZATIONS.get(config.get("normalize_activations", "none"), "none")
    if kind == "matching_pursuit":
        return Architecture(kind, checkpoint.k(config, "max_iterations", CONFIG_NAME), normalization=normalization)
    if kind not in ("topk", "batchtopk"):
        return Architecture(kind, normalization=normalization)
    # a topk SAE has it off unless its config says so; batchtopk training has it on
    rescaled = checkpoint.flag(config, "rescale_acts_by_decoder_norm", kind == "batchtopk", CONFIG_NAME)
    return Architecture(
        kind,
        k=checkpoint.k(config, "k", CONFIG_NAME) if kind == "topk" else None,
        normalization=normalization,
        decoder_norm="before" if rescaled else "none",
    )


# The config, whichever version wrote it, in the terms of version 6


def _config(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    """With a known `architecture` and, for topk, its `k` in it, and what is to be told; ValueError for all else."""
    config = checkpoint.config
    if config is None:
        return _from_tensors(checkpoint), ()
    told = {word: config[word] for word in _TELLING if config.get(word) is not None}
    name = _architecture_told(checkpoint, told)
    notes: tuple[str, ...] = ()
    if name is None:
        if "architecture" in config:
            raise checkpoint.fail(f"the SAELens architecture None is not known; accepted are {', '.join(_KINDS)}.")
        name = "standard" if _one_k(checkpoint, config) is None else "topk"
        if name == "standard":
            notes = (
                f"{CONFIG_NAME} names no activation function; read with ReLU, as SAELens' first versions have it.",
            )
    notes += _check_words(checkpoint, config, name, strict=bool(notes))
    new = {**config, "architecture": name, "normalize_activations": _normalization(config)}
    if _KINDS[name] == "topk":
        new["k"] = _one_k(checkpoint, config)
    if config.get("reshape_activations") not in (None, "none"):
        raise checkpoint.fail(
            f"{CONFIG_NAME} has reshape_activations = {quoted(config['reshape_activations'])}; only 'none' is accepted."
        )
    return new, notes


def _from_tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the user's word for the layout and the tensors' names tell."""
    if checkpoint.asked is None:
        raise checkpoint.undecided(
            "W_enc and W_dec are used by several", CONFIG_NAME, "its architecture", ("saelens", "saelens:32 (topk)")
        )
    if checkpoint.asked_k is not None:
        return {"architecture": "topk", "k": checkpoint.asked_k}
    return {"architecture": next((name for key, name in _MARKS.items() if checkpoint.has(key)), "standard")}


def _architecture_told(checkpoint: Checkpoint, told: Mapping[str, object]) -> str | None:
    """What the config's words come to; before version 6 the activation function had an entry of its own."""
    found: dict[str, str] = {}
    for word, value in told.items():
        name = _PLAIN.get(re.sub("[^a-z]", "", value.lower())) if isinstance(value, str) else None
        if name is None:
            accepted = ", ".join(_KINDS)
            if word == "architecture":
                raise checkpoint.fail(
                    f"the SAELens architecture {quoted(value)} is not known; accepted are {accepted}."
                )
            raise checkpoint.fail(f"{CONFIG_NAME} has {word} = {quoted(value)}; known are relu, {accepted}.")
        found.setdefault(name, word)
    special = [name for name in found if name != "standard"]
    if len(special) > 1 and special[0] == "gated":  # versions 3 to 5 apply it, 6 ignores it
        raise checkpoint.fail(
            f"{CONFIG_NAME} has architecture = 'gated' with {found[special[1]]} = {quoted(told[found[special[1]]])}; a "
            f"gated one is read with relu only."
        )
    if len(special) > 1:
        pair = " and ".join(f"{found[name]} = {quoted(told[found[name]])}" for name in special[:2])
        raise checkpoint.fail(f"{CONFIG_NAME} has {pair}, which contradict each other; give the published config.")
    return next(iter(special), "standard" if found else None)


def _check_words(checkpoint: Checkpoint, config: Config, name: str, strict: bool) -> tuple[str, ...]:
    known: Words = _WORDS.and_read(*_ALSO.get(_KINDS[name], ()))
    metadata = config.get("metadata")
    inner = _METADATA.check(checkpoint, metadata, f"{CONFIG_NAME} (metadata)") if isinstance(metadata, Mapping) else ()
    arguments = config.get("activation_fn_kwargs")
    if isinstance(arguments, Mapping):
        taken = words(LAYOUTS, read="k" if _KINDS[name] == "topk" else "")
        inner += taken.check(checkpoint, arguments, f"{CONFIG_NAME} (activation_fn_kwargs)")
    return known.check(checkpoint, config, CONFIG_NAME, strict) + inner


def _one_k(checkpoint: Checkpoint, config: Config) -> object:
    """k, whichever of its words it stands under; ValueError where two of them differ."""
    arguments = config.get("activation_fn_kwargs")
    places: list[tuple[str, Mapping[str, Any]]] = [(word, config) for word in _NUMBER]
    places += [("k", arguments)] if isinstance(arguments, Mapping) else []
    given = [place[word] for word, place in places if place.get(word) is not None]
    if any(value != given[0] for value in given[1:]):
        raise checkpoint.fail(
            f"{CONFIG_NAME} gives k as {quoted(given[0])} and as {quoted(given[1])}; keep the right one."
        )
    return given[0] if given else None


def _normalization(config: Config) -> object:
    normalize = config.get("normalize_activations")
    return (
        normalize
        if normalize is not None and not isinstance(normalize, bool)
        else _DATASET_NORM
        if normalize
        else "none"
    )


def _dataset_factor(checkpoint: Checkpoint, config: Config) -> float:
    """What x is multiplied by for a data set's average norm; SAELens keeps it outside the config until it is folded."""
    normalization = config.get("normalize_activations", "none")
    if isinstance(normalization, str) and normalization in _NORMALIZATIONS:
        return 1.0
    if normalization != _DATASET_NORM:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {quoted(normalization)}; accepted are "
            f"{', '.join((*_NORMALIZATIONS, _DATASET_NORM))}."
        )
    factor = config.get("norm_scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e30:
        raise checkpoint.fail(
            f"{CONFIG_NAME} has normalize_activations = {_DATASET_NORM!r}, whose scale is not stored there; fold it "
            f"into the weights with SAELens, or add it to {CONFIG_NAME} as norm_scaling_factor, a positive number."
        )
    return float(factor)


def _hook(config: Config) -> str | None:
    metadata = config.get("metadata")
    places = [metadata if isinstance(metadata, Mapping) else {}, config]
    names = [place.get(key) for place in places for key in _HOOKS]
    name = next((name for name in names if isinstance(name, str)), None)
    head = next((place[key] for place in places for key in _HEADS if place.get(key) is not None), None)
    return f"{name} (head {head})" if name and head is not None else name


def _refuse_early_ends(checkpoint: Checkpoint, config: Config) -> None:
    """Matching pursuit is computed with a fixed number of choices, and by what it takes off the token."""
    residual = config.get("residual_threshold", 0.01)
    repeated = checkpoint.flag(config, "stop_on_duplicate_support", True, CONFIG_NAME)
    centred = checkpoint.flag(config, "apply_b_dec_to_input", True, CONFIG_NAME)
    if residual != 0 or repeated or not centred:
        raise checkpoint.fail(
            f"{CONFIG_NAME} describes a matching pursuit that may end early; accepted are max_iterations with "
            "residual_threshold 0, stop_on_duplicate_support false and apply_b_dec_to_input true."
        )


def _times(checkpoint: Checkpoint, key: str, factor: float, transposed: bool = False) -> Weight:
    transform = None if factor == 1 else lambda values: values * factor
    return Weight(checkpoint.source, key, transposed=transposed, transform=transform)


def _finetuned(checkpoint: Checkpoint, factor: float) -> Weight:
    """Decoder rows times each feature's own factor, which a fine-tuning of old versions learned."""
    source, shape = checkpoint.source, checkpoint.header["W_dec"].shape
    if checkpoint.header[_SCALING].shape != shape[:1]:
        found = quoted(checkpoint.header[_SCALING].shape)
        raise checkpoint.fail(f"{_SCALING} has the shape {found}, which does not fit W_dec's {quoted(shape)}.")

    def rows(start: int, stop: int) -> Tensor:
        ids = range(start, stop)
        return source.rows("W_dec", ids).float() * source.rows(_SCALING, ids).float()[:, None] / factor

    return Weight(ComputedRows((shape[0], shape[1]), rows, checkpoint.label), ComputedRows.KEY)
