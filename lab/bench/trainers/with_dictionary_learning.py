"""dictionary_learning's trainSAE, paced."""

import sys
from unittest.mock import MagicMock

# What it reads language models and their texts with, and reports to: large, and not used here.
for unused in ("datasets", "nnsight", "wandb", "zstandard"):
    sys.modules[unused] = MagicMock()

from dictionary_learning import training  # noqa: E402
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer  # noqa: E402
from paced import Paced, case_given  # noqa: E402


def main() -> None:
    case = case_given()
    made: list[AutoEncoderTopK] = []

    def begin(*shape: int) -> AutoEncoderTopK:
        sae = AutoEncoderTopK(*shape)
        sae.decoder.weight.data.copy_(case.decoder.T)
        sae.encoder.weight.data.copy_(case.decoder)
        made.append(sae)
        return sae

    config = {
        "trainer": TopKTrainer, "dict_class": begin, "steps": case.steps, "activation_dim": case.d_in,
        "dict_size": case.d_sae, "k": case.k, "layer": 0, "lm_name": "", "lr": case.rate, "warmup_steps": 0,
        "device": "cpu",
    }  # fmt: skip
    batches = Paced(case, "dictionary-learning", lambda x: made[0](x))
    training.trainSAE(batches, [config], case.steps, device="cpu")


if __name__ == "__main__":
    main()
