"""SAELens' SAETrainer, paced. Codes stay dense: its sparse ones train on GPUs only."""

from paced import Paced, case_given
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer


def main() -> None:
    case = case_given()
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=case.d_in,
            d_sae=case.d_sae,
            k=case.k,
            device="cpu",
            decoder_init_norm=1.0,
        )
    )
    sae.W_dec.data.copy_(case.decoder)
    sae.W_enc.data.copy_(case.decoder.T)
    config = SAETrainerConfig(
        total_training_samples=case.steps * case.batch,
        train_batch_size_samples=case.batch,
        lr=case.rate,
        lr_end=case.rate,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(config, sae, iter(Paced(case, "sae-lens", sae))).fit()


if __name__ == "__main__":
    main()
