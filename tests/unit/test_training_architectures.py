"""BatchTopK and Matryoshka: thresholds in place of the batch, first features that stand alone; averaged weights."""

from dataclasses import replace

import pytest
import torch

from sae.export import export
from sae.formats import load
from sae.training.card import evaluate
from sae.training.config import TopKConfig
from sae.training.finished_sae import export_topk, trained_sae
from sae.training.topk import TopKModel
from sae.training.trainer import TopKTrainer
from world import ACTIVE, BATCH, WIDTH, WORLD

CONFIG = TopKConfig(
    d_in=WIDTH, d_sae=96, k=ACTIVE, steps=300, batch_tokens=BATCH, rate=3e-3, warmup_steps=20, dead_tokens=10_000
)
OVER_BATCH = ("batchtopk", "matryoshka")


@pytest.fixture(scope="module")
def trained():
    models = {}
    for kind in ("topk", *OVER_BATCH):
        config = replace(CONFIG, architecture=kind, widths=(32, 64) if kind == "matryoshka" else ())
        models[kind] = TopKTrainer(config).fit(WORLD.batches(seed=1))
    return models


@pytest.mark.parametrize("kind", OVER_BATCH)
def test_the_threshold_does_what_the_batch_did(trained, kind):
    model, fresh = trained[kind], list(WORLD.batches(seed=2, count=4))
    measured, _ = evaluate(model, fresh)
    assert measured.l0 == pytest.approx(ACTIVE, rel=0.1)
    none_dead = torch.zeros(CONFIG.d_sae, dtype=torch.bool)
    chosen = [1 - model.losses(batch, none_dead).reconstruction.item() for batch in fresh]
    assert measured.explained_variance == pytest.approx(sum(chosen) / 4, abs=0.01)
    assert measured.explained_variance > 0.78


@pytest.mark.parametrize("kind", OVER_BATCH)
def test_codes_do_not_depend_on_the_batch(trained, kind):
    x = next(WORLD.batches(seed=3))
    sae = trained_sae(trained[kind])
    together, alone = sae.encode(x), torch.cat([sae.encode(row[None]) for row in x[:20]])
    torch.testing.assert_close(together[:20], alone)


@pytest.mark.parametrize("kind", ("topk", *OVER_BATCH))
@pytest.mark.parametrize("target", [None, "saelens", "dictionary_learning", "sae_steering"])
def test_exports_have_equal_codes(trained, kind, target, tmp_path):
    model, x = trained[kind], next(WORLD.batches(seed=4))
    sae = load(export_topk(model, tmp_path / "own"))
    if target is not None:
        sae = load(export(sae, tmp_path / target, target))
    torch.testing.assert_close(sae.encode(x), model.encode(x).to_dense(CONFIG.d_sae), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.reconstruct(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_dictionary_learning_gets_its_own_class(trained, tmp_path):
    sae = load(export_topk(trained["batchtopk"], tmp_path / "own"))
    again = load(export(sae, tmp_path / "theirs", "dictionary_learning"))
    assert again.origin.config["trainer"]["dict_class"] == "BatchTopKSAE"
    assert again.origin.config["trainer"]["k"] == ACTIVE


def explained_by_the_first(model, x, width):
    codes = model.encode(x).to_dense(CONFIG.d_sae)
    rebuilt = codes[:, :width] @ model.decoder.detach()[:width] + model.centre.detach()
    return 1 - float((x - rebuilt).square().sum() / (x - x.mean(dim=0)).square().sum())


def test_the_first_features_of_a_matryoshka_stand_alone(trained):
    x = next(WORLD.batches(seed=5))
    nested = explained_by_the_first(trained["matryoshka"], x, 32)
    plain = explained_by_the_first(trained["batchtopk"], x, 32)
    assert nested > plain + 0.1
    assert explained_by_the_first(trained["matryoshka"], x, 64) > nested + 0.1


def test_the_average_of_the_weights_by_hand():
    config = replace(CONFIG, steps=12, average=0.9)
    plain, averaged = TopKTrainer(replace(config, average=0.0)), TopKTrainer(config)
    wanted = plain.model.encoder.detach().clone()
    for batch in WORLD.batches(seed=6, count=12):
        plain.train_step(batch)
        averaged.train_step(batch)
        wanted = 0.9 * wanted + 0.1 * plain.model.encoder.detach()
    torch.testing.assert_close(averaged.result().encoder.detach(), wanted)
    assert torch.equal(averaged.model.encoder, plain.model.encoder)  # the run itself is the same
    assert (averaged.result().decoder.norm(dim=1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("kind", OVER_BATCH)
def test_a_resumed_run_with_threshold_and_average_is_the_same(kind, tmp_path):
    config, batches = replace(CONFIG, steps=8, average=0.5, architecture=kind), list(WORLD.batches(seed=7, count=8))
    whole = TopKTrainer(config)
    whole.fit(batches)
    first = TopKTrainer(config)
    for batch in batches[:3]:
        first.train_step(batch)
    first.save(tmp_path / "state.pt")
    second = TopKTrainer(config)
    second.load(tmp_path / "state.pt")
    for name, tensor in whole.result().state_dict().items():
        assert not name.startswith("enc") or not torch.equal(tensor, second.result().state_dict()[name])
    second.fit(batches[3:])
    for name, tensor in whole.result().state_dict().items():
        assert torch.equal(tensor, second.result().state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gated"}, "architecture: 'gated' is not one that is trained here; use topk, batchtopk or"),
        ({"widths": (8,)}, "widths: only a matryoshka SAE has them, but this one is topk"),
        ({"architecture": "matryoshka", "widths": (64, 32)}, r"widths: .* ascend up to 96, but got \[64, 32\]"),
        ({"architecture": "matryoshka", "widths": (97,)}, r"widths: .* up to 96"),
        ({"average": 1.0}, "average: it is a decay from 0 to below 1"),
        ({"products": "int8"}, "products: 'int8'"),
        ({"rate": 0.0}, "rate: Adam needs"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_widths_of_a_matryoshka_come_by_themselves():
    assert replace(CONFIG, architecture="matryoshka").nested == (6, 12, 24, 48, 96)
    assert replace(CONFIG, architecture="matryoshka", widths=(10, 96)).nested == (10, 96)
    assert CONFIG.nested == (96,)


def test_an_untrained_model_has_codes_of_zero_threshold():
    model = TopKModel(replace(CONFIG, architecture="batchtopk"))
    codes = model.encode(next(WORLD.batches(seed=8))).to_dense(96)
    assert 0.1 < float((codes > 0).float().mean()) < 0.9
