"""python -m sae label: names that others wrote, as CSV or JSON, beside an SAE."""

import shutil
from pathlib import Path

import pytest

from sae.__main__ import main
from sae.demo.shipped_weights import TEXT_SAE, WEIGHTS
from sae.known.labels import read_labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(WEIGHTS / TEXT_SAE, tmp_path / "sae")
    (tmp_path / "sae" / "model.labels.json").unlink()
    return tmp_path / "sae"


def test_csv_then_json_over_it(folder: Path, tmp_path: Path, capsys) -> None:
    csv, more = tmp_path / "names.csv", tmp_path / "names.json"
    csv.write_text('\ufefffeature,label,note\n3,"=HYPERLINK(1), red",warm\n7,blue,\n', encoding="utf-8")
    more.write_text('{"7": "deep blue"}', encoding="utf-8")
    assert main(["label", str(folder), str(csv)]) == 0
    assert main(["label", str(folder), str(more)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 names are in model.labels.json, which now has 2."
    labels = read_labels(folder / "model.labels.json")
    assert {k: (label.name, label.note) for k, label in labels.items()} == {
        3: ("=HYPERLINK(1), red", "warm"), 7: ("deep blue", ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"index,name\n256,x\n", "names feature 256, but"), (b"a,b\n1,2\n", "must name the columns"),
        (b"\xff\xfe\x00", "is no text in UTF-8"), (b"{", "no valid JSON"),
        (b"index,name\n../1,x\n", "is not the index"),
    ],
)  # fmt: skip
def test_refusals_leave_the_folder_as_it_was(folder: Path, tmp_path: Path, capsys, content: bytes, told: str) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(content)
    before = sorted(folder.iterdir())
    assert main(["label", str(folder), str(names)]) == 1
    assert told in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_a_broken_label_file_is_not_overwritten(folder: Path, tmp_path: Path, capsys) -> None:
    (folder / "model.labels.json").write_text("{broken")
    (tmp_path / "names.json").write_text('{"7": "blue"}')
    assert main(["label", str(folder), str(tmp_path / "names.json")]) == 1
    assert "no valid JSON" in capsys.readouterr().err
    assert (folder / "model.labels.json").read_text() == "{broken"
