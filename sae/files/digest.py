"""A few digits that tell lists of texts apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

DIGITS = 16


def digest_of(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits of parts that JSON can hold, in their order; of anything else, what `str` makes of it."""
    return hashlib.sha256(json.dumps(list(parts), default=str).encode()).hexdigest()[:DIGITS]
