"""The pack's metadata, and what comes along when a user installs it."""

import re
import subprocess
import sys

from project_files import ROOT, project_files, pyproject, relative, requirements
from sae.version import VERSION

CORE = """torch torchvision torchaudio torchsde numpy einops transformers tokenizers sentencepiece safetensors aiohttp
pyyaml pillow scipy tqdm psutil av kornia spandrel pydantic""".split()
MEGABYTE = 1_000_000


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def test_requirements_equal_the_projects_dependencies_and_repeat_nothing_of_core():
    needed = requirements("requirements.txt")
    assert needed == pyproject()["project"]["dependencies"]
    assert not {name_of(line) for line in needed} & set(CORE)
    assert not [line for line in needed if "<" in line or "==" in line]


def test_development_requirements_are_exact():
    for line in requirements("requirements-dev.txt"):
        assert re.fullmatch(r'[a-z0-9-]+==[0-9.]+(; python_version (<|>=) "3\.\d+")?', line), line


def test_the_newest_entry_of_the_changelog_is_this_version():
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0] == pyproject()["project"]["version"]


def test_the_library_knows_the_version():
    assert pyproject()["project"]["version"] == VERSION


def test_the_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_the_demo_models_files_are_small():
    weights = [path for path in project_files(ROOT / "sae" / "demo") if path.suffix != ".py"]
    assert sum(path.stat().st_size for path in weights) < 20 * MEGABYTE


def test_no_weights_but_the_demos():
    kinds = {".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".gguf", ".onnx"}
    weights = [relative(path) for path in project_files() if path.suffix in kinds]
    assert [path for path in weights if not path.startswith(("sae/demo/", "tests/"))] == []


def test_the_library_imports_quietly_and_quickly_with_nothing_but_torch_and_safetensors():
    """CPU seconds of the import alone, which other processes on the machine do not change."""
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    seconds = float(result.stderr.splitlines()[-1])
    assert seconds < 1


IMPORT_ALL = """
import importlib, pkgutil, sys, time

class Missing:
    names = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "nodes", "aiohttp",
             "diffusers", "transformers", "accelerate", "matplotlib", "scipy", "pandas"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

import torch, numpy, safetensors.torch, PIL.Image
sys.meta_path.insert(0, Missing())
started = time.process_time()
import sae
for module in pkgutil.walk_packages(sae.__path__, "sae."):
    if not module.name.startswith("sae.hosts.comfyui.") and not module.name.endswith("__main__"):
        if module.name.split(".")[-1].endswith("kernels"):  # imported only where Triton is
            continue
        importlib.import_module(module.name)
print(time.process_time() - started, file=sys.stderr)
"""
