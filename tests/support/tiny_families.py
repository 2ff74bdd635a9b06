"""Tiny random models of ComfyUI's own classes, one a family, with prompts for them and their places by hand.

For the tests inside ComfyUI's Python. A place says where a plain forward hook would be put, in ComfyUI's module names,
and which tokens are the stream's: numbers, worked out by hand for the latent and the prompt given here.
"""

from __future__ import annotations

from contextlib import contextmanager

import comfy.ldm.anima.model
import comfy.supported_models
from torch import nn

from tiny_case import TEXT, TEXT_WIDTH, WIDTH, Case, Place, build, conditioning, fill, make, patcher, random_for
from tiny_unets import UNET_CASES, UNETS

__all__ = ["CASES", "TEXT", "UNETS", "build", "conditioning", "fill", "make", "patcher", "random_for"]
# What core's detection takes as given, so that a file with other numbers would not load.
HUNYUAN_POOLED, LONGCAT_TEXT = 768, 3584


# FLUX.1, FLUX.2, Chroma: 8×8 latent cells, patch 2 (FLUX.2: 4×4, patch 1): 16 tokens
def _flux_places(text, double="double_blocks", inner=True, single_attn=True, tokens=16):
    end = text + tokens
    found = [
        Place("transformer_blocks.1", "image", f"{double}.1", ((0, tokens),), 0, given="img"),
        Place("transformer_blocks.0", "text", f"{double}.0", ((0, text),), 1, given="txt"),
        Place("transformer_blocks.0.input", "text", f"{double}.0", ((0, text),), given="txt"),
        Place("transformer_blocks.1.input", "image", f"{double}.1", ((0, tokens),), given="img"),
        Place("single_transformer_blocks.0.input", "joint", "single_blocks.0", ((0, end),), given=0),
        Place("single_transformer_blocks.1.input", "text", "single_blocks.1", ((0, text),), given=0),
        Place("transformer_blocks.1.update", "image", f"{double}.1", ((0, tokens),), 0, given="img"),
        Place("transformer_blocks.0.update", "text", f"{double}.0", ((0, text),), 1, given="txt"),
        Place("transformer_blocks.0.attn", "image", f"{double}.0.img_attn.proj", ((0, tokens),)),
        Place("transformer_blocks.0.attn", "text", f"{double}.0.txt_attn.proj", ((0, text),)),
        Place("transformer_blocks.1.ff", "image", f"{double}.1.img_mlp", ((0, tokens),)),
        Place("transformer_blocks.0.ff_context", "text", f"{double}.0.txt_mlp", ((0, text),)),
        Place("single_transformer_blocks.0", "joint", "single_blocks.0", ((0, end),), given=0),
        Place("single_transformer_blocks.0", "text", "single_blocks.0", ((0, text),), given=0),
        Place("single_transformer_blocks.1", "image", "single_blocks.1", ((text, end),), given=0),
        Place("single_transformer_blocks.0.update", "joint", "single_blocks.0", ((0, end),), given=0),
    ]
    if single_attn:
        found.append(
            Place("single_transformer_blocks.0.attn", "image", "single_blocks.0.linear2", ((text, end),), columns=WIDTH)
        )
    return tuple(found)


def _flux(config, **more):
    return lambda: make(
        config,
        in_channels=more.pop("in_channels", 16),
        out_channels=more.pop("out_channels", 16),
        hidden_size=WIDTH,
        num_heads=1,
        depth=2,
        depth_single_blocks=2,
        **{
            "context_in_dim": TEXT_WIDTH,
            "mlp_ratio": 4.0,
            "axes_dim": [16, 56, 56],
            "qkv_bias": True,
            "txt_ids_dims": [],
            "patch_size": 2,
            "vec_in_dim": 16,
            "theta": 10000,
            **more,
        },
    )


def _flux2():
    return _flux(
        comfy.supported_models.Flux2, in_channels=128, out_channels=128, axes_dim=[32, 32, 32, 32], qkv_bias=False,
        txt_ids_dims=[3], patch_size=1, vec_in_dim=None, mlp_ratio=3.0, theta=2000, global_modulation=True,
        mlp_silu_act=True, ops_bias=False, default_ref_method="index", ref_index_scale=10.0, guidance_embed=False,
    )()  # fmt: skip


def _chroma():
    return _flux(
        comfy.supported_models.Chroma, in_channels=64, out_channels=64, vec_in_dim=None, in_dim=64, out_dim=WIDTH,
        hidden_dim=WIDTH, n_layers=2,
    )()  # fmt: skip


def _hunyuan(config=comfy.supported_models.HunyuanVideo, **more):
    return make(
        config, image_model="hunyuan_video", **{
            "in_channels": 16, "out_channels": 16, "vec_in_dim": HUNYUAN_POOLED, "context_in_dim": TEXT_WIDTH,
            "hidden_size": WIDTH, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 2,
            "axes_dim": [16, 56, 56], "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True,
            "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
            "meanflow_sum": False, **more,
        },
    )  # fmt: skip


