"""Every family over the HTTP API: core's loader where it reads a tiny one, an SAE made on the model, and refusals."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comfy_client import PromptFailed
from family_files import IN_FILES, file_name
from project_files import ROOT
from sae.places import families

WRITER = ROOT / "tests" / "support" / "write_tiny_families.py"
PICTURE = ("EmptySD3LatentImage", {"width": 64, "height": 64})
VIDEO = ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 9})
SD = ("EmptyLatentImage", {"width": 128, "height": 128})
# family -> node of the empty latent, sizes of the prompt, how the place is written, width
FAMILIES = {
    "FLUX.1": (PICTURE, {"width": 64}, "transformer_blocks.1", 128),
    "FLUX.2": (
        ("EmptyFlux2LatentImage", {"width": 64, "height": 64}), {"width": 64}, "transformer_blocks.1", 128,
    ),
    "Chroma": (PICTURE, {"width": 64}, "transformer_blocks.1", 128),
    "HunyuanVideo": (VIDEO, {"width": 64, "pooled": 768}, "transformer_blocks.1", 128),
    "LongCat": (PICTURE, {"width": 3584}, "transformer_blocks.1", 128),
    "Qwen-Image": (PICTURE, {"width": 64}, "transformer_blocks.0", 128),
    "Z-Image": (PICTURE, {"width": 64}, "layers.0", 256),
    "Lumina 2": (PICTURE, {"width": 64}, "layers.0", 128),
    "Wan 2": (VIDEO, {"width": 64}, "blocks.1", 128),
    "Stable Diffusion 3": (PICTURE, {"width": 64}, "transformer_blocks.1", 128),
    "Krea 2": (PICTURE, {"width": 80}, "blocks.0", 128),
    "Anima": (VIDEO, {"width": 64}, "blocks.1", 128),
    "Stable Diffusion 1": (SD, {"width": 64}, "down_blocks.2.attentions.1", 64),
    "Stable Diffusion 2": (SD, {"width": 64}, "down_blocks.2.attentions.1", 64),
    "SDXL": (SD, {"width": 64, "pooled": 1280}, "down_blocks.2.attentions.1", 64),
    "SDXL Refiner": (SD, {"width": 64, "pooled": 1280}, "down_blocks.2.attentions.1", 64),
}  # fmt: skip
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def files(comfyui, server):
    """Models and SAEs in the server's folders, written by ComfyUI's own classes; gone at the end."""
    models = server.place.models
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui.root), "PYTHONPATH": str(WRITER.parent)}
    done = subprocess.run(
        [str(comfyui.python), str(WRITER), str(models)], env=environment, capture_output=True, text=True,
        cwd=server.place.base,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    yield
    for name in FAMILIES:
        (models / "diffusion_models" / f"{file_name(name)}.safetensors").unlink(missing_ok=name not in IN_FILES)
        shutil.rmtree(models / "sae" / file_name(name))


def loaded(name):
    """The node that gives the model: core's, or one of the tests where core reads no tiny file of the family."""
    if name not in IN_FILES:
        return {"class_type": "ProbeTinyModel", "inputs": {"family": name}}
    file = f"{file_name(name)}.safetensors"
    return {"class_type": "UNETLoader", "inputs": {"unet_name": file, "weight_dtype": "default"}}


def graph(name, strength=1.0, sae=None, location="auto"):
    (empty, size), prompt, *_ = FAMILIES[name]
    return {
        "1": loaded(name),
        "2": {
            "class_type": "LoadSAE",
            "inputs": {
                "sae_name": f"{file_name(sae or name)}/model.safetensors", "location": "auto", "stream": "auto",
            },
        },
        "3": {"class_type": "SAEFeature", "inputs": {"feature": 2, "strength": 1.0}},
        "4": {
            "class_type": "FluxActivationSteer",
            "inputs": {
                "model": ["1", 0], "sae": ["2", 0], "features": ["3", 0], "method": "add", "strength": strength,
                "unit": "token_norm", "location": location, "stream": "auto", "start_percent": 0.0,
                "end_percent": 1.0, "apply_to": "both",
            },
        },
        "5": {"class_type": "ProbeConditioning", "inputs": {**prompt, "tokens": 6, "seed": 3}},
        "6": {"class_type": empty, "inputs": {**size, "batch_size": 1}},
        "7": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["4", 0], "seed": 5, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                "positive": ["5", 0], "negative": ["5", 0], "latent_image": ["6", 0], "denoise": 1.0,
            },
        },
        "8": {"class_type": "ProbeSaveTensors", "inputs": {"what": ["7", 0], "name": drawing(name, strength)}},
        "9": {"class_type": "InspectModel", "inputs": {"model": ["1", 0]}},
    }  # fmt: skip


def drawing(name, strength):
    return f"{file_name(name)}-{strength:g}"


def drawn(server, name, strength):
    return load_file(Path(server.place.output) / "probe" / f"{drawing(name, strength)}.safetensors")["samples"]


def test_every_family_of_the_table_is_here():
    assert list(FAMILIES) == [family.name for family in families.FAMILIES if family.models]


@each_family
def test_an_sae_made_on_the_model_steers_it(client, server, files, name):
    entries = {strength: client.run(graph(name, strength)) for strength in (0.0, 0.5)}
    plain, steered = drawn(server, name, 0.0), drawn(server, name, 0.5)
    assert plain.isfinite().all() and steered.isfinite().all()
    assert float((steered - plain).norm() / plain.norm()) > 0.01
    reports = client.get_json(f"/sae_steering/reports?prompt_id={entries[0.5]['prompt'][1]}")["reports"]
    assert reports["4"]["text"].startswith("Steered 3 steps") and FAMILIES[name][2] in reports["4"]["text"]
    assert not [line for line in reports["4"]["warnings"] if "checkpoint" in line or "Nothing tells" in line]
    told = entries[0.5]["outputs"]["9"]["text"][0]
    assert told.startswith(f"Family: {name} (") and f"{FAMILIES[name][3]}" in told.splitlines()[1]
    again = client.run(graph(name, 0.0))
    assert again and torch.equal(drawn(server, name, 0.0), plain)


def test_another_familys_sae_is_refused_by_name(client, files):
    with pytest.raises(PromptFailed, match=r"was trained on Wan 2, but this model is FLUX\.2; use an SAE that was"):
        client.run(graph("FLUX.2", sae="Wan 2", location="transformer_blocks.1"))
