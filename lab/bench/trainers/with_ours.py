"""This project's trainer, paced."""

from paced import Paced, case_given

from sae.training.config import TopKConfig
from sae.training.trainer import TopKTrainer


def main() -> None:
    case = case_given()
    config = TopKConfig(
        case.d_in, case.d_sae, case.k, case.steps, case.batch, case.rate, warmup_steps=0, decay_share=0.0
    )
    trainer = TopKTrainer(config, case.device)
    trainer.model.decoder.data.copy_(case.decoder)
    trainer.model.encoder.data.copy_(case.decoder)
    trainer.fit(Paced(case, "", trainer.model))


if __name__ == "__main__":
    main()