def _longcat():
    return _flux(
        comfy.supported_models.LongCatImage, vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2],
        context_in_dim=LONGCAT_TEXT,
    )()  # fmt: skip


def _qwen():
    return make(
        comfy.supported_models.QwenImage, in_channels=64, num_layers=2, attention_head_dim=WIDTH, num_attention_heads=1,
        joint_attention_dim=TEXT_WIDTH,
    )  # fmt: skip


def _lumina(config, width=WIDTH, **more):
    return make(
        config, image_model="lumina2", patch_size=2, in_channels=16, dim=width, cap_feat_dim=TEXT_WIDTH, n_layers=2,
        n_refiner_layers=1, n_heads=width // 64, n_kv_heads=width // 64, axes_dims=[16, 24, 24],
        axes_lens=[300, 512, 512], qk_norm=True, multiple_of=32, ffn_dim_multiplier=1.0, **more,
    )  # fmt: skip


def _wan():
    return make(
        comfy.supported_models.WAN21_T2V, dim=WIDTH, out_dim=16, num_heads=1, ffn_dim=2 * WIDTH, num_layers=2,
        patch_size=(1, 2, 2), freq_dim=256, in_dim=16, text_dim=TEXT_WIDTH,
    )  # fmt: skip


def _sd3():
    return make(
        comfy.supported_models.SD3, in_channels=16, out_channels=16, patch_size=2, depth=2, input_size=None,
        adm_in_channels=16, num_patches=192 * 192, pos_embed_max_size=192,
        context_embedder_config={
            "target": "torch.nn.Linear", "params": {"in_features": TEXT_WIDTH, "out_features": WIDTH},
        },
    )  # fmt: skip


def _krea2():
    return make(
        comfy.supported_models.Krea2, features=WIDTH, channels=16, patch=2, layers=2, heads=1, kvheads=1, txtlayers=2,
        txtdim=40,
    )  # fmt: skip


def _anima():
    with _without_text_adapter():
        return make(
            comfy.supported_models.Anima, max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
            patch_spatial=2, patch_temporal=1, model_channels=WIDTH, concat_padding_mask=True, num_blocks=2,
            num_heads=1, crossattn_emb_channels=TEXT_WIDTH, pos_emb_cls="rope3d", pos_emb_learnable=True,
            pos_emb_interpolation="crop", min_fps=1, max_fps=30, use_adaln_lora=True, adaln_lora_dim=16,
        )  # fmt: skip


@contextmanager
def _without_text_adapter():
    """Anima's adapter of the text is as large as a model, and runs before the network."""
    kept = comfy.ldm.anima.model.LLMAdapter
    comfy.ldm.anima.model.LLMAdapter = lambda **more: nn.Identity()
    try:
        yield
    finally:
        comfy.ldm.anima.model.LLMAdapter = kept


def _joint(stack, name, text, end, attn, mlp, attn_word, mlp_word, lead=0):
    """Blocks that carry one sequence, [text; picture]."""
    return (
        Place(f"{stack}.0", "joint", f"{name}.0", ((0, text), (text + lead, end)), given=0),
        Place(f"{stack}.1", "image", f"{name}.1", ((text + lead, end),), given=0),
        Place(f"{stack}.0", "text", f"{name}.0", ((0, text),), given=0),
        Place(f"{stack}.0.input", "text", f"{name}.0", ((0, text),), given=0),
        Place(f"{stack}.1.input", "joint", f"{name}.1", ((0, text), (text + lead, end)), given=0),
        Place(f"{stack}.1.update", "image", f"{name}.1", ((text + lead, end),), given=0),
        Place(f"{stack}.0.update", "joint", f"{name}.0", ((0, text), (text + lead, end)), given=0),
        Place(f"{stack}.0.{attn_word}", "image", f"{name}.0.{attn}", ((text + lead, end),)),
        Place(f"{stack}.1.{mlp_word}", "image", f"{name}.1.{mlp}", ((text + lead, end),)),
        Place(f"{stack}.0.{mlp_word}", "joint", f"{name}.0.{mlp}", ((0, text), (text + lead, end))),
    )


def _image_only(tokens, attn, mlp, start=0):
    span = ((start, start + tokens),)
    return (
        Place("blocks.1", "image", "blocks.1", span, given=0),
        Place("blocks.0.input", "image", "blocks.0", span, given=0),
        Place("blocks.0.update", "image", "blocks.0", span, given=0),
        Place(f"blocks.0.{attn}", "image", "blocks.0.self_attn", span),
        Place(f"blocks.1.{mlp}", "image", f"blocks.1.{mlp}", span),
    )


