"""The trainer finds what generated the data, revives dead features, resumes exactly and writes files that load."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import normalize

from sae.dictionary.statistics import FeatureStatistics
from sae.formats import load
from sae.places.site import parse_location
from sae.training.card import evaluate
from sae.training.config import TopKConfig
from sae.training.finished_sae import export_topk
from sae.training.topk import TopKModel, geometric_median
from sae.training.trainer import TopKTrainer
from world import ACTIVE, BATCH, WIDTH, WORLD

SITE = parse_location("transformer_blocks.1", "image")
CONFIG = TopKConfig(
    d_in=WIDTH, d_sae=96, k=ACTIVE, steps=500, batch_tokens=BATCH, rate=3e-3, warmup_steps=20, dead_tokens=10_000
)
SMALL = TopKConfig(d_in=6, d_sae=10, k=2, steps=30, batch_tokens=16, dead_tokens=100, warmup_steps=5)


@pytest.fixture(scope="module")
def trained():
    reports = []
    trainer = TopKTrainer(CONFIG)
    trainer.fit(WORLD.batches(seed=1), reports.append)
    return trainer, reports


def test_true_directions_are_found(trained):
    found = WORLD.best_cosines(trained[0].model)
    control = WORLD.best_cosines(TopKModel(CONFIG))
    assert found.mean() > 0.97
    assert (found > 0.9).float().mean() > 0.9
    assert control.mean() < 0.5


def test_explained_variance_rises(trained):
    trainer, reports = trained
    fresh = list(WORLD.batches(seed=2, count=4))
    before, after = evaluate(TopKModel(CONFIG), fresh)[0], evaluate(trainer.model, fresh)[0]
    assert before.explained_variance < 0.3
    assert after.explained_variance > 0.9
    assert after.cosine > 0.95
    assert [report.step for report in reports] == list(range(50, 501, 50))
    assert reports[-1].explained_variance > reports[0].explained_variance + 0.1


def test_decoder_keeps_unit_length(trained):
    assert (trained[0].model.decoder.norm(dim=1) - 1).abs().max() < 1e-5


def test_bias_starts_in_the_middle():
    batch = next(WORLD.batches(seed=3))
    model = TopKModel(replace(CONFIG, bias_start="mean"))
    model.fit_to(batch)
    torch.testing.assert_close(model.centre.detach(), batch.mean(dim=0))
    assert float(model.scale) == pytest.approx(float(batch.var(dim=0, correction=0).mean().sqrt()), rel=1e-5)
    spoiled = torch.cat([batch, torch.full((50, WIDTH), 1000.0)])
    middle = geometric_median(spoiled)
    assert (middle - batch.mean(dim=0)).norm() < 1 < (spoiled.mean(dim=0) - batch.mean(dim=0)).norm() / 100


def test_median_minimises_the_distances():
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(4)).exp()
    middle = geometric_median(points, iterations=200)
    unit = normalize(points - middle, dim=1)
    assert unit.mean(dim=0).norm() < 1e-3  # the gradient of the summed distance


def revive(aux_weight):
    """Trains with half of the features pushed down so far that they hardly ever win."""
    trainer = TopKTrainer(replace(CONFIG, d_sae=64, steps=400, aux_weight=aux_weight))
    with torch.no_grad():
        trainer.model.encoder_bias[:32] = -3.0
    trainer.fit(WORLD.batches(seed=5))
    measured, statistics = evaluate(trainer.model, WORLD.batches(seed=6, count=8))
    return measured, statistics.dead[:32].float().mean()


def test_auxiliary_loss_revives_dead_features():
    plain, still_dead = revive(aux_weight=0.0)
    helped, left_dead = revive(aux_weight=1 / 32)
    assert still_dead > 0.8
    assert left_dead < 0.3
    assert helped.explained_variance > plain.explained_variance + 0.1


def test_losses_by_hand():
    model, generator = TopKModel(SMALL), torch.Generator().manual_seed(7)
    x = torch.randn(20, 6, generator=generator)
    with torch.no_grad():
        model.bias.copy_(torch.randn(6, generator=generator))
        model.encoder_bias.copy_(torch.randn(10, generator=generator) / 4)
    dead = torch.arange(10) < 5
    losses = model.losses(x, dead)
    rebuilt, leftover = torch.zeros(20, 6), torch.zeros(20, 6)
    fired = set()
    for row in range(20):
        before = ((x[row] - model.bias) @ model.encoder.T + model.encoder_bias).tolist()
        for i in sorted(range(10), key=lambda i: -before[i])[:2]:
            rebuilt[row] += max(before[i], 0.0) * model.decoder[i].detach()
            fired |= {i} if before[i] > 0 else set()
        for i in sorted(range(5), key=lambda i: -before[i])[:3]:  # half of d_in, dead ones only
            leftover[row] += max(before[i], 0.0) * model.decoder[i].detach()
    error = x - rebuilt - model.bias.detach()
    variance = (x - x.mean(dim=0)).square().sum()
    reconstruction, auxiliary = error.square().sum() / variance, (error - leftover).square().sum() / variance
    torch.testing.assert_close(losses.reconstruction.detach(), reconstruction)
    torch.testing.assert_close(losses.auxiliary.detach(), auxiliary)
    torch.testing.assert_close(losses.total.detach(), reconstruction + auxiliary / 32)
    assert set(torch.where(losses.fired)[0].tolist()) == fired


def test_auxiliary_gradient_reaches_dead_features_only():
    model, x = TopKModel(SMALL), torch.randn(20, 6, generator=torch.Generator().manual_seed(8))
    dead = torch.arange(10) < 5
    (model.losses(x, dead).auxiliary).backward()
    assert model.decoder.grad[5:].abs().max() == 0
    assert model.encoder.grad[5:].abs().max() == 0
    assert model.decoder.grad[:5].abs().max() > 0
    model.drop_parallel_gradient()
    assert (model.decoder.grad * model.decoder).sum(dim=1).abs().max() < 1e-6


def test_rate_rises_and_falls():
    config = replace(SMALL, steps=100, warmup_steps=9, decay_share=0.2, rate=1.0)
    rates = [config.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.5) and rates[9] == 1.0
    assert set(rates[9:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)
    assert replace(config, decay_share=0.0).rate_at(99) == 1.0


def test_units_of_the_tokens_do_not_matter():
    """A power of two keeps every digit, so the runs differ in nothing but the unit."""
    batches = small_batches()
    plain, large = TopKTrainer(SMALL), TopKTrainer(SMALL)
    plain.fit(batches)
    large.fit([64 * batch for batch in batches])
    torch.testing.assert_close(large.model.decoder, plain.model.decoder)
    torch.testing.assert_close(large.model(64 * batches[0]), 64 * plain.model(batches[0]))
    torch.testing.assert_close(large.model.encode(64 * batches[0])[0], 64 * plain.model.encode(batches[0])[0])


def small_batches():
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(16, 6, generator=generator) for _ in range(SMALL.steps)]


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    batches, file = small_batches(), tmp_path / "state.pt"
    whole = TopKTrainer(SMALL)
    whole.fit(batches)

    class CancelledError(Exception):
        pass

    def cancel(progress):
        if progress.step == 12:
            raise CancelledError

    first = TopKTrainer(SMALL)
    with pytest.raises(CancelledError):
        first.fit(batches, cancel, report_every=4, checkpoint=file)
    second = TopKTrainer(SMALL)
    second.load(file)
    assert second.step == 12
    second.fit(batches[second.step :], checkpoint=file)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert torch.equal(whole.silent_tokens, second.silent_tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_checkpoint_of_another_configuration_is_refused(tmp_path):
    TopKTrainer(SMALL).save(tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: .* k = 2, but this run has 3"):
        TopKTrainer(replace(SMALL, k=3)).load(tmp_path / "state.pt")


def test_a_checkpoint_of_an_older_version_is_refused():
    """Its moments have another size: they would make the first steps too large."""
    state = TopKTrainer(SMALL).state()
    del state["gradient"]
    with pytest.raises(ValueError, match=r"state\.pt: this checkpoint was made by an older version"):
        TopKTrainer(SMALL).resume(state, "state.pt")


def test_the_rate_of_learning_does_not_fall_with_the_error():
    """Gradients that are clipped have one length, so that Adam's steps stay as long as they were."""
    random = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(24, 6, generator=random), dim=1)
    codes = torch.rand(4_000, 24, generator=random) * (torch.rand(4_000, 24, generator=random) < 0.08)
    trainer = TopKTrainer(replace(SMALL, steps=60, batch_tokens=100, d_sae=24, warmup_steps=0, decay_share=0.0))
    norms = []
    for batch in (codes @ directions).split(100)[:40]:
        trainer.train_step(batch)
        # what was clipped is gone after the step; Adam's second moments tell how long it was
        squares = [state["exp_avg_sq"].sum() for state in trainer.optimizer.state.values()]
        norms.append(float(sum(squares) / (1 - 0.999**trainer.step)) ** 0.5)
    assert norms[0] == pytest.approx(1, rel=1e-3) and norms[-1] == pytest.approx(1, rel=0.05)


