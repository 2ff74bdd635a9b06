"""What a steering node can say of the graph it stands in: a merge that takes its model as the second."""

import pytest

from sae_steering_pack.nodes.steer.steered_run import merged_away
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node


def graph(**merge):
    """A steered model, a LoRA behind it, a merge of it with another, and a sampler."""
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a"}},
        "17": {"class_type": "FluxActivationSteer", "inputs": {"model": ["1", 0], "strength": 1.0}},
        "3": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["17", 0], "lora_name": "b"}},
        "4": {"class_type": "ModelMergeSimple", "inputs": {"ratio": 0.5, **merge}},
        "5": {"class_type": "KSampler", "inputs": {"model": ["4", 0]}},
    }


@pytest.mark.parametrize("taken", ["17", "3"], ids=["directly", "behind a LoRA"])
def test_a_steered_model_that_is_merged_away_is_told(taken):
    (sentence,) = merged_away(graph(model1=["1", 0], model2=[taken, 0]), "17")
    assert sentence.startswith(
        "ModelMergeSimple (node 4) takes this model as model2, and a merge keeps the steering of"
    )


@pytest.mark.parametrize(
    "merge",
    [{"model1": ["3", 0], "model2": ["1", 0]}, {"model1": ["1", 0], "model2": ["1", 0]}, {"model2": "17"}, {}],
    ids=str,
)
def test_a_steering_that_stays_is_not_told(merge):
    assert merged_away(graph(**merge), "17") == []


def test_a_merge_of_a_merge_and_graphs_that_are_odd():
    nodes = graph(model1=["17", 0], model2=["1", 0])
    nodes["6"] = {"class_type": "ModelAdd", "inputs": {"model1": ["1", 0], "model2": ["4", 0]}}
    nodes["7"] = {"class_type": "Odd", "inputs": {"model": ["17", 0, 0], "models": [["17", 0]], "x": ["17", 0]}}
    nodes["8"] = "not a node"
    assert [sentence.split(" takes")[0] for sentence in merged_away(nodes, "17")] == ["ModelAdd (node 6)"]
    assert merged_away({}, "17") == merged_away(nodes, None) == []


def test_the_node_says_it_of_the_graph_that_is_executed(node_classes, model, sae, monkeypatch):
    """As ComfyUI keeps it while it executes: number, prompt's id, graph, and more."""
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer

    tasks = {
        0: (1, "p", graph(model1=["1", 0], model2=["17", 0]), {}, []),
        1: (2, "q", graph(model1=["17", 0], model2=["1", 0]), {}, []),
    }
    queue = type("Queue", (), {"currently_running": tasks})
    server = type("Server", (), {"prompt_queue": queue, "app": {}, "send_sync": lambda *args: None, "client_id": None})
    monkeypatch.setattr(PromptServer, "instance", server(), raising=False)

    def shown(prompt):
        with CurrentNodeContext(prompt, "17"):
            return run_node(
                node_classes["FluxActivationSteer"], model=model, sae=sae, features=FeatureList([Edit(3)]),
                method="add", strength=0.3, unit="token_norm", location="transformer_blocks.0", stream="auto",
                start_percent=0.0, end_percent=1.0, apply_to="both",
            ).ui["text"]  # fmt: skip

    assert any("takes this model as model2" in line for line in shown("p"))
    assert not any("takes this model as model2" in line for line in shown("q"))
