"""FeatureMixer without a browser: its JSON steers as the single nodes do, and what result tables tell the browser."""

from __future__ import annotations

import base64
import json

import pytest
import torch

from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui.sampling import Sampling, sample
from sae_steering_pack.sae.hosts.comfyui.steering import observe
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node

LATENT = {"samples": torch.zeros(1, 16, 16, 16)}


@pytest.fixture(scope="module")
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def text(node_classes):
    return node_classes["ShapesPrompt"].execute("red square left big white").result[0]


def steer(node_classes, shapes, features, **more):
    inputs = {
        "model": shapes[0], "sae": shapes[2], "features": features, "method": "add", "strength": 1.0,
        "unit": "token_norm", "location": "auto", "stream": "auto", "start_percent": 0.0, "end_percent": 1.0,
        "apply_to": "both",
    }  # fmt: skip
    return run_node(node_classes["FluxActivationSteer"], **{**inputs, **more})


def drawn(model, text):
    return sample(model, text, LATENT, Sampling(4, 2), lambda *_: None)


def mixed(node_classes, shapes, rows, **more):
    return run_node(node_classes["FeatureMixer"], sae=shapes[2], mix=json.dumps({"rows": rows}), **more)


def test_the_panel_steers_as_single_features_do(node_classes, shapes, text) -> None:
    largest = float(shapes[2].statistics.max[31])
    rows = [
        {"feature": 31, "strength": 0.5, "unit": "max"},
        {"feature": 65, "strength": 1.5, "unit": "raw"},
        {"feature": 3, "on": False},
    ]
    features = mixed(node_classes, shapes, rows).result[0]
    panel = drawn(steer(node_classes, shapes, features).result[0], text)
    plain = FeatureList([Edit(31, 0.5 * largest), Edit(65, 1.5)])
    both = steer(node_classes, shapes, plain, unit="raw").result[0]
    assert torch.allclose(panel, drawn(both, text), atol=1e-4)
    assert not torch.allclose(panel, drawn(shapes[0], text), atol=1e-2)


def test_a_panel_that_is_off_leaves_everything_bit_identical(node_classes, shapes, text) -> None:
    features = mixed(node_classes, shapes, [{"feature": 31, "on": False}]).result[0]
    node = steer(node_classes, shapes, features, method="set")
    assert torch.equal(drawn(node.result[0], text), drawn(shapes[0], text))
    assert node.ui == {"text": ["Every feature is switched off, so nothing is steered."]}
    bypassed = steer(node_classes, shapes, None, method="set")
    assert bypassed.result[0] is shapes[0]
    assert bypassed.ui == {"text": ["No features are connected, so nothing is steered."]}
    prior, _, sae = node_classes["LoadShapesKandinsky"].execute().result
    embed = run_node(
        node_classes["KandinskyPrior"], prior=prior, text="red square", negative_text="", steps=2, guidance=1.0, seed=0
    ).result[0]
    steered = run_node(
        node_classes["ClipEmbedSteer"], embed=embed, sae=sae, features=features, method="set", strength=1.0, unit="raw"
    )
    assert steered.result[0] is embed


def test_features_from_before_come_first_and_are_not_muted(node_classes, shapes) -> None:
    before = FeatureList([Edit(9)])
    features = mixed(node_classes, shapes, [], features=before).result[0]
    assert (list(features), features.muted) == ([Edit(9)], False)


def test_tables_tell_what_a_row_of_the_panel_needs(node_classes, shapes, text) -> None:
    inputs = {
        "model": shapes[0], "positive": text, "latent_image": LATENT, "seed": 0, "steps": 2, "count": 5,
        "rank_by": "mean", "location": "auto", "stream": "auto",
    }  # fmt: skip
    found = run_node(node_classes["TopActivatingFeatures"], sae=shapes[2], **inputs)
    [payload] = found.ui["sae_steering"]
    assert json.loads(json.dumps(payload)) == payload
    assert (payload["kind"], payload["fingerprint"], payload["count"]) == ("table", fingerprint(shapes[2]), 256)
    assert [row["feature"] for row in payload["rows"]] == [edit.feature for edit in found.result[0]]
    assert [row["max"] for row in payload["rows"]] == [edit.max for edit in found.result[0]]
    assert "heat" not in payload["rows"][0]  # a text has no place in the picture
    picture = run_node(node_classes["TopActivatingFeatures"], sae=shapes[4], **inputs).ui["sae_steering"][0]
    heat = picture["rows"][0]["heat"]
    values = base64.b64decode(heat["data"])
    assert (heat["rows"], heat["columns"], len(values), max(values)) == (8, 8, 64, 255)


def test_thumbnails_show_the_last_step_of_the_first_picture(node_classes, shapes, text) -> None:
    from sae_steering_pack.sae.finding.features import FeatureReader
    from sae_steering_pack.sae.places.site import resolve_site

    sae = shapes[4]
    site = resolve_site("auto", "auto", sae.site)
    reader, seen = FeatureReader(sae, site), []

    def see(x, moment):
        reader(x, moment)
        seen.append(sae.encode(x[:1].float(), moment.sigma)[0])

    latent = {"samples": torch.zeros(2, 16, 14, 18)}
    sample(observe(shapes[0], site, see, sae), text, latent, Sampling(1, 2), lambda *_: None)
    heat = reader.heat([5, 100])
    assert torch.allclose(heat[5], seen[-1][:, 5].view(7, 9), atol=1e-5)
    assert torch.allclose(heat[100], seen[-1][:, 100].view(7, 9), atol=1e-5)