def test_same_seed_same_result_other_seed_other_result():
    runs = []
    for seed in (0, 0, 1):
        trainer = TopKTrainer(replace(SMALL, seed=seed))
        runs.append(trainer.fit(small_batches()).decoder)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_bad_batches_are_refused():
    trainer = TopKTrainer(SMALL)
    with pytest.raises(ValueError, match=r"batch: .*\(n, 6\), but got \(4, 7\)"):
        trainer.train_step(torch.zeros(4, 7))
    with pytest.raises(ValueError, match="loss of step 1 is nan"):
        trainer.train_step(torch.full((4, 6), math.nan))
    with pytest.raises(ValueError, match="batches: they ended after step 3 of 30"):
        TopKTrainer(SMALL).fit(small_batches()[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 11}, "k: 11 of 10 features"),
        ({"k": 0}, "k: the trainer needs"),
        ({"steps": 2.5}, "steps: the trainer needs"),
        ({"decay_share": 1.5}, "decay_share: "),
        ({"bias_start": "zero"}, "bias_start: 'zero'"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TopKConfig(**(asdict(SMALL) | change))


def test_evaluation_by_hand(trained):
    model, x = trained[0].model, torch.cat(list(WORLD.batches(seed=10, count=2)))
    measured, statistics = evaluate(model, x.split(300))
    values, indices = model.encode(x)
    codes = torch.zeros(len(x), CONFIG.d_sae).scatter(1, indices, values).detach()
    rebuilt = codes @ model.decoder.detach() + model.centre.detach()
    unexplained = (x - rebuilt).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert measured.explained_variance == pytest.approx(1 - float(unexplained), abs=1e-5)
    assert measured.l0 == pytest.approx(float((codes > 0).sum()) / len(x))
    assert measured.dead_share == pytest.approx(float((codes.amax(dim=0) == 0).float().mean()))
    assert measured.tokens == statistics.tokens == 2 * BATCH
    count = (codes > 0).sum(dim=0)
    torch.testing.assert_close(statistics.density, count / len(x))
    torch.testing.assert_close(statistics.max, codes.amax(dim=0))
    torch.testing.assert_close(statistics.mean, codes.sum(dim=0) / count.clamp_min(1))
    with pytest.raises(ValueError, match="there are no tokens"):
        evaluate(model, [])


def test_export_loads_with_equal_codes(trained, tmp_path):
    model, x = trained[0].model, torch.cat(list(WORLD.batches(seed=11, count=1)))
    _, statistics = evaluate(model, [x])
    weights = export_topk(model, tmp_path / "plain", statistics)
    sae = load(weights)
    assert (sae.d_in, sae.d_sae) == (WIDTH, CONFIG.d_sae)
    values, indices = model.encode(x)
    codes = torch.zeros(len(x), CONFIG.d_sae).scatter(1, indices, values).detach()
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.reconstruct(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.direction([3, 40]), model.decoder[[3, 40]].detach())
    assert torch.equal(sae.statistics.max, statistics.max) and sae.statistics.tokens == BATCH


@pytest.mark.parametrize(
    ("folder", "site", "found"),
    [
        ("plain", None, None),
        ("plain", SITE, SITE),  # the file tells it
        ("x-transformer_blocks.0-text", SITE, SITE),  # even against the folder
        ("x-transformer_blocks.0-text", None, parse_location("transformer_blocks.0", "text")),  # the folder's name
    ],
)
def test_the_site_travels_in_the_weight_file(folder, site, found, tmp_path):
    weights = export_topk(TopKModel(SMALL), tmp_path / folder, site=site)
    sae = load(weights)
    assert sae.site == found
    with safe_open(weights, "pt") as file:
        header = file.metadata() or {}
    assert header.get("hook_name") == sae.origin.hook == (None if site is None else "transformer_blocks.1-image")


def test_export_has_the_reny_layout(tmp_path):
    weights = export_topk(TopKModel(SMALL), tmp_path, dtype=torch.float16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"features": 6, "pages": 10, "k": 2, "sample": None}
    with safe_open(weights, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    shapes = {"bias": (6,), "encoder.weight": (10, 6), "encoder.bias": (10,), "decoder.weight": (6, 10)}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(ValueError, match="statistics: they describe 4 features, but the SAE has 10"):
        export_topk(TopKModel(SMALL), tmp_path, FeatureStatistics(*[torch.zeros(4)] * 3, tokens=1))
