"""Text encoders in small: core's own tokenizers, and for each token a hidden state at each tap, by chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PAD = 151643  # of Qwen


class KleinClip:
    """A CLIP as Klein's, with random hidden states in place of Qwen3's: of each token its own, whatever its place."""

    def __init__(self, width: int, layers: int = 3) -> None:
        from comfy.text_encoders.flux import KleinTokenizer

        self.tokenizer = KleinTokenizer()
        self.width, self.layers = width, layers

    def tokenize(self, text: str, **more: Any) -> Any:
        return self.tokenizer.tokenize_with_weights(text, **more)

    def states(self, token: int) -> Tensor:
        """(layers, width)"""
        return torch.randn(self.layers, self.width, generator=torch.Generator().manual_seed(token))

    def encode_from_tokens(self, tokens: Any, return_pooled: bool = False) -> Any:
        """As core puts it together: (1, tokens, layers · width), without a pooled output."""
        [row] = tokens["qwen3_4b"]
        kept = {token: self.states(token) for token in {token for token, *_ in row}}
        whole = torch.stack([kept[token].reshape(-1) for token, *_ in row])[None]
        return (whole, None) if return_pooled else whole

    def encode_from_tokens_scheduled(self, tokens: Any) -> Any:
        [row] = tokens["qwen3_4b"]
        mask = torch.tensor([[int(token != PAD) for token, *_ in row]])
        return [[self.encode_from_tokens(tokens), {"pooled_output": None, "attention_mask": mask}]]
