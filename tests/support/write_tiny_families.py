"""Writes an SAE made on a tiny model of each family, and the models that core's loader reads, for a ComfyUI server.

`python write_tiny_families.py MODELS` in ComfyUI's Python, with COMFYUI_PATH. The files are what UNETLoader and LoadSAE
read. The SAE's features are the main directions of the model's own activations at one place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comfy_install import comfyui_root
from family_files import IN_FILES, file_name

sys.path.insert(0, str(comfyui_root()))

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import tiny_families  # noqa: E402
from pack_loader import load_pack  # noqa: E402

FEATURES = 8


def main(models: Path) -> None:
    load_pack()
    (models / "diffusion_models").mkdir(parents=True, exist_ok=True)
    for name, case in tiny_families.CASES.items():
        model = tiny_families.build(case)
        if name in IN_FILES:
            write_model(name, case, model, models / "diffusion_models")
        write_sae(name, case, model, models / "sae")


def write_model(name, case, model, folder):
    weights = {key: tensor.clone().contiguous() for key, tensor in model.model.diffusion_model.state_dict().items()}
    # Core's detection takes the text's width of Wan as given, unless the header tells.
    header = {"config": json.dumps({"transformer": {"text_dim": case.text_width}})} if name == "Wan 2" else None
    save_file(weights, folder / f"{file_name(name)}.safetensors", header)


def write_sae(name, case, model, folder):
    from sae_steering_pack.sae.dictionary.autoencoder import Architecture, SparseAutoencoder
    from sae_steering_pack.sae.dictionary.owner import TrainedOn
    from sae_steering_pack.sae.export import export
    from sae_steering_pack.sae.hosts.comfyui.model import identity_of
    from sae_steering_pack.sae.places.site import parse_location

    place = case.places[0]
    x = activations(case, model, place)
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:FEATURES].contiguous()
    tensors = {
        "encoder": directions,
        "encoder_bias": torch.zeros(FEATURES),
        "decoder": directions.clone(),
        "input_bias": mean,
        "output_bias": mean.clone(),
    }
    site = parse_location(place.location, place.stream)
    sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name=name, site=site)
    sae.trained_on = TrainedOn(name, "tiny", identity_of(model))
    export(sae, folder / file_name(name), "sae_steering", None, None)


def activations(case, model, place):
    """(tokens, width) of the place's stream, by a plain hook."""
    seen = []

    def keep(module, args, output):
        part = output if place.output is None else output[place.output]
        part = part.movedim(1, -1) if place.as_map else part
        part = part.reshape(len(part), -1, part.shape[-1])
        seen.extend(part[0, start:end].clone() for start, end in place.spans)

    handle = model.model.diffusion_model.get_submodule(place.module).register_forward_hook(keep)
    try:
        with torch.inference_mode():
            empty, prompt = torch.zeros(case.latent), tiny_families.conditioning(case)
            noise = comfy.sample.prepare_noise(empty, 1)
            comfy.sample.sample(
                model, noise, 4, 1.0, "euler", "simple", prompt, prompt, empty, disable_pbar=True, seed=1
            )
    finally:
        handle.remove()
    return torch.cat(seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
