"""A folder of SAEs as one entry of LoadSAE: what is listed, loaded, chosen and refused."""

import json
from pathlib import Path

import folder_paths
import pytest
from safetensors.torch import save_file

from links import link
from sae_steering_pack.nodes.browser.queries import FeatureQueries
from sae_steering_pack.nodes.browser.sae_sources import SaeSources
from sae_steering_pack.sae.dictionary.sae_set import SaeSet
from sae_steering_pack.sae.places.site import parse_location
from tiny_flux import D_SAE, WIDTH, run_node
from tiny_sets import PLACES, tensors

FOLDER = "tiny-attention"


@pytest.fixture
def folder():
    """RE-N-Y checkpoints in models/sae, each in a folder of its own."""
    base = Path(folder_paths.models_dir) / "sae" / FOLDER
    for seed, (location, _) in enumerate(PLACES):
        t = tensors(seed)
        inner = base / (f"x-{location}-image" if "single" in location else f"x-{location}-0")
        inner.mkdir(parents=True)
        weights = {"bias": t["input_bias"], "encoder.weight": t["encoder"], "encoder.bias": t["encoder_bias"]}
        save_file({**weights, "decoder.weight": t["decoder"].T.contiguous()}, inner / "model.safetensors")
        (inner / "config.json").write_text(json.dumps({"features": WIDTH, "pages": D_SAE, "k": 8}))
    folder_paths.filename_list_cache.clear()
    yield base
    for file in sorted(base.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    base.rmdir()
    folder_paths.filename_list_cache.clear()


def test_a_folder_of_saes_loads_as_a_set(node_classes, folder):
    node = node_classes["LoadSAE"]
    [listed] = [item for item in node.GET_SCHEMA().inputs if item.id == "sae_name"]
    name = f"{FOLDER}/*"
    assert name in node.define_schema().inputs[0].options and listed.id == "sae_name"

    def load(sae_name=name, location="auto", stream="auto"):
        return run_node(node, sae_name=sae_name, location=location, stream=stream).result[0]

    sae = load()
    assert isinstance(sae, SaeSet) and (sae.name, len(sae.members), sae.d_sae) == (FOLDER, 3, 3 * D_SAE)
    assert [(m.site.location, m.site.stream) for m in sae.members] == PLACES
    assert all(member.sae.weights.materialised == () for member in sae.members)
    assert [m.site.location for m in load(location="transformer_blocks.0-1.attn").members] == [
        PLACES[0][0],
        PLACES[1][0],
    ]
    assert load(location="single_blocks.0-2.attn", stream="image").site == parse_location(*PLACES[2])
    with pytest.raises(
        ValueError, match=r"^location: no SAE of tiny-attention is at transformer_blocks\.0; 'auto' takes"
    ):
        load(location="transformer_blocks.0")
    with pytest.raises(ValueError, match=r"^sae_name: 'gone/\*' is not among the sets in models/sae; there are"):
        load("gone/*")
    before = node.fingerprint_inputs(name, "auto", "auto")
    next(folder.rglob("*.safetensors")).touch()
    assert node.fingerprint_inputs(name, "auto", "auto") != before


def test_a_member_that_leads_out_of_the_folders_is_refused(node_classes, folder, tmp_path):
    file = next(folder.rglob("*.safetensors"))
    outside = tmp_path / "outside.safetensors"
    file.rename(outside)
    link(file, outside)
    with pytest.raises(ValueError, match=r"is a link that leads out of the model folders"):
        run_node(node_classes["LoadSAE"], sae_name=f"{FOLDER}/*", location="auto", stream="auto")


def test_a_panel_asks_for_a_listed_set(folder):
    query = {"loader": "LoadSAE", "sae_name": f"{FOLDER}/*", "index": f"3,{2 * D_SAE + 1},{3 * D_SAE}"}
    sources = SaeSources()
    found = FeatureQueries(sources).find(query)
    assert (found["count"], [row["feature"] for row in found["features"]]) == (3 * D_SAE, [3, 2 * D_SAE + 1])
    assert isinstance(sources.seen.by_fingerprint[found["fingerprint"]], SaeSet)  # so that it can be named
