"""What importing the pack costs and leaves behind."""

import subprocess
import sys

from comfy_install import comfyui_root
from project_files import ROOT

IMPORT = """
import sys, time
sys.path.insert(0, {root!r})
sys.path.append({support!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
comfy.cli_args.args.base_directory = {base!r}
import torch, numpy, safetensors.torch, PIL.Image, folder_paths, comfy_api.latest
import comfy.model_management, comfy.model_patcher, comfy.samplers, comfy.sd, comfy.utils
from pack_loader import load_pack
before, started = set(sys.modules), time.process_time()
load_pack()
print(time.process_time() - started, file=sys.stderr)
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*new & {{"diffusers", "transformers", "accelerate", "matplotlib", "sae", "nodes", "server"}}, file=sys.stderr)
"""


def test_the_pack_imports_quietly_and_quickly_and_pulls_in_nothing_heavy(tmp_path):
    support = str(ROOT / "tests" / "support")
    code = IMPORT.format(root=str(comfyui_root()), support=support, base=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    seconds, heavy = result.stderr.split("\n")[-3:-1]
    assert result.stdout == ""
    assert float(seconds) < 3  # of processor time, on a busy machine too
    assert heavy == ""
