"""Fetches the drawings and their names by npm into a folder outside the project: python -m lab.emoji.fetch --folder F.

The packages hold the drawings of Noto Emoji (Apache-2.0), Fluent Emoji (MIT) and Twemoji (CC BY 4.0) as SVG.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

PACKAGES = {
    "noto": "@iconify-json/noto",
    "fluent": "@iconify-json/fluent-emoji-flat",
    "twemoji": "@iconify-json/twemoji",
}
NAMES = "emojibase-data"
VERSIONS = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/twemoji": "1.2.5",
    NAMES: "17.0.0",
}


def package_folder(folder: Path, package: str) -> Path:
    return folder / "npm" / "node_modules" / package


def fetch(folder: Path) -> None:
    """Installs the packages under `folder`/npm; needs the program npm."""
    into = folder / "npm"
    into.mkdir(parents=True, exist_ok=True)
    wanted = [f"{package}@{version}" for package, version in VERSIONS.items()]
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(into), *wanted], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where npm's folder and the drawings go")
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
