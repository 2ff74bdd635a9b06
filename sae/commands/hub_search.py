"""SAEs on the Hugging Face Hub beyond the shipped table, asked for by tag, and which of them fit a model.

Nothing is asked unless someone asks for it, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..embeddings.encoder_models import MODELS, distance
from ..files.quote import shown
from ..formats.known import HUB, KNOWN
from ..formats.provenance import family_of_text

TAGS = ("sae", "sparse-autoencoder")
MOST = 500  # repositories of a tag
SECONDS = 20.0
_BASE = ("base_model:", "base_model:adapter:", "base_model:finetune:", "base_model:quantized:")


@dataclass(frozen=True)
class Repository:
    """One that says it holds SAEs. `models` are what it says they were trained on."""

    name: str
    models: tuple[str, ...]
    shipped: bool  # whether the table of known SAEs has it

    @property
    def page(self) -> str:
        return f"{HUB}/{self.name}"

    def fits(self, model: str = "") -> list[str]:
        """Which of our encoders and families it is of, and how far each is; with `model` those whose names have it."""
        told = self.models or (self.name.rsplit("/", 1)[-1],)
        found: dict[str, str] = {}
        for one in told:
            for encoder in MODELS:
                if (far := distance(one, encoder)) is not None:
                    found.setdefault(encoder, far)
            family = family_of_text(one)
            if family is not None:
                found.setdefault(family, "")
        asked = model.lower().strip()
        return [f"{name} ({far})" if far else name for name, far in found.items() if asked in name.lower()]


def search(tags: Sequence[str] = TAGS) -> list[Repository]:
    """Repositories of models with one of the tags, by name. ValueError, one sentence, where the Hub cannot be asked."""
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, get_session
    except ImportError as error:
        raise ValueError("searching needs huggingface_hub; install it with: pip install huggingface_hub") from error
    found: dict[str, Repository] = {}
    try:
        for tag in tags:  # by its session, since its own search tries again for half a minute where there is no network
            answer = get_session().get(
                f"{constants.ENDPOINT}/api/models", params={"filter": tag, "limit": MOST}, headers=build_hf_headers(),
                timeout=SECONDS,
            )  # fmt: skip
            answer.raise_for_status()
            for entry in answer.json():
                repository = _repository(entry)
                found.setdefault(repository.name, repository)
    except Exception as error:  # of whichever library the session is made
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the Hugging Face Hub could not be asked ({shown(reason)}); the list of known SAEs needs no network."
        ) from error
    return sorted(found.values(), key=lambda one: one.name.lower())


def _repository(entry: Mapping[str, Any]) -> Repository:
    name = str(entry["id"])
    tags = [tag for tag in entry.get("tags") or [] if isinstance(tag, str)]
    models = [tag.removeprefix(max((s for s in _BASE if tag.startswith(s)), key=len)) for tag in tags if _is_base(tag)]
    known = {row.repository for row in KNOWN}
    return Repository(shown(name), tuple(dict.fromkeys(map(shown, models))), name in known)


def _is_base(tag: str) -> bool:
    return tag.startswith(_BASE[0])


def table(repositories: Iterable[Repository], model: str = "") -> str:
    """A line each: those that fit first, with what they fit and how near; with `model` those alone."""
    rows = [(one, one.fits(model)) for one in repositories]
    rows = [row for row in rows if row[1] or not model]
    if not rows:
        what = f" for {model}" if model else ""
        return f"No repository with the tags {' or '.join(TAGS)} is told to be{what or ' there'}."
    rows.sort(key=lambda row: not row[1])
    width = max(len(one.name) for one, _ in rows)
    return "\n".join(f"{one.name:<{width}}  {_told(one, fits)}" for one, fits in rows)


def _told(one: Repository, fits: Sequence[str]) -> str:
    of = f"of {', '.join(one.models)}" if one.models else "its model is not told"
    listed = "; in the shipped list" if one.shipped else ""
    return f"fits {'; '.join(fits)}{listed}" if fits else f"{of}: no encoder or model that is known here{listed}"
