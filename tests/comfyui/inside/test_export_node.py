"""ExportSAE, executed as ComfyUI does: the files below output/sae, names that lead out of it, and Cancel."""

import shutil
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.model_management import InterruptProcessingException

from links import link
from sae_steering_pack.sae.dictionary.statistics import FeatureStatistics
from sae_steering_pack.sae.formats import load
from sae_steering_pack.sae.places.site import parse_location
from tiny_flux import D_SAE, WIDTH, make_sae, run_node

SITE = parse_location("single_transformer_blocks.1.attn", "image")
FILES = {
    "sae_steering": {"model.safetensors"},
    "saelens": {"sae_weights.safetensors", "cfg.json"},
    "reny_topk": {"model.safetensors", "config.json"},
    "dictionary_learning": {"ae.pt", "config.json"},
}


@pytest.fixture
def output():
    folder = Path(folder_paths.get_output_directory()) / "sae"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def export(node_classes, output):
    def run(sae, target="sae_steering", dtype="as stored", folder_name="my-sae"):
        node = node_classes["ExportSAE"]
        return run_node(node, sae=sae, target=target, dtype=dtype, folder_name=folder_name)

    return run


def x():
    return torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("target", FILES)
def test_the_written_sae_is_the_same_sae(export, output, target):
    sae = make_sae(k=6, site=SITE)
    done = export(sae, target)
    (path,) = done.result
    assert (
        Path(path).parent == output / "my-sae"
        and {file.name for file in (output / "my-sae").iterdir()} == FILES[target]
    )
    assert done.ui.as_dict()["text"] == (f"Wrote {Path('output', 'sae', 'my-sae', Path(path).name)}",)
    found = load(Path(path))
    torch.testing.assert_close(found.encode(x()), sae.encode(x()), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(found.reconstruct(x()), sae.reconstruct(x()), rtol=2e-5, atol=2e-5)
    assert found.site == SITE and found.architecture == sae.architecture


def test_types_statistics_and_folders_in_folders(export, output):
    statistics = FeatureStatistics(torch.rand(D_SAE), torch.rand(D_SAE), torch.rand(D_SAE), 77)
    path = Path(export(make_sae(statistics=statistics), dtype="bfloat16", folder_name="sets/first ").result[0])
    assert path == output / "sets" / "first" / "model.safetensors"
    found = load(path)
    assert found.weights.tensors["encoder"].whole().dtype == torch.bfloat16
    assert torch.equal(found.statistics.max, statistics.max) and found.statistics.tokens == 77


NAMES = [
    "",
    "  ",
    ".",
    "..",
    "../out",
    "a/../../out",
    "/",
    "/tmp/out",
    "a\\b",
    "..\\out",
    "C:out",
    "a\0b",
    "a\nb",
    "x/..",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_lead_out_are_refused(export, output, name):
    with pytest.raises(ValueError) as caught:
        export(make_sae(), folder_name=name)
    sentence = f"folder_name: {name!r} is not the name of a folder inside output/sae; write one such as my-sae."
    assert str(caught.value) == sentence and not output.exists()


def test_a_link_that_leads_out_is_refused(export, output, tmp_path):
    output.mkdir(parents=True)
    link(output / "link", tmp_path)
    with pytest.raises(ValueError, match=r"^folder_name: 'link/below' is not the name of a folder inside output/sae"):
        export(make_sae(), folder_name="link/below")
    assert list(tmp_path.iterdir()) == []


BAD = [
    (
        {"target": "reny_topk"},
        r"target: reny_topk cannot hold tiny: it holds topk SAEs only, and this one is relu; use",
    ),
    ({"target": "gguf"}, r"target: 'gguf' is not a layout to write; use one of sae_steering, saelens,"),
    ({"dtype": "int8"}, r"dtype: 'int8' is not a type to write; use one of as stored, float32, float16, bfloat16\.$"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD)
def test_mistakes_are_told_in_one_sentence(export, output, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        export(make_sae(), **inputs)
    assert "\n" not in str(caught.value) and not output.exists()


def test_a_second_run_is_fine_and_another_sae_is_refused(export):
    first = export(make_sae()).result
    assert export(make_sae()).result == first
    with pytest.raises(
        ValueError, match=r"already holds another model\.safetensors; choose another folder or remove it"
    ):
        export(make_sae(k=6))


@pytest.mark.parametrize("target", ["sae_steering", "dictionary_learning"])
def test_cancel_is_noticed_between_the_tensors_and_leaves_no_file(export, output, target, monkeypatch):
    updates = []
    real = comfy.utils.ProgressBar.update_absolute

    def update(self, value, total=None, preview=None):
        updates.append((value, total))
        if 0 < value < total:
            comfy.model_management.interrupt_current_processing()
        real(self, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    with pytest.raises(InterruptProcessingException):
        export(make_sae(k=6), target)
    assert len(updates) == 2 and list((output / "my-sae").iterdir()) == []
    monkeypatch.undo()
    assert Path(export(make_sae(k=6), target).result[0]).is_file()
