"""python -m sae: list and download public SAEs, look at one, convert it, name its features, train and measure one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .commands import compare, convert, download, evaluate, inspect, label, publish, train
from .commands import list as list_known

COMMANDS = {
    "list": list_known,
    "download": download,
    "inspect": inspect,
    "convert": convert,
    "label": label,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "publish": publish,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 1 when it failed, after one line that says why."""
    parser = argparse.ArgumentParser(prog="python -m sae", description=(__doc__ or "").partition(": ")[2])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    given = parser.parse_args(arguments)
    try:
        COMMANDS[given.command].run(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
