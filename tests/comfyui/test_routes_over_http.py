"""The pack's routes in a running ComfyUI: who may ask, what is too much, writes at once, folders that fail.

Requests are made by hand, header by header, as a foreign page or a program would make them.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from comfy_server import ComfyServer
from project_files import ROOT

MARK = "cd" * 32
LABELS, FEATURES, REPORTS = "/sae_steering/labels", "/sae_steering/features", "/sae_steering/reports"
BROWSE, PICTURES, RECIPES = "/sae_steering/browse", "/sae_steering/pictures", "/sae_steering/recipes"
PRESET, SHAPES = "/sae_steering/preset", "loader=LoadShapesDemo&output=sae_text"
BODY = json.dumps({"fingerprint": MARK, "labels": {"1": "x"}}).encode()
PATH = json.dumps({"source": {}, "name": "../../etc/passwd"}).encode()
WRITES, EACH = 20, 5


def folder_of(server: ComfyServer) -> Path:
    return server.place.base / "user" / "default" / "sae_steering" / "labels"


def ask(server: ComfyServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """(status, text); header names with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (BrokenPipeError, ConnectionResetError):  # the server hung up before it had all of a body that is too large
        return 413, ""
    finally:
        connection.close()


@pytest.fixture
def folder(server: ComfyServer) -> Iterator[Path]:
    """The folder of labels, without this file's own."""
    place = folder_of(server)
    yield place
    for path in place.glob(f"{MARK}*"):
        path.rmdir() if path.is_dir() else path.unlink()


