"""SAEs of text encoders: Qwen-Scope (Q), Gemma Scope (P) and its second edition."""

from __future__ import annotations

from layouts import Case, F, K, above, draw, matrices, pre_matrices, top

QWEN = f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"


def qwen_scope(folder: str = QWEN, **more: str) -> Case:
    t = matrices()
    pre = pre_matrices(t, subtract=False)
    state = {**t, "W_enc": t["W_enc"].T.contiguous(), "W_dec": t["W_dec"].T.contiguous()}
    return Case(f"{folder}/layer17.sae.pt", state, lambda x: top(pre(x)), t["W_dec"], t["b_dec"], **more)


def gemma_scope(second: bool = False) -> Case:
    t = matrices() | {"threshold": draw(F).abs()}
    pre = pre_matrices(t, subtract=False)
    codes = lambda x: above(pre(x), t["threshold"]).relu()  # noqa: E731
    if not second:
        return Case("layer_24/width_32/average_l0_4/params.npz", t, codes, t["W_dec"], t["b_dec"])
    state = {key.lower(): value for key, value in t.items()}
    hook = "model.layers.12.output"
    config = {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "width": F, "l0": K, "affine_connection": False}
    configs = {"config.json": {**config, "architecture": "jump_relu", "type": "sae", "model_name": "google/gemma-3"}}
    return Case("params.safetensors", state, codes, t["W_dec"], t["b_dec"], configs)
