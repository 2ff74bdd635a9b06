"""Tokens of a model collected into a folder, to train on as often as one likes."""

from __future__ import annotations

from pathlib import Path

from ..training.collect import Collection
from ..training.run import size_of_bytes
from ..training.shards import ShardSource
from .waiting import Host, Waiting


def keep_tokens(collection: Collection, folder: Path, host: Host, what: str) -> str:
    """Fills a folder of shards, or goes on with one, and tells what it has. `what` is the input that names the folder.

    Cancelled, it keeps whole shards. ValueError where tokens of something else lie there, or the disk is full.
    """
    waiting = Waiting(host, collection.seconds)
    places = " and ".join(map(str, collection.sites.values()))
    told = (
        f"{collection.tokens:,} tokens of {places} take about {waiting.minutes} min, and "
        f"{size_of_bytes(collection.size)} in {folder}."
    )
    host.tell(told)
    collection.into(folder, lambda count: waiting.collected(count, collection.tokens), what)
    source = ShardSource(folder)
    lines = [f"{name}: {count:,} tokens of width {source.widths[name]:,}" for name, count in source.tokens.items()]
    again = f'Train SAE takes them, and so does: python -m sae train --source shards --data "{folder}" --out FOLDER'
    return "\n".join([told, *lines, again])
