"""The lab's graphs that train by nodes: the values of docs/*.toml, and inputs that the nodes have."""

import json
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expected_nodes import INPUTS
from lab.evidence import by_nodes
from lab.evidence.trained import config_of
from sae.commands.train_settings import read_settings
from sae.demo.shapes import training_prompts
from sae.training.config import PRESETS

pytest.importorskip("tomllib")


def settings(name, seed=3):
    return read_settings(Namespace(seed=seed), config_of(name))


def test_the_flux_is_trained_with_the_values_of_the_file() -> None:
    given = by_nodes.shapes_graph(settings("shapes"), "mine")["3"]["inputs"]
    wanted = {
        "location": "transformer_blocks.0", "stream": "text", "d_sae": 256, "k": 16, "steps": 1200, "rate": 0.002,
        "tokens": 20_000, "architecture": "topk", "seed": 3, "name": "mine",
    }  # fmt: skip
    assert {name: given[name] for name in wanted} == wanted
    prompts = given["prompts"].splitlines()
    assert sorted(prompts) == sorted(map(str, training_prompts())) != prompts
    assert PRESETS[given["preset"]].batch_for(given["tokens"]) == settings("shapes").batch_tokens == 1024
    assert set(given) <= set(INPUTS["TrainSAE"])


def test_the_kandinsky_is_trained_with_the_values_of_the_file() -> None:
    given = by_nodes.kandinsky_graph(settings("kandinsky"), "mine", "drawn")["3"]["inputs"]
    wanted = {"d_sae": 128, "k": 10, "steps": 3000, "rate": 0.005, "folder": "drawn", "texts": "", "seed": 3}
    assert {name: given[name] for name in wanted} == wanted
    assert settings("kandinsky").batch_tokens == 1024  # as the node has it
    assert set(given) <= set(INPUTS["TrainEmbedSAE"])


@pytest.fixture
def played():
    """A ComfyUI that has finished when it is asked for the second time; `status` is how."""
    asked: list[object] = []

    class Answers(BaseHTTPRequestHandler):
        status = "success"

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer({"prompt_id": "7"})

        def do_GET(self):
            asked.append(self.path)
            done = {"status": {"status_str": self.status, "messages": [["execution_error", {"exception": "k: no"}]]},
                    "outputs": {"3": {"text": ["the report"]}}}  # fmt: skip
            self._answer({"7": done} if len(asked) > 2 else {})

        def _answer(self, value):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked, Answers
    server.shutdown()
    server.server_close()


def test_it_queues_waits_and_returns_what_the_node_tells(played, monkeypatch) -> None:
    address, asked, _ = played
    monkeypatch.setattr(by_nodes, "POLL_SECONDS", 0.01)
    graph = {"3": {"class_type": "TrainSAE", "inputs": {}}}
    assert by_nodes.run(address, graph) == "the report"
    assert asked == [{"prompt": graph}, "/history/7", "/history/7"]


def test_what_failed_is_told(played, monkeypatch) -> None:
    address, _, answers = played
    monkeypatch.setattr(by_nodes, "POLL_SECONDS", 0.01)
    answers.status = "error"
    with pytest.raises(RuntimeError, match="k: no"):
        by_nodes.run(address, {"3": {"class_type": "TrainSAE", "inputs": {}}})
