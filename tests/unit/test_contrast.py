"""Directions without an SAE: the closed formula, what swap and add do with it, the noise floor, and the file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sae.dictionary.contrast import CLEAR, Contrast
from sae.dictionary.owner import TrainedOn
from sae.export import export
from sae.files.safetensors_file import open_safetensors, write_whole
from sae.finding.contrasted import contrasted_tokens
from sae.finding.features import feature_list
from sae.finding.two_sides import MeanReader, Runs, find_contrasts, measure, rows_of
from sae.formats import load
from sae.known.labels import contrast_labels
from sae.places.depth import Depth
from sae.places.families import family_named
from sae.places.moment import COND, UNCOND, Moment
from sae.places.named_choices import first_text, picture_attention, sites_of
from sae.places.site import Site
from sae.steering.delta import Steering

SITE = Site("double", (0,), "block", "text")
WIDTH = 12


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def moment(*sides: int) -> Moment:
    return Moment(0.5, sides or (COND,), 4, 8, 8)


class Given:
    """A `Show` of tokens that are there: side -> run -> calls of (batch, tokens, WIDTH)."""

    def __init__(self, **sides: list[list[torch.Tensor]]) -> None:
        self.sides, self.made = sides, []

    def __call__(self, side, run, sees, on_step) -> None:
        self.made.append((side, run))
        for x in self.sides[side][run]:
            for see in sees:
                see(x, moment())
        on_step(1.0, None)


def made(shift: torch.Tensor):
    """A measured dictionary of two sides: the third token of four is shifted."""
    sides = {
        side: [[tokens(run, 1, 4) + far * torch.eye(4)[2].view(1, 4, 1) * shift for _ in range(2)] for run in range(3)]
        for side, far in (("positive", 1.0), ("negative", -1.0))
    }
    show, told = Given(**sides), []
    runs = Runs(3, 3, paired=True, again=2)
    [contrast] = find_contrasts(show, [SITE], runs, lambda done, total, _: told.append((done, total)))
    sae = contrast.dictionary(SITE, "made", TrainedOn("FLUX.1", identity="Flux-1"), (("blue",), ("red", "more")))
    measure(show, [SITE], {SITE: sae}, runs, lambda done, total, _: told.append((done, total)))
    return sides, contrast, sae, show, told


def test_the_direction_the_codes_and_the_statistics_are_the_closed_formula() -> None:
    shift = 3 * torch.eye(WIDTH)[5]
    sides, contrast, sae, show, told = made(shift)
    p, n = (torch.cat([x.flatten(0, 1) for run in sides[s] for x in run]).double() for s in ("positive", "negative"))
    d, c = p.mean(0) - n.mean(0), (p.mean(0) + n.mean(0)) / 2
    assert torch.allclose(d, 2 * shift.double() / 4, atol=1e-6)  # of one token in four
    assert torch.allclose(sae.direction([0, 1]).double(), torch.stack([d, -d]), atol=1e-6)
    x = tokens(50, 2, 7)
    along = (x.double() - c) @ d / d.square().sum()
    assert torch.allclose(sae.encode(x).double(), torch.stack([along, -along], -1).clamp(min=0), atol=1e-5)
    assert torch.allclose(sae.reconstruct(x).double(), c + along.unsqueeze(-1) * d, atol=1e-5)
    again = [torch.cat([x.flatten(0, 1) for run in sides[s][:2] for x in run]) for s in ("positive", "negative")]
    for feature, seen in enumerate(again):
        codes = sae.encode(seen)[:, feature]
        assert float(sae.statistics.mean[feature]) == pytest.approx(float(codes[codes > 0].mean()), rel=1e-5)
        assert float(sae.statistics.max[feature]) == pytest.approx(float(codes.max()), rel=1e-5)
        assert float(sae.statistics.density[feature]) == pytest.approx(float((codes > 0).float().mean()))
    assert contrast.floor == pytest.approx(0.0, abs=1e-6)  # the pairs differ by the same everywhere
    assert show.made == [(s, run) for count in (3, 2) for s in ("positive", "negative") for run in range(count)]
    assert told == [(done, 10) for done in range(1, 11)]


def test_add_raw_1_adds_the_difference_and_swap_1_moves_what_the_negative_side_shows() -> None:
    shift = 30 * torch.eye(WIDTH)[5]
    sides, contrast, sae, *_ = made(shift)
    features, replaces = (feature_list(rows_of(sae, side), sae.owner) for side in ("positive", "negative"))
    x = sides["negative"][0][0]
    added = Steering(sae, features, "add", 1.0, "raw").delta(x)
    assert torch.allclose(added, contrast.difference.float().expand_as(x), atol=1e-5)
    swapped = x + Steering(sae, features, "swap", 1.0, "auto", replaces).delta(x)
    assert torch.allclose(swapped[0, 2], sides["positive"][0][0][0, 2], atol=0.15 * 60)
    assert (swapped - x)[0, :, 5].abs().argmax() == 2
    assert float((swapped - x)[0, [0, 1, 3]].norm()) < 0.2 * float((swapped - x)[0, 2].norm())
    assert Steering(sae, features, "swap", 0.0, "auto", replaces).changes_nothing


def test_the_noise_floor_is_the_standard_error_and_chance_is_one_of_them() -> None:
    p, n = tokens(1, 6), tokens(2, 6)
    pairs = (p - n).double()
    by_hand = sum(float((row - pairs.mean(0)).square().sum()) for row in pairs) / (6 * 5)
    assert Contrast.of(p, n, paired=True).floor == pytest.approx(by_hand**0.5)
    halves = sum(float((side - side.mean(0)).square().sum()) / (len(side) * (len(side) - 1)) for side in (p, n[:4]))
    assert Contrast.of(p, n[:4], paired=False).floor == pytest.approx(halves**0.5)
    for paired in (True, False):
        chance = [Contrast.of(tokens(2 * k, 5), tokens(2 * k + 1, 5), paired) for k in range(400)]
        squares = sum(one.norm**2 for one in chance), sum(one.floor**2 for one in chance)
        assert squares[0] / squares[1] == pytest.approx(1, abs=0.06)
        assert sum(one.is_nothing for one in chance) > 0.97 * 400
    real = Contrast.of(p + 5, n, paired=True)
    assert real.times == pytest.approx(real.norm / real.floor) and real.times > CLEAR and not real.is_nothing


def test_consistency_is_the_mean_cosine_with_the_mean_and_of_nothing_in_common_it_is_one_over_the_root() -> None:
    p, n = tokens(1, 6), tokens(2, 6)
    rows = (p - n).double().numpy()
    mean = rows.mean(0)
    cosines = rows @ mean / (np.linalg.norm(rows, axis=1) * np.linalg.norm(mean))
    assert Contrast.of(p, n, paired=True).consistency == pytest.approx(cosines.mean())
    assert Contrast.of(p, p - 3, paired=True).consistency == pytest.approx(1)
    apart = torch.eye(9, dtype=torch.float64)[:4]  # four pairs that differ in four ways
    assert Contrast.of(apart, torch.zeros(4, 9), paired=True).consistency == pytest.approx(0.5)
    assert Contrast.of(p, n, paired=False).consistency is None
    assert Contrast.of(p[:1], n[:1], paired=True).consistency is None
    assert Contrast.of(p, p, paired=True).consistency == 0


def test_pairs_that_disagree_are_told_in_one_sentence() -> None:
    """Of embeddings: twenty pairs that differ in 2 of a thing of their own each, and in 0.8 of one that all have."""
    shared, own, pairs = 0.8, 2.0, 20
    eye, none = torch.eye(pairs + 1), [torch.zeros(1, pairs + 1)] * pairs
    one = [eye[:1] * shared + eye[k + 1 : k + 2] * own for k in range(pairs)]
    told = {"positive": ("a",), "negative": ("b",)}
    table = contrasted_tokens({"positive": one, "negative": none}, "here", told).table
    by_hand = ((shared**2 + own**2 / pairs) / (shared**2 + own**2)) ** 0.5
    assert table.splitlines()[2].endswith(f" {by_hand:.2f}")
    assert f"Pairs disagree at here: their differences' mean cosine with the direction is {by_hand:.2f}, bel" in table
    same = [eye[:1] * (5 + 0.1 * k) for k in range(pairs)]
    assert "disagree" not in contrasted_tokens({"positive": same, "negative": none}, "here", told).table


def test_one_run_knows_no_chance_and_equal_sides_are_nothing() -> None:
    one = Contrast.of(tokens(1, 1), tokens(2, 1), paired=True)
    assert one.floor is None and one.times is None and not one.is_nothing
    same = Contrast.of(tokens(1, 3), tokens(1, 3), paired=True)
    assert (same.floor, same.times, same.is_nothing) == (0.0, 0.0, True)
    with pytest.raises(ValueError, match=r"^positive, negative: at transformer_blocks\.0 \(text\) both sides are the"):
        same.dictionary(SITE, "nothing")
    with pytest.raises(ValueError, match="3 and 2 runs came, but pairs need as many of each"):
        Contrast.of(tokens(1, 3), tokens(2, 2), paired=True)


def test_means_are_of_the_prompts_side_alone_over_all_tokens_or_token_by_token() -> None:
    calls = [tokens(seed, 2, 4) for seed in (1, 2)]
    whole, by_token = MeanReader(SITE), MeanReader(SITE, by_token=True)
    for x in calls:
        whole(x, moment(COND, UNCOND))
        by_token(x, moment(COND, UNCOND))
    cond = torch.stack([x[0] for x in calls]).double()
    assert torch.allclose(whole.mean, cond.mean((0, 1)), atol=1e-6)
    assert torch.allclose(by_token.mean, cond.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match=r"4 tokens were seen at .*, then 5, of which there is no mean token by token"):
        by_token(tokens(3, 1, 5), moment())
    with pytest.raises(ValueError, match="it never came to"):
        _ = MeanReader(SITE).mean


def test_the_file_keeps_directions_prompts_model_and_place(tmp_path) -> None:
    *_, sae, _, _ = made(3 * torch.eye(WIDTH)[5])
    loaded = load(export(sae, tmp_path, "sae_steering"))
    assert (loaded.contrast, loaded.site, loaded.owner) == (sae.contrast, SITE, sae.owner)
    assert loaded.contrast.positive == ("blue",) and loaded.contrast.negative == ("red", "more")
    assert loaded.trained_on == TrainedOn("FLUX.1", identity="Flux-1")
    assert torch.equal(loaded.direction([0, 1]), sae.direction([0, 1]))
    assert torch.equal(loaded.statistics.density, sae.statistics.density)
    assert {k: label.name for k, label in contrast_labels(loaded).items()} == {0: "blue", 1: "red …"}


@pytest.mark.parametrize(
    "change", [{"runs": 0}, {"norm": 0}, {"norm": "x"}, {"floor": -1}, {"positive": "blue"}, {"negative": [1]}]
)  # fmt: skip
def test_a_contrast_that_is_not_sound_is_told(tmp_path, change) -> None:
    *_, sae, _, _ = made(3 * torch.eye(WIDTH)[5])
    path = export(sae, tmp_path, "sae_steering")
    source, metadata = open_safetensors(path)
    described = json.loads(metadata["sae"])
    described["contrast"] |= change
    write_whole(path, {name: source.whole(name) for name in source.infos}, {**metadata, "sae": json.dumps(described)})
    path.with_name("model.stats.safetensors").unlink()
    with pytest.raises(ValueError, match="must give the contrast with positive and negative") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_where_contrasts_are_looked_for() -> None:
    flux, wan, depth = family_named("FLUX.1"), family_named("Wan 2"), Depth(2, 2)
    assert sites_of(flux, depth, "auto", "auto", first_text) == [replace(SITE, point="input")]
    assert [str(site) for site in sites_of(flux, depth, "", "image", first_text)] == [
        "transformer_blocks.0.input (image)"
    ]
    attention = [str(site) for site in picture_attention(flux, depth)]
    assert attention == [
        *(f"transformer_blocks.{n}.attn (image)" for n in range(2)),
        *(f"single_transformer_blocks.{n}.attn (image)" for n in range(2)),
    ]
    assert [str(site) for site in first_text(wan, Depth(blocks=2))] == [
        "blocks.0.attn1 (image)",
        "blocks.1.attn1 (image)",
    ]
    several = sites_of(flux, depth, "double_blocks.0-1; single_blocks.1; transformer_blocks.1", "image", first_text)
    assert [str(site) for site in several] == [
        "transformer_blocks.0 (image)", "transformer_blocks.1 (image)", "single_transformer_blocks.1 (image)",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"location: ';' names no place"):
        sites_of(flux, depth, ";", "auto", first_text)
