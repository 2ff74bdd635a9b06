"""Other ways to make a direction of two sides: read whitened, written as it is; the main direction of the pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae.dictionary.contrast import SIDES, WAYS, Contrast, TokenCovariance, shrunk, way_at, whitened
from sae.finding.contrasted import contrasted_tokens
from sae.finding.two_sides import Runs, contrast_of_texts, find_contrasts
from sae.places.moment import COND, UNCOND, Moment, unheard
from sae.places.site import Site

SITE = Site("double", (0,), "input", "text")
WIDTH, TOKENS, RUNS, CALLS = 6, 9, 4, 2


def made(seed: int = 0) -> dict[str, np.ndarray]:
    """(runs, calls, tokens, WIDTH) of each side: tokens that vary ten times as much one way, and a word's shift."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(WIDTH, WIDTH)) * np.array([10, 1, 1, 1, 1, 0.3])
    shape = (RUNS, CALLS, TOKENS, WIDTH)
    shift = random.normal(size=WIDTH) + 1
    return {side: random.normal(size=shape) @ mixing.T + far * shift for side, far in zip(SIDES, (1, -1), strict=True)}


class Given:
    """A `Show` of such tokens; the rows of the other side of guidance are noise that must not count."""

    def __init__(self, tokens: dict[str, np.ndarray]) -> None:
        self.tokens = tokens

    def __call__(self, side, run, sees, on_step) -> None:
        for number, call in enumerate(self.tokens[side][run]):
            noise = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(number)) * 100
            x = torch.cat([torch.tensor(call, dtype=torch.float32)[None], noise])
            for see in sees:
                see(x, Moment(0.5, (COND, UNCOND), TOKENS, 8, 8))


def by_hand(tokens: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d, the shrunk Σ and w, in numpy: Chen et al. 2010, equation 23, and Fisher's direction."""
    flat = {side: tokens[side].reshape(-1, WIDTH) for side in SIDES}
    d = flat["positive"].mean(0) - flat["negative"].mean(0)
    apart = np.concatenate([flat[side] - flat[side].mean(0) for side in SIDES])
    s, n, p = apart.T @ apart / len(apart), 2 * RUNS * TOKENS, WIDTH
    square, trace = np.trace(s @ s), np.trace(s)
    rho = min(1, ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p)))
    sigma = (1 - rho) * s + rho * trace / p * np.eye(p)
    inverse = np.linalg.inv(sigma)
    return d, sigma, inverse @ d / (d @ inverse @ d)


def found(tokens: dict[str, np.ndarray], way: str) -> Contrast:
    [contrast] = find_contrasts(Given(tokens), [SITE], Runs(RUNS, RUNS, True, 0, way), unheard)
    return contrast


def test_whitened_writes_the_difference_and_reads_the_closed_formula() -> None:
    tokens = made()
    d, _, w = by_hand(tokens)
    contrast = found(tokens, "whitened")
    assert np.allclose(contrast.direction, d, rtol=1e-4, atol=1e-5)
    assert np.allclose(contrast.reads, w, rtol=2e-3, atol=1e-5)
    assert float(contrast.reads @ contrast.direction) == pytest.approx(1)
    sae = contrast.dictionary(SITE, "whitened")
    x = torch.tensor(tokens["positive"][0, 0], dtype=torch.float32)
    middle = sum(tokens[side].reshape(-1, WIDTH).mean(0) for side in SIDES) / 2
    codes = (tokens["positive"][0, 0] - middle) @ w
    assert np.allclose(sae.encode(x)[:, 0], np.maximum(0, codes), atol=2e-3)
    assert np.allclose(sae.encode(x)[:, 1], np.maximum(0, -codes), atol=2e-3)
    assert torch.allclose(sae.direction([0, 1]), torch.stack([contrast.direction, -contrast.direction]).float())


