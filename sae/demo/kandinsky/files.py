"""The small Kandinsky's weight files, as they ship with the pack: two diffusers folders and an SAE."""

from __future__ import annotations

from ..files import WEIGHTS

PRIOR = WEIGHTS / "shapes-kandinsky-prior"
DECODER = WEIGHTS / "shapes-kandinsky-decoder"
EMBED_SAE = "shapes-image_embeds"
