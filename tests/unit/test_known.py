"""The table of public SAEs, the command line around it, and what uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.torch import save_file

from layouts import D, F, K, linear
from project_files import ROOT
from sae.commands.download import markdown
from sae.formats import load
from sae.formats.known import KNOWN, known_checkpoint, known_site
from workflows import read_workflow, workflow_files


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "sae", *arguments], capture_output=True, text=True, cwd=ROOT, env=settings, timeout=120
    )


def test_entries_are_whole_and_their_names_unique() -> None:
    assert len({entry.name for entry in KNOWN}) == len(KNOWN) > 20
    for entry in KNOWN:
        assert entry.d_sae > entry.d_in > 100 and entry.repository.count("/") == 1
        if entry.stream is not None:
            assert entry.site is not None and entry.site.stream == entry.stream
            assert entry.site.location == entry.location


def test_the_table_of_the_help_page_is_this_one() -> None:
    page = (ROOT / "web" / "docs" / "LoadSAE.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith(markdown())


def test_workflows_offer_downloads_from_this_table() -> None:
    """Loader nodes carry a name, an address and a folder; the name is what the node then asks for."""
    urls = {entry.url for entry in KNOWN}
    loaders = [node for path in workflow_files() for node in read_workflow(path)["nodes"] if node["type"] == "LoadSAE"]
    public = [node for node in loaders if not node["widgets_values"][0].startswith("your-")]
    offered = [(node["widgets_values"][0], model) for node in public for model in node["properties"]["models"]]
    foreign = [path for path in workflow_files() if not path.stem.startswith("Shapes")]  # those take the demo's SAEs
    assert len(offered) == len(public) == len(foreign) - 1  # one takes the user's own
    for name, model in offered:
        assert model["name"] == name and model["url"] in urls and model["directory"] == "sae"


def test_names_lead_to_entries_and_places(tmp_path: Path) -> None:
    assert known_checkpoint("flux/cc3m-transformer_blocks.18-1/model") is not None
    assert known_checkpoint("something/else") is None
    assert (
        str(known_site("diffract-sae_txt_6/temporal-aware-saes/sae_txt_6")) == "transformer_blocks.6.ff_context (text)"
    )
    assert str(known_site("cc3m-single_transformer_blocks.9/model")) == "single_transformer_blocks.9 (joint)"
    folder = tmp_path / "clip-sae-128"
    folder.mkdir()
    save_file(linear("bias", "encoder.bias"), folder / "model.safetensors")
    assert load(folder, architecture=f"reny_topk:{K}").site is None, "an SAE of another model has no place in FLUX"


def test_the_list_names_every_entry() -> None:
    done = command("list")
    assert done.returncode == 0 and [line.split()[0] for line in done.stdout.splitlines()] == [e.name for e in KNOWN]


def test_inspect_and_convert(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    save_file(linear("bias", "encoder.bias"), tmp_path / "mine" / "model.safetensors")
    done = command("inspect", str(tmp_path / "mine"), "--architecture", f"reny_topk:{K}")
    assert done.returncode == 0 and f"the k = {K} largest of each token" in done.stdout and str(F) in done.stdout
    refused = command("inspect", str(tmp_path / "mine"))
    assert refused.returncode == 1 and refused.stderr.startswith("error: mine/model.safetensors: its tensors alone")
    assert len(refused.stderr.splitlines()) == 1
    asked = ["--architecture", f"reny_topk:{K}", "--to", "saelens"]
    done = command("convert", str(tmp_path / "mine"), str(tmp_path / "out"), *asked)
    assert done.returncode == 0 and json.loads((tmp_path / "out" / "cfg.json").read_text())["k"] == K
    assert load(tmp_path / "out").d_in == D


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cc3m-transformer_blocks.18-3"], "did you mean cc3m-transformer_blocks.18-"),
        (["zzz"], "'python -m sae list' shows them all"),
        (["clip-sae-128"], "say where to put it with --folder"),
        (["prisma-clip-b-32", "--folder", "x"], "choose one at https://huggingface.co/Prisma-Multimodal/sae_clip"),
    ],
)
def test_downloads_that_cannot_be(arguments: list[str], message: str) -> None:
    done = command("download", *arguments)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1


class Hub(BaseHTTPRequestHandler):
    """A few bytes of the Hub's interface: sizes and sums of files, and parts of them."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        content = self.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked.startswith("bytes=") else 0
        self.send_response(206 if start else 200)
        for name, value in (("ETag", f'"{abs(hash(content))}"'), ("X-Repo-Commit", "a" * 40)):
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            self.wfile.write(content[start:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path):
    save_file(linear("bias", "encoder.bias"), tmp_path / "a.safetensors")
    base = "/viccpoes/cc3m-transformer_blocks.0-1/resolve/main/"
    config = json.dumps({"features": D, "pages": F, "k": K, "sample": None}).encode()
    Hub.files = {base + "model.safetensors": (tmp_path / "a.safetensors").read_bytes(), base + "config.json": config}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path / "home")}
    server.shutdown()


def test_a_download_can_be_loaded(hub: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    name = "cc3m-transformer_blocks.0-1"
    done = command("download", name, "--folder", str(tmp_path / "sae"), HF_HUB_DISABLE_XET="1", **hub)
    assert done.returncode == 0, done.stderr
    assert "the repository names none" in done.stdout
    sae = load(tmp_path / "sae" / name)
    assert (sae.d_in, sae.d_sae, str(sae.site)) == (D, F, "transformer_blocks.0 (image)")


def test_a_file_that_the_hub_lacks_is_told(hub: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    done = command("download", "cc3m-transformer_blocks.18-1", "--folder", str(tmp_path), HF_HUB_DISABLE_XET="1", **hub)
    assert done.returncode == 1 and "could not be downloaded from https://huggingface.co/viccpoes" in done.stderr
    assert len(done.stderr.splitlines()) == 1
