"""A method of one file stands in the nodes' choices and tooltips, and steers."""

from __future__ import annotations

import pytest
import torch

from made_up_method import made_up_method
from sae_steering_pack.nodes.inputs.sockets import steering_warnings
from sae_steering_pack.sae.steering import methods
from sae_steering_pack.sae.steering.delta import Steering
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import make_sae, run_node, sample

STEERING = ("FluxActivationSteer", "ClipEmbedSteer", "SteeringSweep", "SaveRecipe")


@pytest.fixture
def echo():
    with made_up_method(methods) as name:
        yield name


def method_of(node):
    [found] = [given for given in node.define_schema().inputs if given.id == "method"]
    return found


@pytest.mark.parametrize("node", STEERING)
def test_choices_and_sentences_come_from_the_files(node_classes, node, echo):
    known = dict(methods.METHODS)
    found = method_of(node_classes[node])
    assert found.options == [*known, "auto"] and found.options[-2] == "echo"
    told = found.tooltip.split(" · ")
    assert told[:-1] == [f"{name}: {method.words.en}" for name, method in known.items()]
    assert told[-1] == "auto: swap where 'replaces' is wired, else add."
    served = found.as_dict()
    assert served["strength_means"] == {name: method.strength_means for name, method in known.items()}
    assert served["auto_means"] == {"with_replaces": "swap", "alone": "add"}


def test_what_can_be_calibrated_is_offered(node_classes, echo):
    assert method_of(node_classes["CalibrateStrength"]).options == ["add", "boost_if_active", "swap", "echo"]


def test_it_steers_a_model(node_classes, model, echo):
    sae, given = make_sae(), {"location": "transformer_blocks.0", "stream": "auto"}
    given |= {
        "start_percent": 0.0,
        "end_percent": 1.0,
        "apply_to": "both",
        "unit": "raw",
        "replaces": FeatureList([Edit(5)]),
    }
    node, features = node_classes["FluxActivationSteer"], FeatureList([Edit(3, 0.5)])
    latents = [
        sample(run_node(node, model=model, sae=sae, features=features, method=echo, strength=s, **given).result[0])
        for s in (0.0, 1.0)
    ]
    assert torch.equal(latents[0], sample(model)) and not torch.equal(latents[1], latents[0])
    assert "echo is made up." in steering_warnings(Steering(sae, features, echo, replaces=[Edit(5)]))
