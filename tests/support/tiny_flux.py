"""A small random FLUX in ComfyUI and in diffusers with equal weights, an SAE for it, and steering by plain hooks.

A pytest plugin for the tests inside ComfyUI's Python; the pack is already imported there as `sae_steering_pack`.
"""

from __future__ import annotations

from itertools import pairwise

import comfy.sample
import comfy.sd
import pytest
import torch
from comfy_api.latest import io
from diffusers import FluxTransformer2DModel

from sae_steering_pack.sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae_steering_pack.sae.dictionary.owner import TrainedOn
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.delta import Steering
from sae_steering_pack.sae.steering.edits import Edit
from sae_steering_pack.sae.steering.intervention import Intervention
from sae_steering_pack.sae.steering.steering_inputs import EVERY_TOKEN

LATENT_SCALE, LATENT_SHIFT = 0.3611, 0.1159  # of FLUX's latents outside and inside the model
WIDTH, TEXT_WIDTH, POOLED, D_SAE = 128, 64, 16, 48
CONFIG = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": WIDTH,
    "num_attention_heads": 1,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": POOLED,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}
# Every kind of place of the site table, with each of its streams.
PLACES = [
    ("transformer_blocks.1", "text"),
    ("transformer_blocks.1", "image"),
    ("transformer_blocks.0.attn", "image"),
    ("transformer_blocks.0.attn", "text"),
    ("transformer_blocks.1.ff", "image"),
    ("transformer_blocks.0.ff_context", "text"),
    ("transformer_blocks.0.input", "text"),
    ("transformer_blocks.1.input", "image"),
    ("transformer_blocks.1.update", "text"),
    ("transformer_blocks.1.update", "image"),
    ("single_transformer_blocks.1", "joint"),
    ("single_transformer_blocks.1", "text"),
    ("single_transformer_blocks.1", "image"),
    ("single_transformer_blocks.0.attn", "joint"),
    ("single_transformer_blocks.0.attn", "text"),
    ("single_transformer_blocks.2.attn", "image"),
    ("single_transformer_blocks.0.input", "joint"),
    ("single_transformer_blocks.1.input", "text"),
    ("single_transformer_blocks.1.update", "joint"),
    ("single_transformer_blocks.1.update", "text"),
    ("single_transformer_blocks.2.update", "image"),
    ("transformer_blocks.0-1", "image"),
    ("transformer_blocks.0-1.attn", "text"),
    ("single_transformer_blocks.0,2", "image"),
    ("single_transformer_blocks.0-2.attn", "joint"),
]


def random_for(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def transformer():
    """The FLUX of diffusers. Its weights are larger than fresh ones, so that every place matters for the output."""
    torch.manual_seed(5)
    flux = FluxTransformer2DModel(**CONFIG).eval().requires_grad_(False)
    for name, weight in flux.named_parameters():
        if name.endswith("weight") and weight.ndim == 2:
            weight *= 2.5
    return flux


@pytest.fixture(scope="session")
def load_flux(transformer):
    """Loads the same FLUX into ComfyUI, from diffusers' names."""

    def load(dtype=torch.float32):
        weights = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})

    return load


@pytest.fixture(scope="session")
def model(load_flux):
    """The FLUX of ComfyUI in fp32: a MODEL that no test changes."""
    return load_flux()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def sae_tensors(width=WIDTH):
    random = random_for(9)
    return {
        "encoder": torch.randn(D_SAE, width, generator=random) * 0.1,
        "encoder_bias": torch.randn(D_SAE, generator=random) * 0.3 + 1,
        "decoder": torch.randn(D_SAE, width, generator=random) * 0.1,
        "input_bias": torch.randn(width, generator=random) * 0.1,
        "output_bias": torch.randn(width, generator=random) * 0.1,
    }


def make_sae(width=WIDTH, k=None, **more):
    """A ReLU SAE, or a TopK one, that says that it is of FLUX.1; `more`: name, site and statistics."""
    architecture = Architecture("relu") if k is None else Architecture("topk", k=k)
    sae = SparseAutoencoder.from_tensors(sae_tensors(width), architecture, **{"name": "tiny", **more})
    sae.trained_on = TrainedOn("FLUX.1")
    return sae


@pytest.fixture
def sae():
    return make_sae()


def dense_codes(x):
    t = sae_tensors()
    return ((x - t["input_bias"]) @ t["encoder"].T + t["encoder_bias"]).clamp(min=0)


