"""The facts about an SAE, its fingerprint, the measure of its fit, and the verdict."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from embeds import sae_for
from layouts import D, F, K, linear
from sae.demo.shipped_weights import SAE_NAMES, WEIGHTS, load_sae
from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.dictionary.fingerprint import fingerprint
from sae.finding.fit import Fit
from sae.finding.inspection import SelfTest, describe, judge, report, rival_sites
from sae.formats import load
from sae.places.depth import Depth
from sae.places.moment import Moment
from sae.places.site import parse_location
from small_saes import dense_codes, dense_decode, small_sae, tensors_of

SITE = parse_location("transformer_blocks.1", "image")
DEPTH = Depth(2, 4)


def fit(explained: float, l0: float = 16.0) -> Fit:
    return Fit(explained, l0, 0.1, 0.9, 100)


@pytest.mark.parametrize("kind", ["topk", "relu", "layer_norm", "unit decoder"])
def test_the_measure_is_the_closed_formula(kind: str) -> None:
    sae, x = small_sae(kind), torch.randn(30, 12, generator=torch.Generator().manual_seed(2))
    test = SelfTest(sae)
    for part in x.split(11):
        test(part.unsqueeze(0), Moment(0.5, (0,), 0, 8, 8))
    f = dense_codes(kind, x)
    back = dense_decode(kind, f, x)
    found = test.fit
    assert found is not None and found.tokens == 30
    error, total = (x - back).square().sum(), (x - x.mean(0)).square().sum()
    assert found.explained_variance == pytest.approx(float(1 - error / total), rel=1e-4)
    assert found.l0 == pytest.approx(float((f > 0).sum(1).float().mean()), rel=1e-5)
    assert found.dead_share == pytest.approx(float(((f > 0).sum(0) == 0).float().mean()), abs=1e-6)
    centre = torch.zeros(12) if kind in ("layer_norm", "unit decoder") else tensors_of(kind)["output_bias"]
    cosine = torch.cosine_similarity(x - centre, back - centre, dim=1).mean()
    assert found.cosine == pytest.approx(float(cosine), rel=1e-4)


def test_tokens_that_are_not_finite_are_left_out_and_counted() -> None:
    test, x = SelfTest(small_sae("relu")), torch.randn(6, 12)
    x[2, 3] = float("nan")
    test.add(x, 0.5)
    assert test.broken == 1 and test.fit is not None and test.fit.tokens == 5
    empty = SelfTest(small_sae("relu"))
    empty.add(torch.full((3, 12), torch.inf), 0.5)
    assert empty.fit is None
    assert "are not finite" in judge(small_sae("relu"), SITE, empty.fit, {}).sentence


def test_a_limit_takes_tokens_evenly() -> None:
    test = SelfTest(small_sae("relu"), limit=10)
    test.add(torch.randn(2, 50, 12), 0.5)
    assert test.fit is not None and test.fit.tokens == 10


def test_the_verdict_weighs_what_is_explained_here_and_elsewhere() -> None:
    sae, other = small_sae("topk"), parse_location("transformer_blocks.0", "image")
    assert judge(sae, SITE, fit(0.9), {other: fit(0.92)}).fits
    assert judge(sae, SITE, fit(0.9), {other: fit(0.92)}).sentence.startswith("This SAE fits this model at transformer")
    better = judge(sae, SITE, fit(0.63), {other: fit(0.997)})
    assert (
        not better.fits and "63.0% of the variance there, but 99.7% at transformer_blocks.0 (image)" in better.sentence
    )
    assert not judge(sae, SITE, fit(0.4), {other: fit(0.44)}).fits
    assert not judge(sae, SITE, fit(-12.0), {other: fit(0.3)}).fits
    assert not judge(sae, SITE, fit(0.9, l0=0.0), {}).fits
    assert not judge(sae, SITE, fit(float("nan")), {}).fits


def test_rivals_are_the_other_blocks_points_and_streams() -> None:
    names = {str(site) for site in rival_sites(SITE, DEPTH)}
    assert names == {
        "transformer_blocks.0 (image)", "transformer_blocks.1.update (image)", "transformer_blocks.1.attn (image)",
        "transformer_blocks.1.ff (image)", "transformer_blocks.1.input (image)", "transformer_blocks.1 (text)",
        *(f"single_transformer_blocks.{block} (image)" for block in range(4)),
    }  # fmt: skip
    joint = rival_sites(parse_location("single_transformer_blocks.1", "joint"), DEPTH)
    assert all(site.stream == "joint" and site.kind == "single" for site in joint) and len(joint) == 6
    assert rival_sites(parse_location("transformer_blocks.0-1"), DEPTH) == []


def test_the_fingerprint_is_the_files_own_sum_and_stays() -> None:
    path = WEIGHTS / SAE_NAMES[1] / "model.safetensors"
    sae = load_sae(SAE_NAMES[1])
    seen: list[tuple[int, int]] = []
    assert (
        fingerprint(sae, lambda done, total: seen.append((done, total)))
        == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert fingerprint(sae, lambda done, total: pytest.fail("it was read twice")) == fingerprint(sae.at(SITE))


def test_the_fingerprint_of_shards_and_of_memory(tmp_path: Path) -> None:
    state = list(linear("bias", "encoder.bias").items())
    paths = [tmp_path / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for path, part in zip(paths, (dict(state[:2]), dict(state[2:])), strict=True):
        save_file(part, path)
    sums = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    sae = load(paths[0], architecture=f"reny_topk:{K}")
    assert fingerprint(sae) == hashlib.sha256(sums.encode()).hexdigest()
    first, second = small_sae("relu"), small_sae("relu")
    assert fingerprint(first) == fingerprint(second) != fingerprint(small_sae("jumprelu"))


def test_a_cancelled_fingerprint_is_not_kept() -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    sae = load_sae(SAE_NAMES[0])
    with pytest.raises((InterruptedError, ValueError)):
        fingerprint(sae, stop)
    assert len(fingerprint(sae)) == 64


@pytest.mark.parametrize(
    ("architecture", "selection"),
    [
        (Architecture("topk", k=3), "the k = 3 largest of each token"),
        (Architecture("groupmax", k=4), "the largest of each of 4 groups"),
        (Architecture("relu"), "what is positive"),
        (Architecture("batchtopk"), "above the threshold 0.25"),
        (Architecture("jumprelu"), "above each feature's threshold, 0.5 to 2"),
    ],
)
def test_facts_of_an_sae_in_memory(architecture: Architecture, selection: str) -> None:
    tensors = {"encoder": torch.ones(F, D), "decoder": torch.ones(F, D)}
    if architecture.kind == "batchtopk":
        tensors["threshold"] = torch.tensor(0.25)
    if architecture.kind == "jumprelu":
        tensors["threshold"] = torch.linspace(0.5, 2, F)
    facts = describe(SparseAutoencoder.from_tensors(tensors, architecture, site=SITE))
    assert facts["selection"] == selection and facts["layout"] == "made in memory"
    assert facts["width (d_in)"] == str(D) and facts["features (d_sae)"] == str(F)
    assert facts["site"] == "transformer_blocks.1 (image)" and facts["statistics"] == "none"


def test_the_report_ends_with_the_verdict() -> None:
    sae = load_sae(SAE_NAMES[0])
    text = report(describe(sae), fit(0.9), judge(sae, SITE, fit(0.9), {}))
    assert "explained variance" in text and "90.0%" in text
    assert text.splitlines()[-1].startswith("This SAE fits this model at transformer_blocks.1 (image)")


@pytest.mark.parametrize(
    ("name", "width", "place"),
    [
        ("clip-sae-128/x", 1280, "before the generator: image_embeds 1280 (CLIP ViT-bigG)"),
        (
            "cc3m-vision-topk-lr-3e-4-k-16-expansion-4/model",
            1024,
            "before the generator: penultimate_hidden_states 1024 (CLIP ViT-L), token 0",
        ),
        ("mine", 64, "not told by the file; give a location, or a target where it is an SAE of embeddings"),
    ],
)
def test_an_sae_of_embeddings_is_told_as_one(name, width, place):
    assert describe(sae_for(width, name))["site"] == place
