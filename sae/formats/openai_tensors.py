"""The tensors' names of OpenAI's sparse_autoencoder, which sdxl-unbox and a fork of RE-N-Y's code took over."""

from __future__ import annotations

from ..dictionary.activations import Architecture
from ..dictionary.weights import Weight
from .checkpoint import Checkpoint, Reading

BIASES = ("pre_bias", "latent_bias")
ENCODER, DECODER = "encoder.weight", "decoder.weight"
LAST_FIRED = "stats_last_nonzero"  # of training, and of no use here


def all_but_decoder(checkpoint: Checkpoint) -> dict[str, Weight]:
    return {
        **checkpoint.stored(input_bias="pre_bias", output_bias="pre_bias", encoder=ENCODER),
        **checkpoint.stored(encoder_bias="latent_bias"),
    }


def check_topk(checkpoint: Checkpoint, layouts: str, config_name: str, width: str, count: str) -> None:
    """Raises ValueError for other tensors, and for a config whose entries `width` and `count` contradict them."""
    checkpoint.check_tensors((*BIASES, ENCODER, DECODER), layouts, ignored=(LAST_FIRED,))
    if checkpoint.config is not None:
        d_in, d_sae = checkpoint.width_and_count(DECODER, transposed=True)
        checkpoint.check_config_shape(checkpoint.config, {width: d_in, count: d_sae}, config_name)


def read_topk(checkpoint: Checkpoint, layouts: str, config_name: str, hook: str | None) -> Reading:
    """A TopK SAE whose k is in the config, or was given."""
    k = checkpoint.k(checkpoint.config, "k", config_name)
    tensors = {**all_but_decoder(checkpoint), **checkpoint.turned(decoder=DECODER)}
    return Reading(tensors, Architecture("topk", k=k), layouts, hook)
