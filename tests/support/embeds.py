"""Embeddings as ComfyUI passes them, and SAEs for them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor

try:  # inside ComfyUI the library is a part of the pack
    from sae_steering_pack.sae.dictionary.autoencoder import Architecture, SparseAutoencoder
    from sae_steering_pack.sae.formats import load
except ImportError:
    from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
    from sae.formats import load


def generator(seed):
    return torch.Generator().manual_seed(seed)


def vision(batch=1, embeds=1280, hidden=1664, tokens=5, seed=1, dtype=torch.float32):
    """A CLIP_VISION_OUTPUT with the tensors that core's CLIPVisionEncode gives."""
    shapes = {
        "image_embeds": (batch, embeds),
        "last_hidden_state": (batch, tokens, hidden),
        "penultimate_hidden_states": (batch, tokens, hidden),
    }
    random = generator(seed)
    tensors = {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}
    return SimpleNamespace(**tensors, mm_projected=None, image_sizes=[(3, 224, 224)] * batch)


def siglip(batch=1, tokens=9, seed=1):
    """What core gives for SigLIP: its image_embeds are the tokens again."""
    output = vision(batch, hidden=1152, tokens=tokens, seed=seed)
    output.image_embeds = output.last_hidden_state.clone()
    return output


def conditioning(tokens=7, width=4096, pooled=768, entries=1, seed=1, **extra):
    random = generator(seed)
    texts = [
        [torch.randn(1, tokens, width, generator=random), {"pooled_output": torch.randn(1, pooled, generator=random)}]
        for _ in range(entries)
    ]
    for text in texts:
        text[1].update(extra)
        if pooled == 0:
            del text[1]["pooled_output"]
    return texts


def tensors_for(width, d_sae=40, seed=3):
    random = generator(seed)
    scale = width**-0.5
    return {
        "encoder": torch.randn(d_sae, width, generator=random) * scale,
        "encoder_bias": torch.randn(d_sae, generator=random) * 0.1,
        "decoder": torch.randn(d_sae, width, generator=random) * scale,
        "output_bias": torch.randn(width, generator=random) * 0.1,
    }


def sae_for(width, name="some", **more):
    return SparseAutoencoder.from_tensors(tensors_for(width), Architecture("relu"), name=name, **more)


def gytis_file(folder, width=1280, d_sae=60):
    """A checkpoint in Gytis' layout, and its tensors."""
    t = tensors_for(width, d_sae)
    state = {
        "enc_bias": t["encoder_bias"],
        "dec_bias": t["output_bias"],
        "encoder.weight": t["encoder"],
        "decoder.weight": t["decoder"].T.contiguous(),
    }
    path = folder / "clip-sae-128" / "sparse_autoencoder_128.pth"
    path.parent.mkdir()
    torch.save(state, path)
    return path, state


def load_gytis(folder):
    path, state = gytis_file(folder)
    return load(path, name="clip-sae-128/sparse_autoencoder_128"), state


def gytis_edit(x: Tensor, state: dict[str, Tensor], change) -> Tensor:
    """His playground: encode, `change` the codes, decode, and put back what the SAE had lost."""
    x = x.double()
    w = {name: tensor.double() for name, tensor in state.items()}
    codes = torch.relu(x @ w["encoder.weight"].T + w["enc_bias"])
    lost = x - (codes @ w["decoder.weight"].T + w["dec_bias"])
    return (change(codes.clone()) @ w["decoder.weight"].T + w["dec_bias"] + lost).float()


def write_saelens(folder, width, name):
    """A checkpoint in the layout of SAELens below `folder`, for LoadSAE."""
    t = tensors_for(width)
    place = folder / name
    place.mkdir(parents=True)
    save_file(
        {
            "W_enc": t["encoder"].T.contiguous(),
            "b_enc": t["encoder_bias"],
            "W_dec": t["decoder"],
            "b_dec": t["output_bias"],
        },
        place / "sae_weights.safetensors",
    )
    (place / "cfg.json").write_text(f'{{"architecture": "standard", "d_in": {width}, "d_sae": 40, "dtype": "float32"}}')
    return f"{name}/sae_weights.safetensors"
