"""Trains the SAEs of docs/training.md by the nodes of a ComfyUI that runs: python -m lab.evidence.by_nodes URL.

Queues TrainSAE and TrainEmbedSAE with the values of docs/training-shapes.toml and docs/training-kandinsky.toml. The
pictures are a folder inside ComfyUI's input, as `python -m lab.evidence.trained --draw` makes it. What comes lies in
ComfyUI's models/sae; `python -m lab.evidence.trained --saes` judges it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import urllib.request
from typing import Any

from sae.commands.train_settings import Settings, read_settings
from sae.demo.shapes import training_prompts
from sae.places.site import parse_sites

from .trained import config_of

Graph = dict[str, dict[str, Any]]  # ComfyUI's API format: number of the node -> class_type and inputs
PRESET = "try it (5 minutes)"  # its batches have the 1,024 tokens of both files
SIDE = 128  # of a picture of the Shapes demo
ORDER_SEED = 0
POLL_SECONDS = 0.5


def shapes_graph(settings: Settings, name: str) -> Graph:
    """TrainSAE at the file's only site, on the training prompts in mixed order."""
    [site] = parse_sites(settings.sites).values()
    prompts = [str(prompt) for prompt in training_prompts()]
    random.Random(ORDER_SEED).shuffle(prompts)  # the tokens may be full before the last prompt
    given = {
        "model": ["1", 0], "clip": ["1", 5], "latent_image": ["2", 0], "prompts": "\n".join(prompts),
        "location": site.location, "stream": site.stream, "preset": PRESET, "tokens": settings.tokens,
    }  # fmt: skip
    return {
        "1": {"class_type": "LoadShapesDemo", "inputs": {}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1}},
        "3": {"class_type": "TrainSAE", "inputs": given | _shared(settings, name)},
    }


def kandinsky_graph(settings: Settings, name: str, folder: str) -> Graph:
    """TrainEmbedSAE on a folder of pictures inside ComfyUI's input."""
    given = {"encoder": ["1", 0], "folder": folder, "texts": ""}
    return {
        "1": {"class_type": "LoadShapesKandinsky", "inputs": {}},
        "3": {"class_type": "TrainEmbedSAE", "inputs": given | _shared(settings, name)},
    }


def _shared(settings: Settings, name: str) -> dict[str, Any]:
    return {
        "name": name, "d_sae": settings.features, "k": settings.k, "architecture": settings.architecture,
        "steps": settings.steps, "rate": settings.rate, "seed": settings.seed,
    }  # fmt: skip


def run(address: str, graph: Graph) -> str:
    """Queues a graph, waits for it, and returns what its node 3 tells. RuntimeError where it failed."""
    number = _ask(f"{address}/prompt", {"prompt": graph})["prompt_id"]
    while not (done := _ask(f"{address}/history/{number}").get(number)):
        time.sleep(POLL_SECONDS)
    if done["status"]["status_str"] != "success":
        raise RuntimeError(f"ComfyUI could not run it: {json.dumps(done['status']['messages'][-1])}")
    [text] = done["outputs"]["3"]["text"]
    return str(text)


def _ask(url: str, body: Graph | dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of ComfyUI, such as http://127.0.0.1:8188")
    parser.add_argument("--pictures", help="the folder inside ComfyUI's input; without it the FLUX's SAE alone")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    given = parser.parse_args()
    values = {
        name: read_settings(argparse.Namespace(seed=given.seed), config_of(name)) for name in ("shapes", "kandinsky")
    }
    graphs = {f"shapes-by-node-{given.seed}": shapes_graph(values["shapes"], f"shapes-by-node-{given.seed}")}
    if given.pictures:
        name = f"kandinsky-by-node-{given.seed}"
        graphs[name] = kandinsky_graph(values["kandinsky"], name, given.pictures)
    for name, graph in graphs.items():
        begun = time.monotonic()
        text = run(given.address.rstrip("/"), graph)
        print(f"models/sae/{name}: {time.monotonic() - begun:.0f} s\n{text}", flush=True)


if __name__ == "__main__":
    main()