LOCAL = "http://127.0.0.1:{port}"
FOREIGN = {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"}
REFUSED = [
    # what, method, path, body, headers, status, what the answer says
    ("a foreign page reads", "GET", f"{FEATURES}?fingerprint={MARK}", None, FOREIGN, 403, ""),
    ("a foreign page reads reports", "GET", f"{REPORTS}?prompt_id=1", None, FOREIGN, 403, ""),
    ("a foreign page writes", "POST", LABELS, BODY, {**FOREIGN, "Content_Type": "application/json"}, 403, ""),
    ("another port writes", "POST", LABELS, BODY, {"Origin": "http://127.0.0.1:1"}, 403, ""),
    ("an origin that is null", "POST", LABELS, BODY, {"Sec_Fetch_Site": "cross-site", "Origin": "null"}, 403, ""),
    ("a form, plain", "POST", LABELS, BODY, {"Content_Type": "text/plain"}, 415, "application/json is needed"),
    ("a form", "POST", LABELS, b"a=b", {"Content_Type": "application/x-www-form-urlencoded"}, 415, ""),
    ("a form with files", "POST", LABELS, BODY, {"Content_Type": "multipart/form-data; boundary=x"}, 415, ""),
    ("no content type", "POST", LABELS, BODY, {}, 415, ""),
    ("a body over the limit", "POST", LABELS, b" " * (2**20 + 1), {"Content_Type": "application/json"}, 413, ""),
    ("another method", "DELETE", LABELS, None, {}, 405, ""),
    ("writing by GET", "GET", LABELS, None, {}, 404, ""),
    ("a path above", "GET", "/sae_steering/../sae_steering/secrets", None, {}, 404, ""),
    ("a path above, written otherwise", "GET", "/sae_steering/%2e%2e/%2e%2e/etc/passwd", None, {}, 404, ""),
    ("a path as SAE", "GET", f"{FEATURES}?loader=LoadSAE&sae_name=..%2f..%2fetc%2fpasswd", None, {}, 400, "not among"),
    ("a zero byte as SAE", "GET", f"{FEATURES}?loader=LoadSAE&sae_name=a%00b", None, {}, 400, "not among the files"),
    ("marks as SAE", "GET", f"{FEATURES}?loader=LoadSAE&sae_name=%0a%e2%80%ae", None, {}, 400, r"\\n\\u202e"),
    ("a path as fingerprint", "GET", f"{FEATURES}?fingerprint=..%2f..%2fx", None, {}, 400, "is none"),
    ("a foreign page browses", "GET", f"{BROWSE}?{SHAPES}", None, FOREIGN, 403, ""),
    ("a foreign page looks at pictures", "GET", f"{PICTURES}?{SHAPES}&index=1", None, FOREIGN, 403, ""),
    ("a foreign page lists recipes", "GET", RECIPES, None, FOREIGN, 403, ""),
    ("a foreign page opens a recipe", "POST", PRESET, b"{}", {**FOREIGN, "Content_Type": "application/json"}, 403, ""),
    ("a recipe from a form", "POST", PRESET, b"{}", {"Content_Type": "text/plain"}, 415, ""),
    ("a recipe over the limit", "POST", PRESET, b" " * (2**20 + 1), {"Content_Type": "application/json"}, 413, ""),
    ("a path as recipe", "POST", PRESET, PATH, {"Content_Type": "application/json"}, 400, "is no recipe in recipes"),
    ("a recipe by GET", "GET", PRESET, None, {}, 404, ""),
    (
        "a path as SAE to browse",
        "GET",
        f"{BROWSE}?loader=LoadSAE&sae_name=..%2fx",
        None,
        {},
        400,
        "not among the files",
    ),
    ("an endless page", "GET", f"{BROWSE}?{SHAPES}&first={'9' * 400}", None, {}, 400, "a whole number from 0"),
    ("endless words", "GET", f"{BROWSE}?{SHAPES}&q={'x' * 5001}", None, {}, 400, "longer than 5000"),
    ("pictures of nothing", "GET", f"{PICTURES}?{SHAPES}", None, {}, 400, "whole numbers"),
    (
        "an endless index",
        "GET",
        f"{FEATURES}?fingerprint={MARK}&index={'9' * 400}",
        None,
        {},
        400,
        "whole numbers",
    ),
]
HOSTILE_BODIES = {
    "no JSON": b"{", "a list": b"[1]", "no text": b"\xff\xfe", "NaN": b'{"a": NaN}', "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000, "a fingerprint of 400 digits": b'{"fingerprint": ' + b"9" * 400 + b"}",
    "a score of 400 digits": BODY.replace(b'"x"', b'{"name": "x", "score": ' + b"9" * 400 + b"}"),
    "a score of 5000 digits": b'{"fingerprint": "x", "labels": ' + b"9" * 5000 + b"}",
    "a name of marks": json.dumps({"fingerprint": MARK, "labels": {"1": {"name": 5, "note": "a\n\u202e"}}}).encode(),
    "an endless name": json.dumps({"fingerprint": MARK, "labels": {"1": "x" * 900_000}}).encode(),
    "an endless fingerprint": json.dumps({"fingerprint": "x" * 900_000, "labels": {"1": "x"}}).encode(),
    "an endless index": json.dumps({"fingerprint": MARK, "labels": {"9" * 900_000: "x"}}).encode(),
}  # fmt: skip


@pytest.mark.parametrize(("what", "method", "path", "body", "headers", "status", "said"), REFUSED, ids=lambda _: "")
def test_who_may_ask_and_what_is_too_much(
    server: ComfyServer, folder: Path, what: str, method: str, path: str, body: bytes | None, headers: dict[str, str],
    status: int, said: str,
) -> None:  # fmt: skip
    found, text = ask(server, method, path, body, **headers)
    assert (found, said in text) == (status, True), f"{what}: {found} {text[:300]}"
    assert not list(folder.glob(f"{MARK}*")), f"{what}: it wrote"
    if status == 400:
        assert len(json.loads(text)["error"]) <= 500 and json.loads(text)["error"].isprintable()


def test_our_own_page_and_a_program_may_ask(server: ComfyServer, folder: Path) -> None:
    own = {"Origin": LOCAL.format(port=server.port), "Sec_Fetch_Site": "same-origin"}
    assert ask(server, "POST", LABELS, BODY, Content_Type="application/json; charset=utf-8", **own)[0] == 200
    assert ask(server, "GET", f"{FEATURES}?fingerprint={MARK}&q=x", **own)[0] == 200
    assert ask(server, "POST", LABELS, BODY, Content_Type="application/json")[0] == 200


