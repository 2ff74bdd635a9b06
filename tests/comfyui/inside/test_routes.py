"""The routes over a real aiohttp server: what they tell, and what they refuse without writing anything."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from server import PromptServer

from sae_steering_pack.nodes.browser.queries import FeatureQueries
from sae_steering_pack.nodes.browser.routes import add_routes
from sae_steering_pack.nodes.browser.sae_sources import SaeSources
from sae_steering_pack.nodes.browser.server_memory import KEY, MOST, Use, introduce, note_use, remember
from sae_steering_pack.sae.demo.shipped_weights import TEXT_SAE, load_sae
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.known.ranges import Setting
from sae_steering_pack.sae.steering.edits import Calibration

SHAPES = {"loader": "LoadShapesDemo", "output": "sae_text"}
MARK = fingerprint(load_sae(TEXT_SAE))


def talk(*requests):
    """Sends (method, path, options) to a fresh server; the answers as (status, body text)."""

    async def run():
        app, routes = web.Application(client_max_size=2**30), web.RouteTableDef()
        add_routes(routes, app)
        app[KEY].keep("p1", "3", {"text": "<b>"})
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            found = []
            for method, path, options in requests:
                answer = await client.request(method, path, **options)
                found.append((answer.status, await answer.text()))
            return found

    return asyncio.run(run())


def features(**query):
    [(status, text)] = talk(("GET", "/sae_steering/features", {"params": query}))
    return status, json.loads(text)


def rename(body, **options):
    [answer] = talk(("POST", "/sae_steering/labels", {"json": body, **options} if body is not None else options))
    return answer


@pytest.fixture(autouse=True)
def clean():
    yield
    for path in (notebooks().folder / "labels").glob("*"):
        path.unlink()


def test_features_by_their_numbers() -> None:
    sae = load_sae(TEXT_SAE)
    notebooks().of_fingerprint(MARK).keep_ranges({31: Calibration("add", 0.1, 0.2, 0.4)}, Setting("a", "b", ""))
    status, found = features(**SHAPES, index="31,5,9999")
    assert status == 200
    assert (found["fingerprint"], found["count"], found["sae"]) == (MARK, 256, TEXT_SAE)
    assert [row["feature"] for row in found["features"]] == [31, 5]  # 9999 is not one
    first = found["features"][0]
    assert first["max"] == pytest.approx(float(sae.statistics.max[31]))
    assert first["mean"] == pytest.approx(float(sae.statistics.mean[31]))
    assert first["calibrations"] == [{"method": "add", "low": 0.1, "clear": 0.2, "high": 0.4}]


def test_the_ranges_are_those_of_what_a_graph_last_steered_with() -> None:
    sources, query = SaeSources(), {**SHAPES, "index": "31"}
    here, there = Setting("here", "Flux-1", ""), Setting("there", "Flux-1", "")
    swapping = Setting("here", "Flux-1", "ab")
    ranges = [Calibration(method, 0.1, 0.2, high) for method, high in (("add", 1.0), ("add", 2.0), ("swap", 3.0))]
    for range_, setting in zip(ranges, (here, there, swapping), strict=True):
        notebooks().of_fingerprint(MARK).keep_ranges({31: range_}, setting)

    def told():
        found = FeatureQueries(sources).find(query)
        return [(c["method"], c["high"]) for c in found["features"][0].get("calibrations", [])], found["warnings"]

    offered, [warning] = told()
    assert offered == [("swap", 3.0)]  # of `add` it is not known which of the two
    assert warning.startswith("Feature 31: calibrated on several models")
    for use, expected in [
        (Use("add", here), [("add", 1.0)]),
        (Use("add", there), [("add", 2.0)]),
        (Use("swap", swapping), [("swap", 3.0), ("add", 1.0)]),
        (Use("add", Setting("here", "Flux-2", "")), []),
    ]:
        sources.seen.used[MARK] = use
        assert told() == (expected, [])


def test_what_a_graph_steers_with_reaches_the_routes(monkeypatch) -> None:
    """A panel introduces the SAE; from then on steering notes how it is used."""
    app, sae = web.Application(), load_sae(TEXT_SAE)
    sources, use = SaeSources(remember(app)), Use("add", Setting("here", "Flux-1", ""))
    monkeypatch.setattr(PromptServer, "instance", SimpleNamespace(app=app), raising=False)
    note_use(sae, use)
    assert sources.seen.used == {}
    introduce(sae, MARK)
    note_use(sae, use)
    assert sources.seen.used == {MARK: use}
    note_use(load_sae(TEXT_SAE), Use("swap", Setting()))  # another object, which no panel has
    assert sources.seen.used == {MARK: use}


def test_features_by_their_names() -> None:
    status, found = features(**SHAPES, q="RED")
    assert status == 200
    assert found["features"]
    assert all("red" in f"{row['name']} {row['note']}" for row in found["features"])
    assert found["features"][0]["name"].startswith("red")


def test_renaming_is_kept_and_null_removes_it() -> None:
    assert rename({"fingerprint": MARK, "labels": {"7": "<img src=x onerror=alert(1)>", "8": {"name": "b"}}})[0] == 200
    [row] = features(**SHAPES, index="7")[1]["features"]
    assert row["name"] == "<img src=x onerror=alert(1)>"
    assert rename({"fingerprint": MARK, "labels": {"7": None}})[0] == 200
    assert features(**SHAPES, index="7")[1]["features"][0]["name"] != row["name"]
    assert set(notebooks().of_fingerprint(MARK).labels) == {8}


def test_an_sae_that_only_its_fingerprint_tells() -> None:
    rename({"fingerprint": "ab" * 32, "labels": {"3": "mine"}})
    status, found = features(fingerprint="ab" * 32, q="mine")
    assert status == 200
    assert found["features"] == [{"feature": 3, "name": "mine", "note": "", "score": None}]
    assert found["count"] is None


def test_an_sae_that_a_graph_has_had_is_known_by_its_fingerprint() -> None:
    sources, sae = SaeSources(), load_sae(TEXT_SAE)
    sources.seen.by_fingerprint[MARK] = sae
    found = FeatureQueries(sources).find({"fingerprint": MARK, "index": "31"})
    assert found["count"] == 256
    assert found["features"][0]["max"] == pytest.approx(float(sae.statistics.max[31]))
    del sae
    assert sources.open({"fingerprint": MARK}) is None


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({}, "fingerprint: '' is none"), ({"fingerprint": "../../etc/passwd"}, "is none"),
        ({"fingerprint": "AB" * 32}, "is none"), ({"loader": "LoadSAE"}, "is not among the files"),
        ({"loader": "LoadSAE", "sae_name": "../../../etc/passwd"}, "is not among the files"),
        ({"loader": "LoadSAE", "sae_name": "/etc/passwd"}, "is not among the files"),
        ({"loader": "LoadSAE", "sae_name": "a\0b"}, "is not among the files"),
        ({"loader": "LoadShapesDemo", "output": "../x"}, "is none"), ({**SHAPES, "index": "-1"}, "whole numbers"),
        ({**SHAPES, "index": "1e3"}, "whole numbers"), ({**SHAPES, "index": "٣"}, "whole numbers"),
        ({**SHAPES, "index": ",".join(["1"] * 201)}, "up to 200"), ({**SHAPES, "q": "x" * 5001}, "longer than 5000"),
    ],
)  # fmt: skip
def test_questions_that_are_refused(query, told) -> None:
    status, found = features(**query)
    assert status == 400
    assert told in found["error"]


GOOD = {"fingerprint": MARK, "labels": {"1": "x"}}


@pytest.mark.parametrize(
    "body",
    [
        {}, {"fingerprint": MARK}, {"labels": {"1": "x"}}, {**GOOD, "fingerprint": 7}, {**GOOD, "fingerprint": "../x"},
        {**GOOD, "fingerprint": f"{MARK}\0"}, {**GOOD, "labels": []}, {**GOOD, "labels": {}},
        {**GOOD, "labels": {"../1": "x"}}, {**GOOD, "labels": {"-1": "x"}}, {**GOOD, "labels": {"1": 7}},
        {**GOOD, "labels": {"1": ""}}, {**GOOD, "labels": {"1": "x" * 201}}, {**GOOD, "labels": {"1": {"nom": "x"}}},
        {**GOOD, "labels": {"1": {"name": "x", "score": "high"}}},
        {**GOOD, "labels": {str(k): "x" for k in range(201)}},
        {**GOOD, "labels": {"1": "x", "..": None}},
    ],
)  # fmt: skip
def test_renamings_that_are_refused_write_nothing(body) -> None:
    notebooks().of_fingerprint(MARK).update({})
    before, files = notebooks().labels_path(MARK).read_bytes(), set((notebooks().folder / "labels").glob("*"))
    status, text = rename(body)
    assert status == 400
    assert json.loads(text)["error"]
    assert notebooks().labels_path(MARK).read_bytes() == before
    assert set((notebooks().folder / "labels").glob("*")) == files


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": json.dumps(GOOD), "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": {"a": "b"}}, 415),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"[1]", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b'{"a": NaN}', "headers": {"Content-Type": "application/json"}}, 400),
        ({"data": b" " * (2**20 + 1), "headers": {"Content-Type": "application/json"}}, 413),
    ],
)
def test_bodies_that_are_refused(options, status) -> None:
    assert rename(None, **options)[0] == status
    assert not notebooks().labels_path(MARK).exists()


def test_a_large_body_in_pieces_is_refused_while_it_comes() -> None:
    async def pieces():
        for _ in range(40):
            yield b" " * 2**16

    assert rename(None, data=pieces(), headers={"Content-Type": "application/json"})[0] == 413


def test_a_broken_label_file_is_set_aside_and_told() -> None:
    path = notebooks().labels_path(MARK)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{broken")
    assert "no valid JSON" in features(**SHAPES, q="red")[1]["warnings"][0]
    assert path.read_text() == "{broken"
    assert "set aside" in json.loads(rename(GOOD)[1])["warnings"][0]
    assert path.with_name(path.name + ".broken").read_text() == "{broken"


@contextmanager
def full_disk():
    """No file may grow any more: the system itself refuses the write."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def blocked_folder():
    """A file where the folder of labels should be."""
    folder = notebooks().folder / "labels"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


