"""dictionary_learning's trainSAE, paced; on a GPU in bfloat16, which is its switch for speed."""

import torch
from paced import Paced, case_given, leave_out

# What it reads language models and their texts with, and reports to: large.
leave_out("datasets", "nnsight", "wandb", "zstandard")

from dictionary_learning import training  # noqa: E402
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer  # noqa: E402


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
        "device": str(case.device),
    }  # fmt: skip
    batches = Paced(case, "dictionary-learning", lambda x: made[0](x))
    dtype = torch.bfloat16 if case.on_gpu else torch.float32
    training.trainSAE(batches, [config], case.steps, device=str(case.device), autocast_dtype=dtype)


if __name__ == "__main__":
    main()
