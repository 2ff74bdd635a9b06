"""A small client for ComfyUI's HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]  # API format: node's id -> class_type and inputs
POLL_SECONDS = 0.1


class PromptRefused(Exception):
    """The server did not accept the prompt. `errors` is its `node_errors`: node's id -> errors and class_type."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.errors: dict[str, Any] = answer.get("node_errors") or {}
        lines = [
            f"{node} ({found['class_type']}): {error['message']}: {error['details']}"
            for node, found in self.errors.items()
            for error in found["errors"]
        ]
        super().__init__("\n".join(lines) or json.dumps(answer))


class PromptFailed(Exception):
    """A node raised. `message` is its exception's text, `node_type` its id."""

    def __init__(self, details: dict[str, Any]) -> None:
        self.node_type: str = details.get("node_type", "")
        self.kind: str = details.get("exception_type", "")
        self.message: str = details.get("exception_message", "").strip()
        super().__init__(f"{self.node_type}: {self.kind}: {self.message}\n{''.join(details.get('traceback', []))}")


class PromptInterrupted(Exception):
    """The prompt was cancelled while it ran."""


class ComfyClient:
    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = uuid.uuid4().hex

    def get(self, path: str, timeout: float = 60) -> bytes:
        """The body of the answer; urllib.error.HTTPError when the status is not 2xx."""
        with urllib.request.urlopen(self.address + path, timeout=timeout) as answer:
            return answer.read()

    def get_json(self, path: str, timeout: float = 60) -> Any:
        return json.loads(self.get(path, timeout))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """All nodes by id, or only the asked one's description."""
        if node_id is None:
            return self.get_json("/object_info")
        return self.get_json(f"/object_info/{node_id}")[node_id]

    def queue(self, prompt: Prompt) -> str:
        """Queues a prompt and returns its id; PromptRefused when validation fails."""
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise PromptRefused(json.loads(error.read())) from None
            raise

    def wait(self, prompt_id: str, timeout: float = 300) -> dict[str, Any]:
        """The history entry of a finished prompt. Raises PromptFailed, PromptInterrupted or TimeoutError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return finished(entry)
            time.sleep(POLL_SECONDS)
        self.interrupt()
        raise TimeoutError(f"the prompt has not finished after {timeout:g} s")

    def run(self, prompt: Prompt, timeout: float = 300) -> dict[str, Any]:
        """Queues a prompt and waits for it: `run(prompt)["outputs"][node's id]` is what that node showed."""
        return self.wait(self.queue(prompt), timeout)

    def running(self) -> list[str]:
        """Ids of the prompts that are being executed."""
        return [entry[1] for entry in self.get_json("/queue")["queue_running"]]

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """Drops cached outputs and loaded models before the next prompt."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def view(self, image: dict[str, str]) -> bytes:
        """The file behind an entry of `outputs[...]["images"]`."""
        return self.get("/view?" + urllib.parse.urlencode(image))

    def upload(self, path: Path) -> str:
        """Puts a picture into ComfyUI's input folder and returns the name LoadImage knows it by."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
        data = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        header = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(self.address + "/upload/image", data, header)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["name"]


def finished(entry: dict[str, Any]) -> dict[str, Any]:
    status = entry["status"]
    for kind, details in status["messages"]:
        if kind == "execution_interrupted":
            raise PromptInterrupted
        if kind == "execution_error":
            raise PromptFailed(details)
    if status["status_str"] != "success":
        raise PromptFailed({"exception_message": json.dumps(status)})
    return entry