def intervention(sae, location, stream="auto", method="add", strength=1.0, unit="token_norm", features=(3,), **more):
    """`more`: schedule, side and mask; `replaces` for swap, `gate` for any method."""
    replaces, gate = more.pop("replaces", ()), more.pop("gate", EVERY_TOKEN)
    edits = [edit if isinstance(edit, Edit) else Edit(edit) for edit in features]
    steering = Steering(sae, edits, method, strength, unit, replaces, gate)
    return Intervention(steering, parse_location(location, stream), **more)


def steer(model, *args, report=None, **more):
    """A steered clone of the model; `report` hears the summaries."""
    return host.steer(model, [intervention(*args, **more)], report or (lambda summary: None))


def latent(height=8, width=8, batch=1, seed=1):
    return torch.randn(batch, 16, height, width, generator=random_for(seed))


def conditioning(seed=2, tokens=6, **more):
    text = torch.randn(1, tokens, TEXT_WIDTH, generator=random_for(seed))
    pooled = torch.randn(1, POOLED, generator=random_for(seed + 100))
    return [[text, {"pooled_output": pooled, **more}]]


def sample(model, positive=None, negative=None, cfg=1.0, steps=2, size=(8, 8), batch=1, sampler="euler", **more):
    """Samples as KSampler does; the final latent. `more`: seed, callback."""
    positive = positive or conditioning()
    empty = torch.zeros(batch, 16, *size)
    seed = more.pop("seed", 7)
    noise = comfy.sample.prepare_noise(empty, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative or positive, empty,
        disable_pbar=True, seed=seed, **more,
    )  # fmt: skip


class Watch:
    """Keeps the image tokens (batch, tokens, width) that enter a block of a MODEL, call by call."""

    def __init__(self, kind="double", block=1):
        self.tokens = []
        self.slot = (f"{kind}_block", block)

    def on(self, model):
        watched = model.clone()
        watched.set_model_patch_replace(self._keep, "dit", *self.slot)
        return watched

    def _keep(self, args, extra):
        self.tokens.append(args["img"].clone())  # the block writes into it
        return extra["original_block"](args)


# Of FluxActivationSteer, beside a model, an SAE and features.
STEER_INPUTS = {
    "method": "add", "strength": 0.3, "unit": "token_norm", "location": "auto", "stream": "auto", "start_percent": 0.0,
    "end_percent": 1.0, "apply_to": "both",
}  # fmt: skip


def run_node(node, **inputs):
    """Executes a node class as ComfyUI does; the NodeOutput."""
    prepared = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "17"}})
    return prepared.EXECUTE_NORMALIZED(**inputs)


def predict(model, x, sigma, text, pooled, **options):
    """One call of a MODEL's prediction, with its wrappers, as sampling makes it."""
    options = {
        "cond_or_uncond": [0],
        "wrappers": model.wrappers,
        **model.model_options["transformer_options"],
        **options,
    }
    return model.model.apply_model(x, torch.full((len(x),), sigma), None, text, None, options, y=pooled)


def predict_diffusers(transformer, x, sigma, text, pooled):
    """The same by diffusers: packed tokens in, velocity out, and the denoised latent from that. Even sizes only."""
    batch, channels, height, width = x.shape
    tokens = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 64)
    ids = torch.tensor([[0.0, row, column] for row in range(height // 2) for column in range(width // 2)])
    velocity = transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=torch.full((batch,), sigma),
        img_ids=ids,
        txt_ids=torch.zeros(text.shape[1], 3),
    ).sample
    velocity = velocity.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x - sigma * velocity.reshape(x.shape)


def sample_diffusers(transformer, positive, steps=2, size=(8, 8), seed=7):
    """Euler steps from sigma 1 to 0; the latent as ComfyUI hands it over."""
    text, extra = positive[0]
    x = torch.randn((1, 16, *size), generator=torch.manual_seed(seed))
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    for now, after in pairwise(sigmas):
        denoised = predict_diffusers(transformer, x, now, text, extra["pooled_output"])
        x = x + (after - now) * (x - denoised) / now
    return x / LATENT_SCALE + LATENT_SHIFT


def relative_difference(a, b):
    return float((a - b).norm() / b.norm())


def modules_with_hooks(model):
    """Names of the modules of a MODEL that carry a forward hook."""
    modules = model.model.named_modules()
    return [name for name, module in modules if module._forward_hooks or module._forward_pre_hooks]
