"""Public layouts of UNets' SAEs over HTTP: loaded, found with and steered by the nodes, on tiny UNets."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

WIDTH, FEATURES, K = 64, 96, 8


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / WIDTH**0.5


def sdxl_unbox(folder):
    """As surokpro2/sdxl-saes has them: a nested state dict, its config, and the features' means and deviations."""
    folder = folder / "unet.down_blocks.2.attentions.1_k10_hidden96_auxk256_bs4096_lr0.0001" / "final"
    folder.mkdir(parents=True)
    decoder = random(WIDTH, FEATURES)
    state = {
        "pre_bias": torch.zeros(WIDTH), "latent_bias": torch.zeros(FEATURES), "encoder.weight": decoder.T.clone() * 30,
        "decoder.weight": decoder / decoder.norm(dim=0), "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.int64),
    }  # fmt: skip
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    for name in ("mean", "std"):
        torch.save(torch.full((FEATURES,), 3.0), folder / f"{name}.pt")
    config = {"n_dirs_local": FEATURES, "d_model": WIDTH, "k": K, "auxk": 256, "dead_steps_threshold": 10}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "state_dict.pth", {}


def saeuron(folder):
    """As bcywinski/SAeUron has them: a folder named by its hook."""
    folder = folder / "unet.up_blocks.1.attentions.1"
    folder.mkdir(parents=True)
    decoder = random(FEATURES, WIDTH)
    tensors = {
        "encoder.weight": decoder * 30, "encoder.bias": torch.zeros(FEATURES), "b_dec": torch.zeros(WIDTH),
        "W_dec": decoder / decoder.norm(dim=1)[:, None],
    }  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae.safetensors")
    config = {
        "expansion_factor": 16, "normalize_decoder": True, "num_latents": FEATURES, "k": K, "batch_topk": True,
        "sample_topk": False, "input_unit_norm": False, "multi_topk": False, "d_in": WIDTH,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder / "sae.safetensors", {}


def overcomplete(folder):
    """A state dict of overcomplete, which tells neither its k nor its place."""
    folder.mkdir(parents=True)
    directions = random(FEATURES, WIDTH)
    state = {
        "encoder.final_block.0.weight": directions * 30, "encoder.final_block.0.bias": torch.zeros(FEATURES),
        "dictionary._weights": directions, "dictionary.multiplier": torch.tensor(0.5),
    }  # fmt: skip
    torch.save(state, folder / "sd15.pt")
    return folder / "sd15.pt", {"architecture": f"overcomplete_topk:{K}", "location": "up_blocks.1.attentions.1"}


# layout -> who writes it, tiny model, its conditioning, the place, how it is steered
LAYOUTS = {
    "sdxl-unbox": (
        sdxl_unbox, "SDXL", {"width": 64, "pooled": 1280}, "down_blocks.2.attentions.1.update", "mean", 10.0,
    ),
    "SAeUron": (saeuron, "Stable Diffusion 1", {"width": 64}, "up_blocks.1.attentions.1", "raw", -8.0),
    "overcomplete": (overcomplete, "Stable Diffusion 1", {"width": 64}, "up_blocks.1.attentions.1", "token_norm", 0.4),
}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def layout(request, server):
    folder = server.place.models / "sae" / f"layout-{request.param.lower()}"
    write, *rest = LAYOUTS[request.param]
    path, more = write(folder)
    yield request.param, path.relative_to(server.place.models / "sae").as_posix(), more, rest
    shutil.rmtree(folder)


def graph(name, sae, more, family, prompt, unit, strength):
    load = {"sae_name": sae, "location": "auto", "stream": "auto", "architecture": "auto", **more}
    method = "scale" if strength < 0 else "add"
    return {
        "1": {"class_type": "ProbeTinyModel", "inputs": {"family": family}},
        "2": {"class_type": "LoadSAE", "inputs": load},
        "3": {"class_type": "ProbeConditioning", "inputs": {**prompt, "tokens": 6, "seed": 3}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "5": {
            "class_type": "TopActivatingFeatures",
            "inputs": {
                "model": ["1", 0], "sae": ["2", 0], "positive": ["3", 0], "latent_image": ["4", 0], "seed": 1,
                "steps": 2, "count": 3, "rank_by": "mean", "location": "auto", "stream": "auto",
            },
        },
        "6": {
            "class_type": "FluxActivationSteer",
            "inputs": {
                "model": ["1", 0], "sae": ["2", 0], "features": ["5", 0], "method": method, "strength": strength,
                "unit": unit, "location": "auto", "stream": "auto", "start_percent": 0.0, "end_percent": 1.0,
                "apply_to": "both",
            },
        },
        "7": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["6", 0], "seed": 5, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], "denoise": 1.0,
            },
        },
        "8": {"class_type": "ProbeSaveTensors", "inputs": {"what": ["7", 0], "name": name}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["5", 1]}},
    }  # fmt: skip


def test_a_public_layout_is_loaded_found_with_and_steers(client, server, layout):
    name, sae, more, (family, prompt, place, unit, strength) = layout
    drawn = {}
    for key, amount in (("plain", 1.0 if strength < 0 else 0.0), ("steered", strength)):
        file = f"layout-{name.lower()}-{key}"
        built = graph(file, sae, more, family, prompt, unit, amount)
        built["6"]["inputs"]["method"] = "scale" if strength < 0 else "add"
        entry = client.run(built)
        drawn[key] = load_file(Path(server.place.output) / "probe" / f"{file}.safetensors")["samples"]
    reports = client.get_json(f"/sae_steering/reports?prompt_id={entry['prompt'][1]}")["reports"]
    assert reports["6"]["text"].startswith("Steered 2 steps") and place in json.dumps(reports["6"])
    assert drawn["steered"].isfinite().all()
    assert float((drawn["steered"] - drawn["plain"]).norm() / drawn["plain"].norm()) > 1e-3
    assert entry["outputs"]["9"]["text"][0].count("\n") > 2  # the table of what fires
