"""Steering as one writes it by hand: forward hooks on diffusers' modules, put where the site table says."""

from __future__ import annotations

import re
from contextlib import contextmanager

import torch


@contextmanager
def hooked(transformer, location, stream, change):
    """`change(x, read)` gives the new tokens; `read` is output - input at an update site, an MLP's input at a
    transcoder's, else x."""
    handles = []
    for block in _blocks(location):
        handles += _install(transformer, block, location, stream, change)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(location):
    text = re.search(r"blocks\.([0-9,-]+)", location)[1]
    spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return [block for span in spans for block in range(span[0], span[-1] + 1)]


def _install(transformer, block, location, stream, change):
    single = location.startswith("single")
    module = (transformer.single_transformer_blocks if single else transformer.transformer_blocks)[block]
    if location.endswith(".attn"):
        return [module.attn.register_forward_hook(_joint(stream, change) if single else _attention(stream, change))]
    if location.endswith((".ff", ".ff_context")):
        part = module.ff if location.endswith(".ff") else module.ff_context
        return [part.register_forward_hook(lambda module, args, output: change(output, output))]
    if location.endswith(".transcoder"):
        part = module.ff_context if "ff_context" in location else module.ff
        return [part.register_forward_hook(lambda module, args, output: change(output, args[0]))]
    if location.endswith(".input"):
        return [module.register_forward_pre_hook(_given(stream, change), with_kwargs=True)]
    before = {}

    def keep(module, args, kwargs):
        before["image"] = kwargs["hidden_states"].clone()
        before["text"] = kwargs["encoder_hidden_states"].clone()

    update = location.endswith(".update")
    return [
        module.register_forward_pre_hook(keep, with_kwargs=True),
        module.register_forward_hook(_block(stream, change, before if update else None)),
    ]


def _block(stream, change, before):
    def hook(module, args, output):
        text, image = output
        read_text, read_image = (text, image) if before is None else (text - before["text"], image - before["image"])
        if stream in ("text", "joint"):
            text = change(text, read_text)
        if stream in ("image", "joint"):
            image = change(image, read_image)
        return text, image

    return hook


def _given(stream, change):
    def hook(module, args, kwargs):
        names = {"text": ["encoder_hidden_states"], "image": ["hidden_states"]}
        asked = names.get(stream, [*names["text"], *names["image"]])
        return args, {**kwargs, **{name: change(kwargs[name], kwargs[name]) for name in asked}}

    return hook


def _attention(stream, change):
    def hook(module, args, output):
        image, text = output
        return (change(image, image), text) if stream == "image" else (image, change(text, text))

    return hook


def _joint(stream, change, text_tokens=6):
    def hook(module, args, output):
        text, image = output[:, :text_tokens], output[:, text_tokens:]
        if stream != "image":
            text = change(text, text)
        if stream != "text":
            image = change(image, image)
        return torch.cat([text, image], dim=1)

    return hook
