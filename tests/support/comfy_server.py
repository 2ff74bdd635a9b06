"""A ComfyUI server that the tests own: its own folders, its own port, the pack under an odd folder name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from comfy_client import ComfyClient
from comfy_install import ComfyInstall
from project_files import ROOT, project_files, relative

PACK_FOLDER = "sae.steering-pack-test"  # no blank: ComfyUI serves no web files of a folder with one
PROBES = ROOT / "tests" / "support" / "probe_pack"  # nodes for the tests alone
TINY = [ROOT / "tests" / "support" / f"tiny_{name}.py" for name in ("case", "families", "unets")]  # one of them reads
START_SECONDS = 600


@dataclass(frozen=True)
class Workplace:
    """The base directory of a server."""

    base: Path

    @property
    def models(self) -> Path:
        return self.base / "models"

    @property
    def output(self) -> Path:
        return self.base / "output"

    @property
    def extra_paths(self) -> Path:
        return self.base / "extra_model_paths.yaml"

    @property
    def elsewhere(self) -> Path:
        """A folder for SAEs that only extra_model_paths.yaml names."""
        return self.base / "elsewhere" / "saes"


def prepare(base: Path, project: Path = ROOT) -> Workplace:
    place = Workplace(base)
    for folder in (place.models / "sae", place.output, place.elsewhere, base / "custom_nodes", base / "input"):
        folder.mkdir(parents=True, exist_ok=True)
    install_pack(project, base / "custom_nodes" / PACK_FOLDER)
    shutil.copytree(PROBES, base / "custom_nodes" / PROBES.name, dirs_exist_ok=True)
    for file in TINY:
        shutil.copy2(file, base / "custom_nodes" / PROBES.name)
    yaml = f"tests:\n  base_path: {place.elsewhere.parent.as_posix()}\n  sae: {place.elsewhere.name}\n"
    place.extra_paths.write_text(yaml, encoding="utf-8")
    return place


def install_pack(project: Path, target: Path) -> None:
    try:
        target.symlink_to(project, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        for path in project_files(project):
            copy = target / relative(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """Starts ComfyUI on entering, and ends exactly that process on leaving."""

    def __init__(self, install: ComfyInstall, place: Workplace, *arguments: str) -> None:
        self.install = install
        self.place = place
        self.port = free_port()
        self.client = ComfyClient(f"http://127.0.0.1:{self.port}")
        self._arguments = arguments
        self._log_path = place.base / "server.log"
        self._stdout_path = place.base / "server.stdout"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the server has logged so far (its stderr)."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def stdout(self) -> str:
        return self._stdout_path.read_text(encoding="utf-8", errors="replace")

    def command(self) -> list[str]:
        place, port = self.place, str(self.port)
        command = [str(self.install.python), str(self.install.root / "main.py"), "--cpu", "--disable-auto-launch"]
        command += ["--base-directory", str(place.base), "--port", port, "--disable-api-nodes"]
        command += ["--extra-model-paths-config", str(place.extra_paths), "--database-url", "sqlite:///:memory:"]
        return [*command, *self._arguments]

    def __enter__(self) -> ComfyServer:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        environment["PYTHONIOENCODING"] = "utf-8"
        with self._log_path.open("wb") as log, self._stdout_path.open("wb") as out:
            self._process = subprocess.Popen(
                self.command(), cwd=self.place.base, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=log
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode} while starting:\n{self.log[-4000:]}")
            try:
                self.client.get("/system_stats", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise TimeoutError(f"ComfyUI did not start within {START_SECONDS} s:\n{self.log[-4000:]}")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
