"""SAELens' SAETrainer, paced; on a GPU in bfloat16 and, where they train there, with sparse codes: its switches."""

from paced import Paced, case_given, leave_out

# What it reads language models and their texts with, reports to, and draws with.
leave_out(
    "datasets", "datasets.arrow_dataset", "datasets.fingerprint", "datasets.iterable_dataset", "datasets.load", "wandb",
    "plotly", "plotly.graph_objects", "plotly.subplots", "plotly_express", "nltk", "babe",
    "transformers_stream_generator",
)  # fmt: skip

import torch  # noqa: E402
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig  # noqa: E402
from sae_lens.config import LoggingConfig, SAETrainerConfig  # noqa: E402
from sae_lens.training.sae_trainer import SAETrainer  # noqa: E402


def sparse_codes_train(device: torch.device) -> bool:
    """Tried on a few tokens: their gradients need operations that not every device and release of torch has."""
    config = TopKTrainingSAEConfig(d_in=8, d_sae=16, k=2, device=str(device), use_sparse_activations=True)
    sae = TopKTrainingSAE(config)
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = sae.decode(sae.encode(torch.ones(4, 8, device=device))).square().sum()
        loss.backward()
    except RuntimeError as error:
        print(f"sparse codes do not train on {device}: {str(error).splitlines()[0]}")
        return False
    return True


def main() -> None:
    case = case_given()
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=case.d_in,
            d_sae=case.d_sae,
            k=case.k,
            device=str(case.device),
            decoder_init_norm=1.0,
            use_sparse_activations=sparse_codes_train(case.device),
        )
    )
    sae.W_dec.data.copy_(case.decoder)
    sae.W_enc.data.copy_(case.decoder.T)
    config = SAETrainerConfig(
        total_training_samples=case.steps * case.batch,
        train_batch_size_samples=case.batch,
        lr=case.rate,
        lr_end=case.rate,
        device=str(case.device),
        autocast=case.on_gpu,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(config, sae, iter(Paced(case, "sae-lens", sae))).fit()


if __name__ == "__main__":
    main()
