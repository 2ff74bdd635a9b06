"""python -m sae publish"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..formats import load

HELP = "Sends a folder with an SAE and its report to Hugging Face; asks before."
README = "README.md"
LEFT_OUT = ("*.pt", "*.tmp", "*.csv", "*.lock")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of one SAE, as train wrote it")
    parser.add_argument("repository", help="owner/name on Hugging Face; made if it is not there")
    parser.add_argument("--private", action="store_true", help="makes it private")
    parser.add_argument("--dry-run", action="store_true", help="says what would be sent, and sends nothing")
    parser.add_argument("--yes", action="store_true", help="does not ask")


def run(arguments: Namespace) -> None:
    folder, repository = arguments.folder, arguments.repository
    if repository.count("/") != 1 or repository.strip("/") != repository:
        raise ValueError(f"repository: {repository!r} is no name on Hugging Face; give it as owner/name.")
    if not folder.is_dir():
        raise ValueError(f"folder: {folder} is no folder; give that of an SAE, as train wrote it.")
    sae = load(folder)
    files = files_of(folder)
    if README not in {file.name for file in files}:
        raise ValueError(f"folder: {folder} has no {README}; measure the SAE first: evaluate {folder} --out {folder}.")
    size = sum(file.stat().st_size for file in files)
    print(f"{sae}\nto https://huggingface.co/{repository}, {'private' if arguments.private else 'public'}:")
    for file in files:
        print(f"  {file.relative_to(folder)}  {file.stat().st_size:,} bytes")
    print(f"{len(files)} files, {size / 1e6:.1f} MB")
    if arguments.dry_run:
        print("Nothing was sent.")
        return
    if not arguments.yes and input("Send? [y/N] ").strip().lower() not in ("y", "yes"):
        print("Nothing was sent.")
        return
    print(f"Sent: {_send(folder, repository, arguments.private)}")


def files_of(folder: Path) -> list[Path]:
    """What is sent: all but checkpoints, logs and what is hidden."""
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    hidden = {path for path in every if any(part.startswith(".") for part in path.relative_to(folder).parts)}
    return [path for path in every if path not in hidden and not any(path.match(pattern) for pattern in LEFT_OUT)]


def _send(folder: Path, repository: str, private: bool) -> str:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError("publishing needs huggingface_hub; install it with: pip install huggingface_hub") from error
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        ignored = [*LEFT_OUT, ".*", "*/.*"]
        return str(api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=ignored))
    except (OSError, RuntimeError, ValueError) as error:  # the Hub's own errors are kinds of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"repository: {repository} could not be written ({reason}).") from error
