"""RE-N-Y's SAEs for FLUX and CLIP: TopK, standard, gated and JumpReLU, in one set of tensor names.

Source: github.com/RE-N-Y/finebooru; files are config.json and model.safetensors. In the config `features` is the
width of the activations and `pages` the number of features.
"""

from __future__ import annotations

import torch

from ..activations import Architecture
from ..weights import Weight
from .checkpoint import Checkpoint, Config, Header, Reading

CONFIG_NAME = "config.json"
LAYOUTS = "RE-N-Y (TopK, standard, gated, JumpReLU)"

_LINEAR = ("bias", "encoder.weight", "encoder.bias", "decoder.weight")
_JUMPRELU = (*_LINEAR, "logthres")
_GATED = ("decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight")


def matches(header: Header, config: Config | None) -> bool:
    if config is not None and "trainer" in config:
        return False  # dictionary_learning stores the same names
    return {"encoder.weight", "decoder.weight"} <= set(header) and ("bias" in header or "decoder_bias" in header)


def read(checkpoint: Checkpoint) -> Reading:
    if "decoder_bias" in checkpoint.header:
        tensors, architecture = _read_gated(checkpoint)
    elif "logthres" in checkpoint.header:
        tensors, architecture = _read_jumprelu(checkpoint)
    else:
        tensors, architecture = _read_linear(checkpoint)
    _check_config(checkpoint)
    return Reading(tensors, architecture)


def _read_linear(checkpoint: Checkpoint) -> tuple[dict[str, Weight], Architecture]:
    """TopK where the config has k; without k the "standard" class, whose codes carry the decoder's norm."""
    checkpoint.check_tensors(_LINEAR, "RE-N-Y TopK or standard")
    config = _required_config(checkpoint, "a TopK SAE with its k, or a standard one without")
    if "k" not in config:
        return _linear(checkpoint), Architecture("relu", decoder_norm="after")
    if config.get("sample") is not None:
        raise checkpoint.fail(f"{CONFIG_NAME} has sample = {config['sample']!r}; only TopK SAEs with null are known.")
    return _linear(checkpoint), Architecture("topk", k=checkpoint.whole_number(config, "k", CONFIG_NAME))


def _read_jumprelu(checkpoint: Checkpoint) -> tuple[dict[str, Weight], Architecture]:
    checkpoint.check_tensors(_JUMPRELU, "RE-N-Y JumpReLU")
    threshold = Weight(checkpoint.source, "logthres", transform=torch.exp)
    return {**_linear(checkpoint), "threshold": threshold}, Architecture("jumprelu")


def _read_gated(checkpoint: Checkpoint) -> tuple[dict[str, Weight], Architecture]:
    checkpoint.check_tensors(_GATED, "RE-N-Y gated")
    _required_config(checkpoint, "RE-N-Y's codes, or the different ones of dictionary_learning")
    tensors = {
        **_map(checkpoint, gate_bias="gate_bias", magnitude_bias="mag_bias", r_mag="r_mag"),
        **_map(checkpoint, input_bias="decoder_bias", output_bias="decoder_bias", encoder="encoder.weight"),
        "decoder": Weight(checkpoint.source, "decoder.weight", transposed=True),
    }
    return tensors, Architecture("gated", decoder_norm="after")


def _linear(checkpoint: Checkpoint) -> dict[str, Weight]:
    return {
        **_map(checkpoint, input_bias="bias", output_bias="bias", encoder="encoder.weight"),
        **_map(checkpoint, encoder_bias="encoder.bias"),
        "decoder": Weight(checkpoint.source, "decoder.weight", transposed=True),
    }


def _map(checkpoint: Checkpoint, **names: str) -> dict[str, Weight]:
    return {canonical: Weight(checkpoint.source, stored) for canonical, stored in names.items()}


def _required_config(checkpoint: Checkpoint, choice: str) -> Config:
    config = checkpoint.config
    if config is None or not {"features", "pages"} <= set(config):
        fault = f"there is no {CONFIG_NAME} beside it" if config is None else f"{CONFIG_NAME} lacks features and pages"
        raise checkpoint.fail(
            f"its tensors alone do not tell the layout ({choice}), and {fault}; put the {CONFIG_NAME} that was "
            f"published with these weights, with features, pages and (for TopK) k, into the same folder."
        )
    return config


def _check_config(checkpoint: Checkpoint) -> None:
    shape = checkpoint.header["encoder.weight"].shape
    if checkpoint.config is not None and len(shape) == 2:
        checkpoint.check_config_shape(checkpoint.config, {"features": shape[1], "pages": shape[0]}, CONFIG_NAME)