_QWEN_PLACES = (
    Place("transformer_blocks.0", "image", "transformer_blocks.0", ((0, 16),), 1, given="hidden_states"),
    Place("transformer_blocks.0", "text", "transformer_blocks.0", ((0, TEXT),), 0, given="encoder_hidden_states"),
    Place("transformer_blocks.0.input", "text", "transformer_blocks.0", ((0, TEXT),), given="encoder_hidden_states"),
    Place("transformer_blocks.1.input", "image", "transformer_blocks.1", ((0, 16),), given="hidden_states"),
    Place("transformer_blocks.1.update", "image", "transformer_blocks.1", ((0, 16),), 1, given="hidden_states"),
    Place(
        "transformer_blocks.0.update", "text", "transformer_blocks.0", ((0, TEXT),), 0, given="encoder_hidden_states"
    ),
    Place("transformer_blocks.0.attn", "image", "transformer_blocks.0.attn.to_out.0", ((0, 16),)),
    Place("transformer_blocks.0.attn", "text", "transformer_blocks.0.attn.to_add_out", ((0, TEXT),)),
    Place("transformer_blocks.1.img_mlp", "image", "transformer_blocks.1.img_mlp", ((0, 16),)),
    Place("transformer_blocks.0.ff_context", "text", "transformer_blocks.0.txt_mlp", ((0, TEXT),)),
)
_SD3_PLACES = (
    Place("transformer_blocks.1", "image", "joint_blocks.1", ((0, 16),), 1, given=1),
    Place("joint_blocks.0", "text", "joint_blocks.0", ((0, TEXT),), 0, given=0),
    Place("transformer_blocks.1.input", "text", "joint_blocks.1", ((0, TEXT),), given=0),
    Place("transformer_blocks.0.input", "image", "joint_blocks.0", ((0, 16),), given=1),
    Place("transformer_blocks.1.update", "image", "joint_blocks.1", ((0, 16),), 1, given=1),
    Place("transformer_blocks.0.update", "text", "joint_blocks.0", ((0, TEXT),), 0, given=0),
    Place("transformer_blocks.0.attn", "image", "joint_blocks.0.x_block.attn.proj", ((0, 16),)),
    Place("transformer_blocks.0.attn", "text", "joint_blocks.0.context_block.attn.proj", ((0, TEXT),)),
    Place("transformer_blocks.1.ff", "image", "joint_blocks.1.x_block.mlp", ((0, 16),)),
    Place("transformer_blocks.0.ff_context", "text", "joint_blocks.0.context_block.mlp", ((0, TEXT),)),
)


CASES = {
    case.family: case
    for case in (
        Case(
            "FLUX.1", _flux(comfy.supported_models.FluxSchnell, guidance_embed=False), (1, 16, 8, 8),
            _flux_places(TEXT), depth={"double": 2, "single": 2}, detected=True,
        ),
        Case(
            "FLUX.2", _flux2, (1, 128, 4, 4), _flux_places(512, single_attn=False),
            depth={"double": 2, "single": 2}, detected=True,
        ),
        Case("Chroma", _chroma, (1, 16, 8, 8), _flux_places(TEXT), depth={"double": 2, "single": 2}),
        # 3 frames of 8×8 cells: 48 tokens
        Case(
            "HunyuanVideo", _hunyuan, (1, 16, 3, 8, 8), _flux_places(TEXT, tokens=48),
            pooled_width=HUNYUAN_POOLED, depth={"double": 2, "single": 2}, detected=True,
        ),
        Case(
            "LongCat", _longcat, (1, 16, 8, 8), _flux_places(TEXT), text_width=LONGCAT_TEXT,
            depth={"double": 2, "single": 2}, detected=True,
        ),
        Case("Qwen-Image", _qwen, (1, 16, 1, 8, 8), _QWEN_PLACES, depth={"double": 2}),
        Case(
            "Z-Image",
            # its modulation has 256 numbers, whatever the width, so that narrower ones do not work
            lambda: _lumina(comfy.supported_models.ZImage, 256, z_image_modulation=True, pad_tokens_multiple=32),
            (1, 16, 8, 8),
            _joint("layers", "layers", 32, 32 + 16, "attention", "feed_forward", "attention", "feed_forward"),
            width=256, depth={"layers": 2}, slot=None,
        ),
        Case(
            "Lumina 2", lambda: _lumina(comfy.supported_models.Lumina2), (1, 16, 8, 8),
            _joint("layers", "layers", TEXT, TEXT + 16, "attention", "feed_forward", "attn", "feed_forward"),
            depth={"layers": 2}, slot=None,
        ),
        # 3 frames of 8×8 cells: 48 tokens
        Case("Wan 2", _wan, (1, 16, 3, 8, 8), _image_only(48, "attn1", "ffn"), depth={"blocks": 2}),
        Case("Stable Diffusion 3", _sd3, (1, 16, 8, 8), _SD3_PLACES, depth={"double": 2}, detected=True),
        Case(
            "Krea 2", _krea2, (1, 16, 1, 8, 8),
            _joint("blocks", "blocks", TEXT, TEXT + 16, "attn", "mlp", "attn", "ff"),
            text_width=80, depth={"blocks": 2}, slot=None, detected=True,
        ),
        Case("Anima", _anima, (1, 16, 2, 8, 8), _image_only(32, "self_attn", "mlp"), depth={"blocks": 2}, slot=None),
        *UNET_CASES,
    )
}  # fmt: skip
