"""overcomplete's train_sae, paced."""

from paced import Paced, case_given, leave_out

# Its vision models need a torchvision of the same build as torch, its pictures an old matplotlib.
leave_out("overcomplete.models", "overcomplete.visualization")

from overcomplete.sae import TopKSAE, train_sae  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.optim import Adam  # noqa: E402


def squared_error(x: Tensor, reconstruction: Tensor, before: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    return (x - reconstruction).square().mean()


def main() -> None:
    case = case_given()
    sae = TopKSAE(case.d_in, case.d_sae, case.k, device=str(case.device))
    sae.dictionary._weights.data.copy_(case.decoder)
    sae.untied(bias=True)  # an encoder that begins as the dictionary, without the batch norm of the default one
    adam = Adam(sae.parameters(), lr=case.rate)
    batches = Paced(case, "overcomplete", lambda x: sae(x)[2])
    train_sae(sae, batches, squared_error, adam, nb_epochs=1, monitoring=0, device=str(case.device))


if __name__ == "__main__":
    main()
