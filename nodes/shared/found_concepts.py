"""What ConceptSteer found, kept so that turning its strength does not search anew; it lives as long as the server."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aiohttp import web
from torch import Tensor

from .newest import Newest

MOST = 32  # searches kept, each a few dozen numbers, or two directions a place


class FoundConcepts(Newest[Any]):
    """The last searches by their key."""

    def __init__(self) -> None:
        super().__init__(MOST)


CONCEPTS = web.AppKey("sae_steering.concepts", FoundConcepts)  # in the server's application


def kept_concepts() -> FoundConcepts:
    """The server's; in a plain Python run one that knows nothing."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server.app[CONCEPTS] if server is not None and CONCEPTS in server.app else FoundConcepts()


def key_of(*facts: Any) -> str:
    """64 hexadecimal digits of everything that decides a search; a tensor counts by its numbers."""
    return hashlib.sha256(json.dumps([_plain(fact) for fact in facts]).encode()).hexdigest()


def _plain(fact: Any) -> str:
    if isinstance(fact, Tensor):
        numbers = fact.detach().float().cpu().contiguous().numpy()
        return f"{tuple(fact.shape)} {hashlib.sha256(numbers.tobytes()).hexdigest()}"
    return repr(fact)
