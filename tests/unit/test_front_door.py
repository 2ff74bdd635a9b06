"""`import sae`: the door's names, their examples, README's first lines, and that each does what the rooms behind do."""

import doctest
import importlib
import re
import subprocess
import sys

import pytest
import torch

import sae
from project_files import ROOT
from sae.drawing.pictures import from_image
from sae.embeddings.editing import steer_tokens
from sae.finding.features import rank_features, tally_tokens
from sae.hosts.diffusers import steer
from sae.steering.intervention import Intervention
from sae.steering.record import SteeringRecord
from small_saes import small_sae

MODULES = ("sae.hosts.any_model", "sae.finding.concept", "sae.demo.try_it")
README_EXAMPLE = re.compile(r"```python\n(import sae\n.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def shapes():
    return sae.Shapes()


def test_the_door_lists_what_it_gives_and_each_is_described():
    assert sae.__all__ == sorted(sae.__all__) and {"load", "find", "contrast", "Edit", "Steering", "steer"} <= set(
        sae.__all__
    )
    assert all(getattr(sae, name).__doc__ for name in sae.__all__)
    assert set(sae.__all__) <= set(dir(sae))
    with pytest.raises(AttributeError, match="steers"):
        sae.steers  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted >= 3 and result.failed == 0


def test_importing_the_door_reads_no_torch():
    code = "import sys, sae; print(sorted(m for m in sys.modules if m == 'torch' or m.startswith('sae.')))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_the_first_lines_of_python_in_the_readme_turn_red_into_blue(tmp_path, monkeypatch):
    from PIL import Image

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = README_EXAMPLE.search(readme).group(1)
    assert len(re.findall(r"^(?:import|from) ", example, re.MULTILINE)) == 1 and example.count("\n") <= 10
    assert readme.index(example) < 4000  # near the top
    assert [example] == re.findall(
        r"```python\n(.*?)```", readme[: readme.index(example) + len(example) + 3], re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    exec(example, {})  # noqa: S102
    [written] = tmp_path.iterdir()
    with Image.open(written) as picture:
        r, g, b = from_image(picture.convert("RGB")).flatten(0, 1).T * 255
    coloured = (torch.stack([r, g, b]).amax(0) - torch.stack([r, g, b]).amin(0)) > 100
    assert coloured.sum() > 200
    assert ((b > r + 60) & coloured).sum() / coloured.sum() > 0.95


def test_a_steered_transformer_is_that_of_the_host_bit_for_bit(shapes):
    found = sae.find(shapes.sae, shapes.draws("blue square"), shapes.draws("red square"), model=shapes.model, count=4)
    assert len(found.features) <= 4 and found.replaces and "Wanted:" in found.table
    draw = shapes.draws("red circle left small white", seed=3)
    plain = draw(shapes.model)
    with sae.steer(shapes.model, found.steering(0.8)) as steered:
        ours = draw(steered.result)
    edits = sae.Steering(shapes.sae, found.features, "swap", 0.8, "auto", found.replaces)
    with steer(shapes.model, [Intervention(edits, shapes.sae.site)]) as record:
        theirs = draw(shapes.model)
    assert ours.tobytes() == theirs.tobytes() != plain.tobytes()
    assert steered.summary == record.summary()
    with sae.steer(shapes.model, edits) as same:
        assert draw(same.result).tobytes() == theirs.tobytes()
    assert draw(shapes.model).tobytes() == plain.tobytes()  # nothing is left behind


def test_a_schedule_and_a_place_are_taken(shapes):
    found = sae.find(shapes.sae, shapes.draws("blue square"), model=shapes.model, count=2)
    with sae.steer(shapes.model, found.steering(0.5), start_percent=0.5) as steered:
        shapes.draws("red circle")(steered.result)
    assert steered.summary.steps == 4  # of 8
    with (
        pytest.raises(ValueError, match="transformer_blocks"),
        sae.steer(shapes.model, found.steering(0.5), location="transformer_blocks.7"),
    ):
        pass


def test_a_contrast_of_runs_is_a_dictionary_at_the_texts_first_place(shapes):
    concept = sae.contrast(
        [shapes.draws("blue square", seed) for seed in (0, 1)],
        [shapes.draws("red square", seed) for seed in (0, 1)],
        model=shapes.model,
    )
    assert (concept.sae.d_in, concept.sae.d_sae, concept.sae.site.stream) == (128, 2, "text")
    assert [edit.feature for edit in concept.features] == [0] and [edit.feature for edit in concept.replaces] == [1]


def test_an_embedding_is_found_and_steered_by_the_closed_formula():
    dictionary = small_sae()
    generator = torch.Generator().manual_seed(0)
    wanted, other = (torch.randn(3, dictionary.d_in, generator=generator) for _ in range(2))
    found = sae.find(dictionary, wanted, other, count=3)
    expected = rank_features(
        tally_tokens(dictionary, wanted[:, None]), "mean", 3, tally_tokens(dictionary, other[:, None])
    )
    assert [edit.feature for edit in found.features] == [row.feature for row in expected]
    steering = sae.Steering(dictionary, [sae.Edit(2)], "add", 0.5, "raw")
    with sae.steer(other, steering) as steered:
        assert torch.allclose(steered.result, other + 0.5 * dictionary.direction([2]), atol=1e-5)
    assert steered.summary.steps == 1
    by_hand = steer_tokens(other[:, None], steering, SteeringRecord())[:, 0]
    assert torch.equal(steered.result, by_hand)
    half = other.half()
    with sae.steer(half, steering) as steered:
        assert steered.result.dtype == torch.float16
    with sae.steer(other, sae.Steering(dictionary, [sae.Edit(2)], "add", 0.0)) as steered:
        assert torch.equal(steered.result, other)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: sae.find(small_sae(), lambda model: None), "model: NoneType came; give a MODEL of ComfyUI"),
        (lambda x: sae.find(small_sae(), x, lambda model: None), "instead_of: a run came"),
        (lambda x: sae.contrast([x], []), "1 and 0 came"),
        (lambda x: sae.contrast([x], [x]), "there is no difference between them at embedding"),
        (lambda x: sae.contrast([torch.zeros(2, 3, 4)], [x]), r"\[2, 3, 4\] came; one embedding each"),
        (
            lambda x: sae.steer(x, sae.Steering(small_sae(), [sae.Edit(0)]), stream="text").__enter__(),
            "has none of these",
        ),
    ],
)
def test_mistakes_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.ones(1, small_sae().d_in))
