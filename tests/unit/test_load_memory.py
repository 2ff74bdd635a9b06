"""What loading takes: near nothing for single directions, the file's size and a tenth for everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from project_files import ROOT

F, D = 49_152, 1024  # two float32 matrices of 192 MB
MB = 2**20
MEASURE = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from sae.formats import load
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
def reset():
    open("/proc/self/clear_refs", "w").write("5")
torch.randn(64, 64) @ torch.randn(64, 64)
path = Path(sys.argv[1])
reset(); before = status("VmRSS")
sae = load(path)
sae.direction([1, 777, 20_000])
print(status("VmHWM") - before)
reset(); before = status("VmRSS")
sae.part("encoder"), sae.part("decoder")
print(status("VmHWM") - before)
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)


def write(folder: Path, kind: str) -> list[Path]:
    matrix = torch.zeros(F, D)
    matrix[:, 0] = 1
    if kind == "rows":
        tensors = {"W_enc": matrix.T.contiguous(), "W_dec": matrix, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
        save_file(tensors, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": D, "d_sae": F}))
        return [folder / "sae_weights.safetensors"]
    tensors = {"bias": torch.zeros(D), "encoder.weight": matrix, "encoder.bias": torch.zeros(F)}
    tensors["decoder.weight"] = matrix.T.contiguous()
    (folder / "config.json").write_text(json.dumps({"features": D, "pages": F, "k": 16}))
    if kind == "pickle":
        torch.save(tensors, folder / "model.pt")
        return [folder / "model.pt"]
    parts = [dict(list(tensors.items())[:2]), dict(list(tensors.items())[2:])]
    paths = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    return paths


@pytest.mark.parametrize("kind", ["rows", "pickle", "shards"])
def test_memory_of_add_and_of_dense_use(kind: str, tmp_path: Path) -> None:
    paths = write(tmp_path, kind)
    size = sum(path.stat().st_size for path in paths)
    command = [sys.executable, "-c", MEASURE, str(paths[0])]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    few, dense = map(int, out)
    for path in paths:
        path.unlink()
    assert few < 16 * MB, f"{few / MB:.1f} MB"
    assert dense < 1.1 * size, f"{dense / MB:.1f} MB of a file of {size / MB:.1f} MB"
