"""Label files: written whole, read strictly, never overwritten when broken."""

import json
import os

import pytest

from sae.files.small_json import read_json, set_aside, write_json
from sae.known.labels import Label, LabelStore, ShippedFile, labels_from_text, read_labels, search, write_labels

OURS = "ab" * 32
LABELS = {3: Label("snow", "falls in winter", "me", 0.8), 12: Label("<img onerror=alert(1)>"), 40: Label("雪 — ‘soft’")}


def head(**changes):
    entries = {"3": {"name": "snow"}}
    return {"format": "sae-steering labels", "version": 1, "fingerprint": OURS, "labels": entries, **changes}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "x.labels.json"
    write_labels(path, LABELS, OURS)
    assert read_labels(path, OURS) == LABELS
    assert json.loads(path.read_text())["labels"]["12"] == {"name": "<img onerror=alert(1)>"}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["x.json"]  # noqa: PTH208


def test_broken_files_are_set_aside_one_by_one(tmp_path):
    names = []
    for number in range(3):
        (tmp_path / "x.json").write_text(f"broken {number}")
        names.append(set_aside(tmp_path / "x.json").name)
    assert names == ["x.json.broken", "x.json.broken-1", "x.json.broken-2"]
    assert [(tmp_path / name).read_text() for name in names] == ["broken 0", "broken 1", "broken 2"]


HOSTILE = {
    "not json": "hello",
    "truncated": json.dumps(head())[:-4],
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "nan": '{"3": {"name": "x", "score": NaN}}',
    "infinity": '{"3": {"name": "x", "score": 1e999}}',
    "other format": json.dumps(head(format="something")),
    "no format": json.dumps({"labels": {}}),
    "newer version": json.dumps(head(version=2)),
    "version of words": json.dumps(head(version="1")),
    "version zero": json.dumps(head(version=0)),
    "another sae": json.dumps(head(fingerprint="cd" * 32)),
    "labels a list": json.dumps(head(labels=["snow"])),
    "labels null": json.dumps(head(labels=None)),
    "negative index": json.dumps({"-1": "x"}),
    "index with blank": json.dumps({" 1": "x"}),
    "index of other digits": json.dumps({"٣": "x"}),
    "index a path": json.dumps({"../../x": "x"}),
    "huge index": json.dumps({"9" * 400: "x"}),
    "name a number": json.dumps({"3": {"name": 5}}),
    "name missing": json.dumps({"3": {"note": "x"}}),
    "name empty": json.dumps({"3": {"name": "  "}}),
    "name null": json.dumps({"3": None}),
    "name a list": json.dumps({"3": ["snow"]}),
    "long name": json.dumps({"3": "x" * 201}),
    "long note": json.dumps({"3": {"name": "x", "note": "y" * 2001}}),
    "score of words": json.dumps({"3": {"name": "x", "score": "high"}}),
    "contexts of none": json.dumps({"3": {"name": "x", "contexts": 0}}),
    "contexts true": json.dumps({"3": {"name": "x", "contexts": True}}),
    "score true": json.dumps({"3": {"name": "x", "score": True}}),
    "unknown field": json.dumps({"3": {"name": "x", "__class__": "y"}}),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_label_files_are_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "x.labels.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^x\.labels\.json: ") as failure:
        read_labels(path, OURS)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 400
    assert path.read_text(encoding="utf-8") == text


def test_files_that_are_no_text_or_too_large(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="this label file is no text in UTF-8"):
        read_json(path, "label file")
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ValueError, match="larger than 16 MB, which no label file is"):
        read_json(path, "label file")
    with pytest.raises(ValueError, match=r"nowhere.json: this label file cannot be read"):
        read_json(tmp_path / "nowhere.json", "label file")


def test_labels_of_others_come_as_json_or_csv():
    assert labels_from_text('{"7": "snow", "2": {"name": "red", "note": "warm"}}', "theirs") == {
        7: Label("snow"),
        2: Label("red", "warm"),
    }
    text = 'Feature,Label,note\n7,"snow, fresh",soft\n2,red,\n'
    expected = {7: Label("snow, fresh", "soft", "theirs.csv"), 2: Label("red", "", "theirs.csv")}
    assert labels_from_text(text, "theirs.csv") == expected
    for broken, message in (
        ("a,b\n1,2\n", "theirs: its first line must name the columns index and name"),
        ("", "its first line must name the columns"),
        ("index,name\nseven,snow\n", "'seven' is not the index of a feature"),
        ("index,name\n7,\n", "theirs: line 2: name: it is empty"),
        ("index,name\n7\n", "theirs: line 2: name: it is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            labels_from_text(broken, "theirs")


def test_search_finds_all_words_in_name_and_note():
    assert search(LABELS, "snow") == [3] and search(LABELS, "WINTER falls") == [3]
    assert search(LABELS, "") == [3, 12, 40] and search(LABELS, "", [12, 99]) == [12]
    assert search({1: Label("deep red"), 5: Label("red")}, "red") == [5, 1]


def test_the_users_labels_come_before_the_shipped_ones(tmp_path):
    shipped = tmp_path / "model.labels.json"
    write_labels(shipped, {3: Label("shipped"), 4: Label("also shipped")}, OURS)
    store = LabelStore(tmp_path / "user")
    assert store.labels(OURS) == {} and store.labels(OURS, ShippedFile(tmp_path / "none.json")) == {}
    assert store.update(OURS, {3: Label("mine"), 9: Label("new")}) == {3: Label("mine"), 9: Label("new")}
    assert store.labels(OURS, ShippedFile(shipped)) == {3: Label("mine"), 4: Label("also shipped"), 9: Label("new")}
    assert store.update(OURS, {3: None, 77: None}) == {9: Label("new")}
    assert store.labels(OURS, ShippedFile(shipped))[3] == Label("shipped") and store.warnings == []


def test_a_broken_users_file_is_reported_and_never_overwritten(tmp_path):
    store = LabelStore(tmp_path)
    store.path(OURS).write_text("{broken")
    assert store.labels(OURS) == {} and "no valid JSON" in store.warnings[0]
    assert store.path(OURS).read_text() == "{broken"
    assert store.update(OURS, {1: Label("x")}) == {1: Label("x")}
    assert store.warnings[1].endswith(f"It was set aside as {OURS}.json.broken.")
    assert (tmp_path / f"{OURS}.json.broken").read_text() == "{broken"
    assert store.labels(OURS) == {1: Label("x")}


@pytest.mark.parametrize("name", ["../x", "", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "/" + "a" * 63])
def test_what_is_no_fingerprint_leads_nowhere(tmp_path, name):
    store = LabelStore(tmp_path)
    with pytest.raises(ValueError, match="64 hexadecimal digits are needed"):
        store.update(name, {1: Label("x")})
    assert list(tmp_path.iterdir()) == []
