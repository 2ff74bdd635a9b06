"""python -m sae list"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..formats.known import KNOWN, KnownCheckpoint

HELP = "Lists public SAEs of image models that this pack reads."


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the table of the help page")


def run(arguments: Namespace) -> None:
    print(markdown() if arguments.markdown else text())


def text() -> str:
    width = max(len(entry.name) for entry in KNOWN)
    return "\n".join(f"{entry.name:<{width}}  {entry.model}: {_place(entry)}" for entry in KNOWN)


def markdown() -> str:
    """The table of public SAEs, one row each."""
    head = "| name | model | place | width | features | layout | licence |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *map(_row, KNOWN)])


def _row(entry: KnownCheckpoint) -> str:
    place = _place(entry) + (f" ({entry.note})" if entry.note else "")
    cells = [entry.model, place, f"{entry.d_in:,}", f"{entry.d_sae:,}", entry.layout, entry.licence or "none named"]
    return f"| [{entry.name}]({entry.page}) | {' | '.join(cells)} |"


def _place(entry: KnownCheckpoint) -> str:
    return f"{entry.location}, {entry.stream}" if entry.stream else entry.location
