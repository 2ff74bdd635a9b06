"""overcomplete's train_sae, paced."""

import sys
from unittest.mock import MagicMock

# Unused here: its vision models need a torchvision of the same build as torch, its pictures an old matplotlib.
for unused in ("overcomplete.models", "overcomplete.visualization"):
    sys.modules[unused] = MagicMock()

from overcomplete.sae import TopKSAE, train_sae  # noqa: E402
from paced import Paced, case_given  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.optim import Adam  # noqa: E402


def squared_error(x: Tensor, reconstruction: Tensor, before: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    return (x - reconstruction).square().mean()


def main() -> None:
    case = case_given()
    sae = TopKSAE(case.d_in, case.d_sae, case.k, device="cpu")
    sae.dictionary._weights.data.copy_(case.decoder)
    sae.untied(bias=True)  # an encoder that begins as the dictionary, without the batch norm of the default one
    adam = Adam(sae.parameters(), lr=case.rate)
    train_sae(sae, Paced(case, "overcomplete", lambda x: sae(x)[2]), squared_error, adam, nb_epochs=1, monitoring=0)


if __name__ == "__main__":
    main()
