"""What an SAE is worth to a model, on one whose answer is known: it adds up its tokens and applies a matrix."""

import pytest
import torch
from torch.nn.functional import normalize

from sae.dictionary.activations import Architecture
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.finding.recovery import Replaced, prediction_recovered, steerability
from sae.places.moment import COND, Moment
from sae.places.site import parse_location

SITE = parse_location("transformer_blocks.0", "text")
MOMENT = Moment(0.5, (COND,), 3, 4, 4)
ROWS, TOKENS, WIDTH = 40, 3, 24
RANDOM = torch.Generator().manual_seed(5)
DIRECTIONS = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=RANDOM))[0]
CODES = torch.rand(ROWS, TOKENS, WIDTH, generator=RANDOM) * (torch.rand(ROWS, 1, WIDTH, generator=RANDOM) > 0.7)
X = CODES @ DIRECTIONS
MATRIX = torch.randn(WIDTH, 50, generator=RANDOM)


def outputs(taps):
    x = X
    for tap in taps:
        x = tap(x, MOMENT)
    return x.sum(dim=1) @ MATRIX


def sae_of(encoder, decoder):
    tensors = {"encoder": encoder.clone(), "decoder": decoder.clone()}
    return SparseAutoencoder.from_tensors(tensors, Architecture("relu"), site=SITE)


EXACT = sae_of(DIRECTIONS, DIRECTIONS)


def test_an_exact_sae_recovers_everything_and_zeros_nothing():
    assert prediction_recovered(outputs, EXACT, SITE) == pytest.approx(1, abs=1e-6)
    assert prediction_recovered(outputs, sae_of(DIRECTIONS, DIRECTIONS * 0), SITE) == pytest.approx(0, abs=1e-6)
    # (1 - 0.8)² of the way to zeros, the model being linear
    assert prediction_recovered(outputs, sae_of(DIRECTIONS, DIRECTIONS * 0.8), SITE) == pytest.approx(0.96, abs=1e-5)


def test_features_that_the_model_reads_steer_and_others_are_left_to_chance():
    told = []
    share, tried = steerability(outputs, EXACT, SITE, features=20, on_feature=lambda *given: told.append(given))
    assert (share, tried) == (1.0, 20) and told == [(done, 20) for done in range(20)]
    wrong = normalize(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(6)), dim=1)
    share, _ = steerability(outputs, sae_of(DIRECTIONS, wrong), SITE, features=24)
    assert 0.2 < share < 0.8
    share, _ = steerability(outputs, sae_of(DIRECTIONS, -DIRECTIONS), SITE, features=24)
    assert share < 0.1


def test_the_random_direction_is_as_long_token_by_token():
    seen = []

    def watched(taps):
        seen.extend((tap(X, MOMENT) - X).norm(dim=-1) for tap in taps if isinstance(tap, Replaced))
        return outputs(taps)

    steerability(watched, EXACT, SITE, features=5)
    for own, other in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
        assert (own[:, 0] > 0).sum() == ROWS // 2


def test_cancel_passes_through():
    def cancel(done, total):
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        steerability(outputs, EXACT, SITE, on_feature=cancel)


def test_the_update_of_a_block_is_what_an_update_sae_replaces():
    tap = Replaced(SITE, lambda update: 2 * update)
    x, update = torch.ones(2, 3, 4), torch.full((2, 3, 4), 0.25)
    torch.testing.assert_close(tap(x, MOMENT, update), torch.full((2, 3, 4), 1.25))