@pytest.mark.parametrize("route", [LABELS, PRESET])
@pytest.mark.parametrize("what", HOSTILE_BODIES)
def test_a_hostile_body_is_answered_with_one_sentence(
    server: ComfyServer, folder: Path, what: str, route: str
) -> None:  # fmt: skip
    status, text = ask(server, "POST", route, HOSTILE_BODIES[what], Content_Type="application/json")
    assert status == 400, text[:300]
    sentence = json.loads(text)["error"]
    assert len(sentence) <= 500 and sentence.isprintable() and sentence.endswith(".")
    assert not list(folder.glob(f"{MARK}*"))


PROGRAM = """
import sys
from pathlib import Path
from sae.known.labels import LabelStore
from sae.known.labels import Label
first = int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for k in range(first, first + 25):
    LabelStore(Path(sys.argv[1])).update("cd" * 32, {k: Label(f"name {k}")})
"""


def test_writes_at_once_over_http_and_of_programs_are_all_kept(server: ComfyServer, folder: Path) -> None:
    """20 requests of 5 names each and two programs with 25 each, all on one file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(1000 * number)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in (1, 2)
    ]  # fmt: skip
    try:
        assert all(program.stdout.readline() == "ready\n" for program in programs if program.stdout)
        start = threading.Barrier(WRITES)

        def write(number: int) -> int:
            named = {str(k): f"name {k}" for k in range(number * EACH, number * EACH + EACH)}
            body = json.dumps({"fingerprint": MARK, "labels": named}).encode()
            start.wait()
            return ask(server, "POST", LABELS, body, Content_Type="application/json")[0]

        for program in programs:
            program.stdin.write("go\n")
            program.stdin.flush()
        with ThreadPoolExecutor(WRITES) as pool:
            assert list(pool.map(write, range(WRITES))) == [200] * WRITES
        assert [program.wait(120) for program in programs] == [0, 0]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    kept = json.loads((folder / f"{MARK}.json").read_text())["labels"]
    wanted = [*range(WRITES * EACH), *range(1000, 1025), *range(2000, 2025)]
    assert {int(k): label["name"] for k, label in kept.items()} == {k: f"name {k}" for k in wanted}


def _blocked(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _broken(path: Path) -> None:
    path.write_text('{"3": {"name": "x", "score": ' + "9" * 400 + "}}")


def test_a_file_that_cannot_be_written_is_a_sentence_and_status_500(server: ComfyServer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _blocked(folder / f"{MARK}.json")
    status, text = ask(server, "POST", LABELS, BODY, Content_Type="application/json")
    assert status == 500
    assert json.loads(text)["error"].startswith(f"{MARK}.json: it cannot be written (Is a directory), so nothing was")


@pytest.mark.parametrize("spoil", [_blocked, _broken])
def test_a_spoilt_label_file_stops_no_table(server: ComfyServer, folder: Path, spoil: Callable[[Path], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spoil(folder / f"{MARK}.json")
    status, text = ask(server, "GET", f"{FEATURES}?fingerprint={MARK}&index=3")
    assert status == 200
    assert [row["feature"] for row in json.loads(text)["features"]] == [3]
    if spoil is _broken:
        assert "score: a whole number of about 400 digits came" in json.loads(text)["warnings"][0]


def test_a_set_of_before_a_restart_has_no_names_and_stops_no_table(server: ComfyServer) -> None:
    status, text = ask(server, "GET", f"{FEATURES}?fingerprint=set-{MARK}&index=3,7")
    assert status == 200
    assert [(row["feature"], row.get("name")) for row in json.loads(text)["features"]] == [(3, None), (7, None)]
    assert ask(server, "GET", f"{FEATURES}?fingerprint=set-..%2fx&index=3")[0] == 400
