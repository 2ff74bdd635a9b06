"""The nodes that train and measure SAEs over the HTTP API, on the demos with a tiny budget."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from comfy_client import PromptFailed
from lab.evidence import by_nodes
from sae.commands.train_settings import Settings
from sae.demo.shapes import draw, training_prompts
from sae.drawing.pictures import to_image

PROMPTS = "\n".join(" ".join(prompt.words) for prompt in training_prompts()[:20])
FOLDER = "over-http"


def graph(**more):
    train = {
        "model": ["1", 0], "clip": ["1", 5], "latent_image": ["2", 0], "prompts": PROMPTS,
        "location": "transformer_blocks.0", "stream": "text", "preset": "try it (5 minutes)", "name": FOLDER,
        "d_sae": 64, "k": 8, "tokens": 2048, "steps": 100, "sampling_steps": 4, "rate": 0.002,
    }  # fmt: skip
    return {
        "1": {"class_type": "LoadShapesDemo", "inputs": {}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 4}},
        "3": {"class_type": "TrainSAE", "inputs": train | more},
    }


def test_trained_over_http_it_is_listed_and_measured(client, server):
    folder, unfinished = server.place.models / "sae" / FOLDER, server.place.output / "sae" / "training"
    before = set(unfinished.glob("*"))
    try:
        entry = client.run(graph(), timeout=300)
        [report] = entry["outputs"]["3"]["text"]
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert f"{told['fit']['explained_variance']:.4f}" in report and told["fit"]["explained_variance"] > 0.6
        assert told["trained"]["rate"] == 0.002
        listed = client.object_info("LoadSAE")["input"]["required"]["sae_name"]
        assert f"{FOLDER}/model.safetensors" in json.dumps(listed)
        assert set(unfinished.iterdir()) == before
        given = {"sae_name": f"{FOLDER}/model.safetensors", "location": "auto", "stream": "auto"}
        measured = graph()
        measured["3"] = {"class_type": "LoadSAE", "inputs": given}
        inputs = {"sae": ["3", 0], "model": ["1", 0], "clip": ["1", 5], "latent_image": ["2", 0], "prompts": PROMPTS}
        more = {"tokens": 1024, "tried_features": 2, "sampling_steps": 4}
        measured["4"] = {"class_type": "EvaluateSAE", "inputs": inputs | more}
        measured["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}}
        entry = client.run(measured, timeout=300)
        [text] = entry["outputs"]["4"]["text"]
        assert "of 2 features (chance: 50%)" in text and f"{told['prediction_recovered']:.4f}" in text
        assert len(entry["outputs"]["5"]["images"]) == 1
        with pytest.raises(PromptFailed, match=f"name: models/sae/{FOLDER} is there already"):
            client.run(graph(steps=101), timeout=300)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_tokens_of_two_places_collected_over_http_train_an_sae(client, server):
    folder, tokens = server.place.models / "sae" / "from-shards", server.place.output / "sae" / "tokens" / "two"
    given = graph(shards=["4", 0], name=folder.name, location="transformer_blocks.1", stream="image", steps=20)
    shared = {name: given["3"]["inputs"][name] for name in ("model", "clip", "latent_image", "prompts")}
    more = {"sites": "transformer_blocks.0:text\ntransformer_blocks.1:image", "tokens": 1024, "name": tokens.name}
    given["4"] = {"class_type": "CollectActivations", "inputs": {**shared, **more, "sampling_steps": 4}}
    try:
        entry = client.run(given, timeout=300)
        [told], [report] = entry["outputs"]["4"]["text"], entry["outputs"]["3"]["text"]
        index = json.loads((tokens / "index.json").read_text(encoding="utf-8"))
        places = ["transformer_blocks.0-text", "transformer_blocks.1-image"]
        assert list(index["sites"]) == places and all(f"{place}: 1,0" in told for place in places)
        assert places[1] in report and "explained variance" in report
        listed = client.object_info("LoadSAE")["input"]["required"]["sae_name"]
        assert "from-shards/model" in json.dumps(listed) and "shard-0" not in json.dumps(listed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(tokens, ignore_errors=True)


def test_an_sae_of_embeddings_trained_over_http_reads_them(client, server):
    pictures, folder = server.place.base / "input" / "drawn", server.place.models / "sae" / "of-embeddings"
    pictures.mkdir()
    try:
        drawn = draw(training_prompts()[:24], torch.Generator().manual_seed(0), 64)[0]
        for number, picture in enumerate(drawn):
            to_image(picture).save(pictures / f"{number}.png")
        train = {"encoder": ["1", 0], "folder": "drawn", "texts": "", "name": folder.name, "d_sae": 32, "steps": 150}
        train["rate"] = 0.005
        read = {"embed": ["3", 0], "sae": ["2", 0], "count": 3, "rank_by": "mean"}
        entry = client.run({
            "1": {"class_type": "LoadShapesKandinsky", "inputs": {}},
            "2": {"class_type": "TrainEmbedSAE", "inputs": train},
            "3": {"class_type": "KandinskyPrior", "inputs": {
                "prior": ["1", 0], "text": "red circle", "negative_text": "", "steps": 2, "guidance": 1.0, "seed": 0}},
            "4": {"class_type": "TopEmbedFeatures", "inputs": read},
        }, timeout=300)  # fmt: skip
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert told["fit"]["explained_variance"] > 0.2 and told["source"]["items"] == 24 and told["d_in"] == 64
        assert told["trained"]["rate"] == 0.005
        assert f"{told['fit']['explained_variance']:.4f}" in entry["outputs"]["2"]["text"][0]
        assert "of-embeddings/model on image_embeds" in entry["outputs"]["4"]["text"][0]
    finally:
        shutil.rmtree(pictures)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_graphs_of_the_evidence_train_what_the_settings_say(client, server):
    folder = server.place.models / "sae" / "by-nodes"
    settings = Settings(features=32, k=4, steps=30, tokens=2048, rate=0.003, seed=5)
    try:
        text = by_nodes.run(client.address, by_nodes.shapes_graph(settings, folder.name))
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert f"{told['fit']['explained_variance']:.4f}" in text and told["site"] == "transformer_blocks.0 (text)"
        wanted = {"d_sae": 32, "k": 4, "steps": 30, "rate": 0.003, "seed": 5}
        assert {name: told["trained"][name] for name in wanted} == wanted
        with pytest.raises(RuntimeError, match="k: 33 of 32 features cannot be active"):
            by_nodes.run(client.address, by_nodes.shapes_graph(Settings(features=32, k=33), "not-made"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
