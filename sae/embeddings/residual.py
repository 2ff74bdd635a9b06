"""Which hidden state of a language model an SAE reads: by the hook that its file names, else by its path.

Hidden state n is what block n - 1 gives out and block n gets. An SAE of the residual stream behind block n reads hidden
state n + 1, one before block n hidden state n, one of the embeddings hidden state 0. What an MLP, an attention or a
norm gives out is no hidden state, whatever its width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..dictionary.autoencoder import SparseAutoencoder
from ..files.quote import quoted, shown

_BLOCK = re.compile(r"(?:layers?|blocks?|(?<![a-z])h)[._ -]?(\d{1,3})(?!\d)", re.IGNORECASE)
_SCOPE_BLOCK = re.compile(r"-l(\d{1,3})r-", re.IGNORECASE)  # Llama Scope: Llama3_1-8B-Base-L15R-8x
_PRE = re.compile(r"resid_?pre|(?<![a-z])(?:pre|input)$|\.input$", re.IGNORECASE)
_EMBEDDING = re.compile(r"(?<![a-z])(?:hook_embed|embed_tokens|wte)(?![a-z])|(?:^|/)embeddings?(?:/|$)", re.IGNORECASE)
_OTHER = re.compile(
    r"(?<![a-z])(?:mlp(?:_?out|_?in)?|attn(?:_?out)?|att|self_attn|attention|hook_z|z|ln[12]?|mid|resid_?mid|[a-z_]*norm|"
    r"[a-z]+_proj|ffn?|feed_?forward|transcoders?|crosscoders?|clt|head|router|experts?)(?![a-z])|"
    r"-l\d{1,3}[am]-|\(head ",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Read:
    """The hidden state that an SAE reads, and how that is told."""

    state: int
    words: str

    def __str__(self) -> str:
        return f"{self.words}, which is hidden state {self.state}"


def state_of(sae: SparseAutoencoder) -> Read | None:
    """None where nothing tells; ValueError, by name, for what is not the residual stream and where several are told."""
    hook = sae.origin.hook if sae.origin is not None and sae.site is None else None
    if hook is not None and (_BLOCK.search(hook) or _EMBEDDING.search(hook)):
        return _state(sae, hook, f"its file names {quoted(hook)}")
    return _state(sae, sae.name, "its name says so")


def _state(sae: SparseAutoencoder, text: str, by: str) -> Read | None:
    plain = text.replace("\\", "/")
    numbers = {int(number) for number in (*_BLOCK.findall(plain), *_SCOPE_BLOCK.findall(plain))}
    other = _OTHER.search(plain)
    if other is not None and (numbers or by.startswith("its file")):
        raise ValueError(
            f"tap: {sae.name} was trained at another point of the network ({shown(other[0].strip('-( '), 40)}: {by}), "
            f"which is no hidden state; use an SAE of the residual stream, or write the tap to try it at."
        )
    if len(numbers) > 1:
        raise ValueError(f"tap: the name of {sae.name} tells several layers; write the tap.")
    if not numbers:
        return Read(0, "on the embeddings") if _EMBEDDING.search(plain) else None
    [block] = numbers
    if any(_PRE.search(part) for part in plain.split("/")):
        return Read(block, f"before block {block}")
    return Read(block + 1, f"after block {block}")