@pytest.mark.parametrize("fault", [full_disk, blocked_folder])
def test_a_disk_that_refuses_is_told_and_the_old_file_stays(fault) -> None:
    assert rename(GOOD)[0] == 200
    before = notebooks().labels_path(MARK).read_bytes()
    with fault():
        status, text = rename({**GOOD, "labels": {"1": "y" * 150}})
    assert status == 500
    assert json.loads(text)["error"].startswith(f"{MARK}.json: ")
    assert notebooks().labels_path(MARK).read_bytes() == before
    assert rename({**GOOD, "labels": {"1": "y"}})[0] == 200


def test_a_folder_that_vanishes_while_it_is_listed_is_a_sentence(monkeypatch) -> None:
    def gone(query):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(SaeSources, "open", lambda self, query: gone(query))
    status, found = features(**SHAPES, index="1")
    assert status == 500
    assert found["error"] == (
        "files: one of them cannot be read or written (No such file or directory); look into its folder."
    )


def test_reports_of_a_prompt_and_their_limit() -> None:
    assert json.loads(talk(("GET", "/sae_steering/reports?prompt_id=p1", {}))[0][1]) == {
        "reports": {"3": {"text": "<b>"}}
    }
    assert json.loads(talk(("GET", "/sae_steering/reports", {}))[0][1]) == {"reports": {}}

    async def fill():
        app = web.Application()
        add_routes(web.RouteTableDef(), app)
        for number in range(MOST + 5):
            app[KEY].keep(f"p{number}", "1", {})
        return [len(app[KEY].get(f"p{number}")) for number in (4, 5, MOST + 4)]

    assert asyncio.run(fill()) == [0, 1, 1]