def test_of_all_ways_to_read_the_whitened_one_varies_least() -> None:
    tokens = made(1)
    d, sigma, w = by_hand(tokens)
    contrast = found(tokens, "whitened")
    reads = contrast.reads.numpy()
    random = np.random.default_rng(5)
    for other in (d / (d @ d), *(w + v - (v @ d) / (d @ d) * d for v in random.normal(size=(50, WIDTH)) * 0.05)):
        assert other @ d == pytest.approx(1, abs=1e-6)
        assert reads @ sigma @ reads <= other @ sigma @ other + 1e-9
    assert reads @ sigma @ reads < 0.5 * (d @ sigma @ d) / (d @ d) ** 2


def test_pca_is_the_first_singular_vector_of_the_pairs_as_long_as_they_are_along_it() -> None:
    tokens = made(2)
    pairs = tokens["positive"].mean((1, 2)) - tokens["negative"].mean((1, 2))
    v = np.linalg.svd(pairs)[2][0]
    contrast = found(tokens, "pca")
    assert np.allclose(contrast.direction, pairs.mean(0) @ v * v, rtol=1e-4, atol=1e-5)
    assert float(contrast.direction @ contrast.difference) > 0 and contrast.reads is None
    sae = contrast.dictionary(SITE, "pca")
    middle = (contrast.positive + contrast.negative) / 2
    step_on = torch.stack([middle + 3 * contrast.direction, middle - contrast.direction]).float()
    assert torch.allclose(sae.encode(step_on), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), atol=1e-4)
    with pytest.raises(ValueError, match=r"^contrast_by: 'pca' is of pairs"):
        Contrast.of(torch.randn(3, 4), torch.randn(2, 4), False, "pca")


def test_one_pair_gives_the_same_direction_every_way() -> None:
    tokens = {side: given[:1] for side, given in made(3).items()}
    d = by_hand(tokens)[0]
    for way in WAYS:
        [contrast] = find_contrasts(Given(tokens), [SITE], Runs(1, 1, True, 0, way), unheard)
        assert np.allclose(contrast.direction, d, rtol=1e-4, atol=1e-5)


def test_no_tokens_vary_and_few_tokens_are_shrunk_to_what_is_sound() -> None:
    same, d = TokenCovariance(), torch.arange(1, 5).double()
    same.add(torch.ones(3, 4), "positive")
    assert torch.allclose(whitened(d, same), d / d.square().sum())
    few = TokenCovariance()
    few.add(
        torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) + 1e4, "negative"
    )  # far from 0, far fewer than wide
    covariance = shrunk(few.scatter, few.tokens, few.samples)
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0.1 * float(covariance.trace()) / 64
    assert torch.isfinite(whitened(torch.ones(64).double(), few)).all()
    assert whitened(torch.zeros(4).double(), same).abs().max() == 0


def test_auto_is_whitened_where_text_enters_and_the_mean_elsewhere() -> None:
    tokens, places = made(6), [SITE, replace(SITE, point="block"), replace(SITE, stream="image")]
    show = Given(tokens)

    def at_all(side, run, sees, on_step) -> None:
        for see in sees:
            show(side, run, [see], on_step)

    found = find_contrasts(at_all, places, Runs(RUNS, RUNS, True, 0), unheard)
    assert [one.reads is None for one in found] == [False, True, True]
    assert np.allclose(found[0].reads, by_hand(tokens)[2], rtol=2e-3, atol=1e-5)
    assert [way_at("auto", None), way_at("pca", SITE)] == ["mean", "pca"]


def test_texts_of_an_embedding_take_the_same_ways() -> None:
    tokens = {side: [torch.tensor(run[0]) for run in given] for side, given in made(4).items()}
    d, _, w = by_hand({side: given[:, :1] for side, given in made(4).items()})
    contrast = contrast_of_texts(tokens, "whitened")
    assert np.allclose(contrast.direction, d) and np.allclose(contrast.reads, w, rtol=2e-3, atol=1e-5)
    far = {side: [text + (5 if side == "positive" else -5) for text in texts] for side, texts in tokens.items()}
    told = {"positive": ("a",) * RUNS, "negative": ("b",) * RUNS}
    made_of = contrasted_tokens(far, "x", told, way="pca")
    assert made_of.table.startswith("contrast a - b, pca: 4 runs")
