"""EleutherAI's sparsify: its Trainer, paced, with Adam, which is one of its three optimizers, as in all others here.

Its loop takes the activations of a language model's layer; a model whose one layer gives the tokens of the batch stands
in for that. With bitsandbytes it would take an 8-bit Adam; without, torch's. Its kernels for the decoder run on GPUs.
"""

import os

from paced import Paced, case_given, leave_out

case = case_given()
if not case.on_gpu:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # read when it is imported
leave_out("datasets")  # what it reads texts with

import torch  # noqa: E402
from sparsify import SparseCoderConfig, TrainConfig, Trainer  # noqa: E402
from torch import Tensor, nn  # noqa: E402

LAYER = "layer"
FOREVER = 10**9  # batches of a run so long that its learning rate does not fall here, nor does it save


class TokenModel(nn.Module):
    """A layer that gives tokens (1, n, d_in)."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.tokens, self.device = tokens, tokens.device
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        given: Tensor = self.layer(self.tokens.unsqueeze(0))
        return given


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Gives the model the tokens of the next batch, and its loop their numbers."""

    def __init__(self, model: TokenModel) -> None:
        self.model = model

    def __len__(self) -> int:
        return FOREVER

    def begin(self, paced: Paced) -> None:
        self.batches = iter(paced)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        self.model.tokens = next(self.batches)
        return {"input_ids": torch.arange(len(self.model.tokens))}


def main() -> None:
    model = TokenModel(case.held_out[:1])
    config = TrainConfig(
        SparseCoderConfig(num_latents=case.d_sae, k=case.k), batch_size=1, optimizer="adam", lr=case.rate,
        lr_warmup_steps=0, hookpoints=[LAYER], save_every=FOREVER, log_to_wandb=False,
    )  # fmt: skip
    batches = Batches(model)
    trainer = Trainer(config, batches, model)
    sae = trainer.saes[LAYER]
    sae.encoder.weight.data.copy_(case.decoder)
    sae.W_dec.data.copy_(case.decoder)
    batches.begin(Paced(case, "eai-sparsify", lambda x: sae(x).sae_out))
    trainer.fit()


if __name__ == "__main__":
    main()
