"""python -m sae: list and download public SAEs, look at one, convert it, name its features, train and measure one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from .commands import Command, download, evaluate, inspect, label, publish, train

COMMANDS: dict[str, ModuleType | Command] = {
    "list": download.LIST,
    "download": download,
    "inspect": inspect,
    "convert": inspect.CONVERT,
    "label": label,
    "train": train,
    "evaluate": evaluate,
    "compare": evaluate.COMPARE,
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
