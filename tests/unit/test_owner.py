"""Whose features, statistics and rows are: told by content, carried along, and refused on another SAE."""

import json
import shutil

import pytest
import torch

from sae.dictionary.activations import Architecture
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.owner import Owner
from sae.dictionary.statistics import FeatureStatistics, statistics_path, write_statistics
from sae.export import export
from sae.formats import load
from sae.steering.delta import Steering
from sae.steering.edits import Calibration, Edit, FeatureList
from sae.steering.mixer_value import parse_mix

D_SAE, D_IN = 96, 32
FEW_KILOBYTES = 16_384


def make(seed, name="SAE in memory"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "encoder": torch.randn(D_SAE, D_IN, generator=generator),
        "decoder": torch.randn(D_SAE, D_IN, generator=generator),
        "encoder_bias": torch.zeros(D_SAE),
    }
    statistics = FeatureStatistics(torch.ones(D_SAE), torch.full((D_SAE,), 4.0), torch.full((D_SAE,), 0.5), 10)
    return SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name=name, statistics=statistics)


@pytest.mark.parametrize("target", ["sae_steering", "reny_topk", "dictionary_learning"])
def test_the_same_file_elsewhere_is_the_same_and_a_retrained_one_is_not(target, tmp_path):
    sae = make(1)
    if target == "reny_topk":
        tensors = {name: sae.weights.tensors[name].whole() for name in sae.weights.tensors}
        sae = SparseAutoencoder.from_tensors(tensors, Architecture("topk", k=4))
    first = export(sae, tmp_path / "a", target)
    shutil.copytree(first.parent, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere" / first.name, "other name").owner == load(first).owner
    changed = {name: sae.weights.tensors[name].whole() + 0.01 for name in sae.weights.tensors}
    again = export(SparseAutoencoder.from_tensors(changed, sae.architecture), tmp_path / "b", target)
    assert load(again, load(first).name).owner != load(first).owner


def test_an_sae_in_memory_is_known_by_its_content_while_it_is_trained():
    sae, twin = make(1, "one"), make(1, "two")
    assert sae.owner == twin.owner and (sae.owner.name, twin.owner.name) == ("one", "two")
    twin.weights.tensors["decoder"].source.tensors["decoder"][0] += 1
    assert sae.owner != twin.owner


def test_a_large_file_is_known_by_a_few_kilobytes(tmp_path):
    """1.2 GB of weights as a sparse file: what is read does not grow with it."""
    path = tmp_path / "large-transformer_blocks.0-image" / "model.safetensors"
    path.parent.mkdir()
    shape, size = [49_152, 3_072], 49_152 * 3_072 * 4
    header = {
        "W_enc": {"dtype": "F32", "shape": shape[::-1], "data_offsets": [0, size]},
        "W_dec": {"dtype": "F32", "shape": shape, "data_offsets": [size, 2 * size]},
        "b_enc": {"dtype": "F32", "shape": shape[:1], "data_offsets": [2 * size, 2 * size + 49_152 * 4]},
        "b_dec": {"dtype": "F32", "shape": shape[1:], "data_offsets": [2 * size + 49_152 * 4, 2 * size + 52_224 * 4]},
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * size + 52_224 * 4)
    (path.parent / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": 3072, "d_sae": 49_152}))
    sae = load(path)
    source = sae.weights.tensors["decoder"].source
    before = source.bytes_read
    first = sae.owner
    assert 0 < source.bytes_read - before < FEW_KILOBYTES
    after = source.bytes_read
    assert sae.owner == first and source.bytes_read == after  # read once


def test_features_of_one_sae_are_refused_on_another_by_both_names():
    first, other = make(1, "first"), make(2, "other")
    found = FeatureList([Edit(3, 1.0, 1.0, 4.0, 0.5)], owner=first.owner)
    assert Steering(first, found).warnings == []
    told = f"they belong to {first.owner}, but the SAE connected is {other.owner}"
    with pytest.raises(ValueError, match=r"^features: ") as error:
        Steering(other, found)
    assert told in str(error.value) and "first (" in told and "other (" in told
    own = FeatureList([Edit(1, 1.0, 1.0, 4.0, 0.5)], owner=other.owner)
    with pytest.raises(ValueError, match=r"^replaces: ") as error:
        Steering(other, own, "swap", replaces=found)
    assert told in str(error.value)


def test_lists_without_an_owner_load_and_say_so_where_they_bring_numbers():
    sae = make(1)
    assert FeatureList([Edit(3)]).warnings == ()
    steering = Steering(sae, FeatureList([Edit(3, mean=1.0), Edit(4)]))
    assert len(steering.warnings) == 1 and "feature 3 were measured on" in steering.warnings[0]
    ranged = FeatureList([Edit(3, calibration=Calibration("add", 0.1, 0.2, 0.4))])
    assert "feature 3" in ranged.warnings[0]
    assert FeatureList([Edit(3, mean=1.0)], owner=sae.owner).plus(Edit(4)).owner == sae.owner


def row(sae, **more):
    owner = {} if sae is None else {"owner": {"identity": sae.owner.identity, "name": sae.owner.name}}
    return {"feature": 3, "max": 4.0, **owner, **more}


def mixed(sae, *rows):
    return parse_mix(json.dumps({"rows": list(rows)}), sae.d_sae, sae.statistics, sae.owner)


def test_rows_of_the_mixer_carry_their_owner():
    first, other = make(1, "first"), make(2, "other")
    edits = mixed(first, row(first))
    assert edits.owner == first.owner and edits.warnings == () and edits[0].max == 4.0
    with pytest.raises(ValueError, match=r"^mix: row 2 and its feature 3 belong to first \(") as error:
        mixed(other, row(other), row(first))
    assert f"but the SAE connected is {other.owner}" in str(error.value)
    old = mixed(other, row(None))
    assert old.owner == other.owner and "feature 3" in old.warnings[0]
    assert mixed(other, row(None, on=False)).warnings == () and mixed(other, {"feature": 3}).warnings == ()


@pytest.mark.parametrize("owner", [7, {}, {"identity": "x", "name": "y"}, {"identity": "a" * 32}, {"name": "y"}])
def test_a_row_with_a_broken_owner_is_refused(owner):
    with pytest.raises(ValueError, match=r"^mix: row 1: owner"):
        mixed(make(1), row(None, owner=owner))


def test_statistics_beside_other_weights_are_refused_by_both_names(tmp_path):
    path = export(make(1), tmp_path / "trained", "sae_steering")
    assert load(path).statistics.owner == load(path).owner
    retrained = export(make(2), tmp_path / "again", "sae_steering")
    shutil.copyfile(retrained, path)  # the same name and width, other weights
    with pytest.raises(ValueError, match=r"model\.stats\.safetensors: these statistics belong to trained") as error:
        load(path)
    assert "but the SAE connected is" in str(error.value)


def test_statistics_of_0_1_name_no_owner_and_load(tmp_path):
    sae = make(1)
    path = export(sae, tmp_path / "old", "sae_steering")
    write_statistics(sae.statistics, statistics_path(path))
    assert load(path).statistics.owner is None and load(path).statistics.max[0] == 4.0


def test_an_owner_needs_an_identity():
    for wrong in ("", "a" * 31, "g" * 32, None, "A" * 32):
        with pytest.raises(ValueError, match=r"^owner: "):
            Owner(wrong, "x")


class Contrast:
    """A dictionary that has directions and nothing else."""

    name, d_in, count = "contrast", 4, 2
    owner = Owner("0" * 32, "contrast")

    def direction(self, ids):
        return torch.eye(4)[list(ids)] * 2

    def token_scale(self, x):
        return torch.ones(*x.shape[:-1], 1)


def test_directions_without_an_encoder_add_and_project_out_and_refuse_the_rest():
    x = torch.randn(5, 4)
    torch.testing.assert_close(
        Steering(Contrast(), [Edit(1)], "add", 0.5, "raw").delta(x), torch.eye(4)[1].expand(5, 4)
    )
    projected = Steering(Contrast(), [Edit(0)], "project_out", 1.0).delta(x)
    torch.testing.assert_close(projected, -x * torch.eye(4)[0])
    with pytest.raises(ValueError, match=r"^method: 'scale' reads .* contrast has directions only"):
        Steering(Contrast(), [Edit(1)], "scale", 2.0)
    with pytest.raises(ValueError, match=r"^features: feature 2 does not exist in contrast"):
        Steering(Contrast(), [Edit(2)])
