"""What is known of features, through the one object that knows it: whose comes first, where it lies, read once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import sae.known.labels
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.fingerprint import fingerprint
from sae.dictionary.sae_set import SaeSet
from sae.dictionary.statistics import FeatureStatistics, read_statistics, write_statistics
from sae.export import export
from sae.formats import load
from sae.known.gallery import Gallery, write_gallery
from sae.known.labels import Label, shipped_labels
from sae.known.notebook import Notebooks
from sae.known.ranges import Setting
from sae.places.site import parse_location
from sae.steering.edits import Calibration, Edit
from small_saes import small_sae

D_SAE = 40
HERE, THERE = Setting("here", "Flux-1", ""), Setting("there", "Flux-1", "")


@pytest.fixture
def known(tmp_path: Path) -> Notebooks:
    return Notebooks(tmp_path / "user", tmp_path / "measured")


@pytest.fixture
def shipped(tmp_path: Path) -> SparseAutoencoder:
    """An SAE from a file, beside which names lie."""
    found = load(export(small_sae("relu", d_sae=D_SAE), tmp_path / "model", "sae_steering"))
    beside = shipped_labels(found)
    assert beside is not None
    beside.update({3: Label("snow"), 4: Label("rain")}, fingerprint(found))
    return found


def placed(block: int, kind: str) -> SparseAutoencoder:
    return small_sae(kind, d_sae=D_SAE, site=parse_location(f"transformer_blocks.{block}", "image"))


def test_everything_lies_where_earlier_versions_kept_it(known: Notebooks, shipped: SparseAutoencoder) -> None:
    notebook, mark, owner = known.of(shipped), fingerprint(shipped), shipped.owner.identity
    assert known.labels_path(mark) == known.folder / "labels" / f"{mark}.json"
    assert notebook.ranges_path == known.folder / "labels" / f"{mark}.calibration.json"
    assert notebook.gallery_path == known.folder / "galleries" / f"{owner}.gallery.safetensors"
    assert (
        known.statistics_path("flux/x", shipped.owner) == known.measured / "flux" / f"x-{owner[:8]}.stats.safetensors"
    )
    assert known.statistics_path("flux/x") == known.measured / "flux" / "x.stats.safetensors"


def test_what_the_user_calls_a_feature_comes_before_what_lies_beside_it(
    known: Notebooks, shipped: SparseAutoencoder
) -> None:
    notebook = known.of(shipped)
    assert notebook.names == {3: "snow", 4: "rain"}
    assert notebook.update({3: Label("ice"), 7: Label("fog")}) == {3: Label("ice"), 7: Label("fog")}
    assert notebook.names == known.of(shipped).names == {3: "ice", 4: "rain", 7: "fog"}
    assert notebook.update({3: None}) == {7: Label("fog")}
    assert notebook.names == {3: "snow", 4: "rain", 7: "fog"}
    assert known.of_fingerprint(fingerprint(shipped)).names == {7: "fog"}  # nobody knows what lies beside it
    found = {
        4: Label("sleet", source="LabelFeatures", contexts=9),
        5: Label("hail", source="LabelFeatures", contexts=9),
    }
    assert notebook.add(found) == {5: found[5]}  # somebody named 4


def test_a_file_is_read_once_as_long_as_it_stays(
    known: Notebooks, shipped: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.of(shipped).update({1: Label("one")})
    plain, read = sae.known.labels.read_labels, []
    monkeypatch.setattr(sae.known.labels, "read_labels", lambda path, *more: read.append(path) or plain(path, *more))
    for notebook in (known.of(shipped), known.of(shipped)):
        assert notebook.names[1] == notebook.labels[1].name == notebook.read_labels()[1].name == "one"
    assert len(read) == 2  # the user's, and the one beside the SAE
    known.of(shipped).update({1: Label("two")})
    assert known.of(shipped).names[1] == "two"


def test_a_broken_file_is_told_once_and_names_nothing(
    known: Notebooks, shipped: SparseAutoencoder, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = known.of(shipped)
    for path in (known.labels_path(notebook.fingerprint), notebook.ranges_path, notebook.gallery_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{broken")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert notebook.names == {3: "snow", 4: "rain"} and notebook.ranges == [] and notebook.gallery is None
    assert len(caplog.records) == 3 and notebook.warnings == []
    caplog.clear()
    other = known.of(shipped)
    assert other.read_labels().keys() == {3, 4} and len(other.warnings) == 1 and not caplog.records


def test_ranges_are_offered_where_they_fit(known: Notebooks, shipped: SparseAutoencoder) -> None:
    notebook, here, there = known.of(shipped), Calibration("add", 1, 2, 3), Calibration("add", 4, 5, 6)
    assert notebook.keep_ranges({3: here}, HERE) == notebook.keep_ranges({3: there, 4: there}, THERE) == ""
    assert notebook.keep_ranges({3: Calibration("scale", 0, 2, 3)}, HERE) == ""
    assert notebook.offered(HERE) == ({"add": {3: here}, "scale": {3: Calibration("scale", 0, 2, 3)}}, [])
    assert list(notebook.offered(HERE, "scale")[0]) == ["scale", "add"]
    assert notebook.offered(THERE, only=[4]) == ({"add": {4: there}}, [])
    assert known.of_fingerprint(notebook.fingerprint).offered(THERE, only=[4])[0] == {"add": {4: there}}
    edit = Edit(3, 1.0, unit="calibrated", calibration=here)
    assert notebook.misfits([edit], HERE) == []
    assert [line.split(":")[0] for line in notebook.misfits([edit], THERE)] == ["Feature 3"]


def gallery(pictures: list[bytes], feature: int) -> Gallery:
    found = Gallery(D_SAE)
    strength = torch.zeros(len(pictures), D_SAE)
    strength[:, feature] = torch.arange(1.0, len(pictures) + 1)
    found.add(pictures, ["a"] * len(pictures), strength, torch.full((*strength.shape, 2), 0.25))
    return found


def test_pictures_made_here_come_before_those_beside_the_sae(known: Notebooks, shipped: SparseAutoencoder) -> None:
    assert shipped.origin is not None
    weights, notebook = shipped.origin.files[0], known.of(shipped)
    assert notebook.pictures([5]) == ({}, {})
    write_gallery(weights.with_name("model.gallery.safetensors"), gallery([b"beside"], 5), shipped.owner)
    assert known.of(shipped).pictures([4, 5]) == ({"0": b"beside"}, {5: [("0", 1.0, (0.25, 0.25))]})
    strength, spot = torch.zeros(1, D_SAE), torch.full((1, D_SAE, 2), 0.5)
    strength[0, 6] = 2
    notebook.add_pictures([b"here"], ["b"], strength, spot)
    assert notebook.pictures([5, 6]) == ({"0": b"here"}, {6: [("0", 2.0, (0.5, 0.5))]})


def test_statistics_belong_to_the_content_and_those_of_0_1_to_the_name(
    known: Notebooks, shipped: SparseAutoencoder, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = known.of(shipped)
    assert notebook.measured_statistics is None
    told = FeatureStatistics(torch.ones(D_SAE), torch.full((D_SAE,), 2.0), torch.full((D_SAE,), 0.5), 100)
    old = known.statistics_path(shipped.name)
    write_statistics(told, old)
    assert notebook.measured_statistics == old and "does not say on which weights" in caplog.text
    path = notebook.keep_statistics(told)
    assert notebook.measured_statistics == path == known.statistics_path(shipped.name, shipped.owner)
    assert read_statistics(path).owner == shipped.owner
    assert sorted(known.statistics_files(shipped.name)) == sorted([old, path])


def test_a_set_is_made_of_its_members(known: Notebooks) -> None:
    first, second = placed(0, "relu"), placed(1, "topk")
    both = known.of(SaeSet([first, second], "both"))
    assert both.update({3: Label("three"), D_SAE + 4: Label("four")}) == {3: Label("three"), D_SAE + 4: Label("four")}
    assert (known.of(first).names, known.of(second).names) == ({3: "three"}, {4: "four"})
    assert both.names == {3: "three", D_SAE + 4: "four"} and both.fingerprint.startswith("set-")
    assert both.ranges == [] and known.of_fingerprint(both.fingerprint).read_labels() == {}
    strength, spot = torch.zeros(1, D_SAE), torch.full((1, D_SAE, 2), 0.5)
    strength[0, 4] = 1
    known.of(second).add_pictures([b"x"], ["b"], strength, spot)
    assert both.pictures([3, D_SAE + 4]) == ({"1-0": b"x"}, {D_SAE + 4: [("1-0", 1.0, (0.5, 0.5))]})
    assert not list(known.folder.rglob("set-*"))


@pytest.mark.parametrize("mark", ["", "../x", "set-", "set-" + "g" * 64, "AB" * 32])
def test_what_is_no_fingerprint_is_no_file(known: Notebooks, mark: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        known.of_fingerprint(mark).read_labels()


def test_a_statistics_name_does_not_lead_out_of_the_folder(known: Notebooks) -> None:
    with pytest.raises(ValueError, match="leads out of output/sae"):
        known.statistics_path("../evil")
