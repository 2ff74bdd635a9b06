"""The Hub is asked for SAEs by tag, against a stand-in on this machine: what fits which encoder, and no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import pytest

from project_files import ROOT
from sae.commands.hub_search import Repository, table

pytest.importorskip("huggingface_hub")

REPOSITORIES: list[dict[str, Any]] = [
    {
        "id": "someone/qwen3-8b-layer18",
        "tags": ["sae", "base_model:Qwen/Qwen3-8B", "base_model:finetune:Qwen/Qwen3-8B"],
    },
    {"id": "someone/qwen3-8b-base", "tags": ["sparse-autoencoder", "base_model:Qwen/Qwen3-8B-Base"]},
    {"id": "someone/gpt2", "tags": ["sae", "base_model:openai-community/gpt2"]},
    {"id": "someone/flux-sae", "tags": ["sae", "base_model:black-forest-labs/FLUX.1-schnell"]},
    {"id": "gytdau/clip-sae-128", "tags": ["sae"]},
]


class Hub(BaseHTTPRequestHandler):
    """/api/models?filter=TAG"""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlparse(self.path).query)
        tag = query.get("filter", [""])[0]
        if tag:  # and not what the library asks about itself
            Hub.asked.append(self.path)
        found = [entry for entry in REPOSITORIES if tag in entry["tags"]]
        content = json.dumps([{**entry, "modelId": entry["id"]} for entry in found]).encode()
        self.send_response(200 if urlparse(self.path).path == "/api/models" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path)}
    server.shutdown()


def listed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sae", "list", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=settings, timeout=120)


def test_the_hub_is_asked_for_both_tags_and_what_fits_comes_first(hub: dict[str, str]) -> None:
    done = listed("--search", **hub)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {entry["id"] for entry in REPOSITORIES} and len(Hub.asked) == 2
    assert "Qwen3-8B (FLUX.2 Klein 9B); Qwen3-VL-8B (Ideogram 4) (the text model" in lines["someone/qwen3-8b-layer18"]
    assert "Klein 9B) (the base model, where this encoder is its chat version)" in lines["someone/qwen3-8b-base"]
    assert "of openai-community/gpt2: no encoder or model that is known here" in lines["someone/gpt2"]
    assert "fits FLUX.1" in lines["someone/flux-sae"]
    assert "in the shipped list" in lines["gytdau/clip-sae-128"]
    order = [line.split()[0] for line in done.stdout.splitlines()]
    assert order.index("someone/flux-sae") < order.index("someone/gpt2")


def test_only_those_of_one_model(hub: dict[str, str]) -> None:
    done = listed("--search", "--for", "klein 9b", **hub)
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == [
        "someone/qwen3-8b-base", "someone/qwen3-8b-layer18",
    ]  # fmt: skip


def test_without_a_network_there_is_one_sentence() -> None:
    done = listed("--search", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "the Hugging Face Hub could not be asked" in done.stderr and "needs no network" in done.stderr


def test_nothing_is_asked_unless_asked_for(hub: dict[str, str]) -> None:
    assert listed(**hub).returncode == 0 and Hub.asked == []


def test_a_repository_without_a_model_is_judged_by_its_name() -> None:
    one = Repository("mine/gemma-2-2b-sae", (), False)
    assert any(fit.startswith("Gemma 2 2B (Lumina 2)") for fit in one.fits())
    assert "is told to be for nothing" in table([Repository("a/b", (), False)], "nothing")
