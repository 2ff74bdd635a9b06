"""Looking through all features, their pictures, and recipes as presets: what the routes tell of the Shapes SAEs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from links import link
from sae_steering_pack.nodes.browser.queries import FeatureQueries
from sae_steering_pack.nodes.browser.recipe_files import recipes_folder
from sae_steering_pack.nodes.browser.recipe_presets import list_presets, open_preset
from sae_steering_pack.nodes.browser.sae_sources import SaeSources
from sae_steering_pack.sae.demo.shipped_weights import TEXT_SAE, load_sae
from sae_steering_pack.sae.dictionary.fingerprint import fingerprint
from sae_steering_pack.sae.drawing.pictures import thumbnail
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.hosts.comfyui.sampling import Sampling, sample
from sae_steering_pack.sae.known.labels import Label
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node

TEXT = {"loader": "LoadShapesDemo", "output": "sae_text"}
SET = {"loader": "LoadShapesDemo", "output": "sae_set"}
HOW = {"method": "add", "strength": 0.5, "unit": "auto", "location": "auto", "stream": "auto"}
WHEN = {"start_percent": 0.0, "end_percent": 0.5, "apply_to": "both"}


@pytest.fixture
def queries():
    yield FeatureQueries(SaeSources())
    for path in [
        *(notebooks().folder / "labels").glob("*"),
        *notebooks().of(load_sae(TEXT_SAE)).gallery_path.parent.glob("*"),
    ]:
        path.unlink()


@pytest.fixture
def shapes(node_classes):
    return run_node(node_classes["LoadShapesDemo"]).result


@pytest.fixture
def save(node_classes, shapes):
    """Writes a recipe of two features of the text's SAE, or of another one."""

    def run(name, sae=shapes[2]):
        features = FeatureList([Edit(31, 0.5, unit="max"), Edit(65, -1.0)])
        return run_node(node_classes["SaveRecipe"], sae=sae, features=features, name=name, note="blue", **HOW, **WHEN)

    yield run
    shutil.rmtree(recipes_folder(), ignore_errors=True)


def numbers(page):
    return [row["feature"] for row in page["features"]]


def test_pages_put_together_are_all_features_in_order(queries) -> None:
    sae = load_sae(TEXT_SAE)
    density = sae.statistics.density
    pages = [queries.browse({**TEXT, "sort": "density", "first": str(at), "many": "100"}) for at in (0, 100, 200, 300)]
    assert [len(page["features"]) for page in pages] == [100, 100, 56, 0]
    assert [number for page in pages for number in numbers(page)] == density.argsort(
        descending=True, stable=True
    ).tolist()
    assert {(page["total"], page["count"], page["has_density"]) for page in pages} == {(256, 256, True)}
    assert (pages[0]["fingerprint"], pages[0]["owner"]["identity"]) == (fingerprint(sae), sae.owner.identity)
    for row in pages[0]["features"][:5]:
        assert row["share"] == pytest.approx(float(density[row["feature"]]))
        assert row["max"] == pytest.approx(float(sae.statistics.max[row["feature"]]))
    assert len(queries.browse({**TEXT, "many": "999"})["features"]) == 200


def test_pictures_of_a_page_are_those_of_the_gallery(queries) -> None:
    sae = load_sae(TEXT_SAE)
    page, gallery = queries.browse({**TEXT, "q": "red"}), notebooks().of(sae).gallery
    assert page["features"] and all("red" in f"{row['name']} {row['note']}" for row in page["features"])
    asked = queries.pictures({**TEXT, "index": ",".join(map(str, numbers(page)))})
    for row in page["features"]:
        expected = [(str(one.picture), one.strength) for one in gallery.of(row["feature"])]
        assert [(number, strength) for number, strength, _ in row.get("pictures", [])] == expected
        assert asked["pictures"].get(row["feature"], []) == row.get("pictures", [])
    assert asked["gallery"] == page["gallery"] and asked["owner"] == page["owner"]
    assert {number for row in page["features"] for number, *_ in row.get("pictures", [])} == set(page["gallery"])


def test_a_set_is_looked_through_as_its_features_are_numbered(queries) -> None:
    page = queries.browse({**SET, "first": "500", "many": "20"})
    assert numbers(page) == list(range(500, 520))
    assert page["total"] == page["count"] == 6 * 512
    places = {number.split("-")[0] for row in page["features"] for number, *_ in row.get("pictures", [])}
    assert places == {"0", "1"}


def test_new_names_and_pictures_are_seen_though_the_old_ones_are_kept(queries) -> None:
    sae = load_sae(TEXT_SAE)
    ask = {**TEXT, "q": "Neptune"}
    assert queries.browse(ask)["total"] == 0
    for name in ("Neptune", "Neptun!", "Neptune"):  # as long as each other, one right after the other
        notebooks().of(sae).update({7: Label(name)})
        assert queries.browse(ask)["total"] == int(name == "Neptune")
    strength, spot = torch.full((1, sae.d_sae), 1e6), torch.full((1, sae.d_sae, 2), 0.25)
    notebooks().of(sae).add_pictures(
        [thumbnail(torch.ones(3, 16, 16))],
        ["white"],
        strength,
        spot,
    )
    assert queries.pictures({**TEXT, "index": "7"})["pictures"][7][0][1:] == [1e6, (0.25, 0.25)]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({**TEXT, "sort": "<b>"}, "sort: '<b>' came; use one of number, name, density, rarity"),
        ({**TEXT, "first": "-1"}, "first: '-1' came"), ({**TEXT, "many": "1e3"}, "many: '1e3' came"),
        ({**TEXT, "first": "9" * 400}, "a whole number from 0 up"),
        ({"fingerprint": "ab" * 32}, "no graph has worked with this SAE"), ({}, "no graph has worked with this SAE"),
        ({"loader": "LoadSAE", "sae_name": "../../etc/passwd"}, "is not among the files"),
    ],
)  # fmt: skip
def test_pages_that_are_refused(queries, query, told) -> None:
    with pytest.raises(ValueError, match=told):
        queries.browse(query)


@pytest.mark.parametrize("index", ["", "-1", "1e3", "9" * 400, ",".join(["1"] * 201)])
def test_pictures_that_are_refused(queries, index) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        queries.pictures({**TEXT, "index": index})


def test_presets_are_listed_with_their_pictures_those_that_fit_first(save, shapes, tmp_path) -> None:
    save("a", shapes[4])
    save("b")
    Image.new("RGB", (8, 8)).save(recipes_folder() / "b.webp")
    (recipes_folder() / "broken.json").write_text('{"format": "other"}')
    (tmp_path / "c.json").write_text((recipes_folder() / "b.json").read_text())
    link(recipes_folder() / "c.json", tmp_path / "c.json")
    found = list_presets(SaeSources(), TEXT)
    names = [(one["name"], one["fits"], one["features"], one["picture"]) for one in found["recipes"]]
    assert names == [("b", True, 2, "b.webp"), ("a", False, 2, None)]  # a link that leads out is none
    assert found["recipes"][0]["note"] == "blue" and found["folder"] == "sae/recipes"
    assert found["warnings"] == ["broken.json: recipe: its format is 'other', but 'sae-steering recipe' is needed."]
    assert list_presets(SaeSources(), {"fingerprint": "ab" * 32})["recipes"][0]["fits"] is False


def test_a_preset_in_the_mixer_draws_what_load_recipe_draws(node_classes, save, shapes) -> None:
    text = save("blue").result[0]
    found = open_preset(SaeSources(), {"source": TEXT, "name": "blue"})
    assert found == open_preset(SaeSources(), {"source": TEXT, "recipe": text})  # a file that was dropped
    assert found["told"].startswith("It was saved with method add, location transformer_blocks.0, stream text, percent")
    features = run_node(node_classes["FeatureMixer"], sae=shapes[2], mix=json.dumps(found["mix"])).result[0]
    given = {**HOW, **WHEN, "strength": 1.0}
    mixed = run_node(
        node_classes["FluxActivationSteer"], model=shapes[0], sae=shapes[2], features=features, **given
    ).result[0]
    loaded = run_node(node_classes["LoadRecipe"], model=shapes[0], recipe=text, strength=1.0, sae=shapes[2]).result[0]
    prompt = run_node(node_classes["ShapesPrompt"], text="red square left big white").result[0]
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    pictures = [sample(one, prompt, latent, Sampling(4, 2), lambda *_: None) for one in (mixed, loaded, shapes[0])]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-2)


def test_presets_that_are_refused(save) -> None:
    text = save("blue").result[0]
    sources, image = SaeSources(), {"loader": "LoadShapesDemo", "output": "sae_image"}
    for body, told in [
        ({"name": "blue"}, "source: the SAE that is connected"),
        ({"name": "blue", "source": {"loader": 7}}, "source: the SAE that is connected"),
        ({"name": "../blue", "source": TEXT}, r"name: '../blue' is no recipe in recipes"),
        ({"name": ["x"], "source": TEXT}, "is no recipe in recipes"),
        ({"recipe": "{", "source": TEXT}, "recipe: the text is no valid JSON"),
        ({"recipe": text, "source": {"fingerprint": "ab" * 32}}, "no graph has worked with this SAE"),
        (
            {"recipe": text, "source": image},
            r"recipe: it was made with shapes-transformer_blocks.0-text \([0-9a-f]{12}…\), but "
            r"shapes-transformer_blocks.1-image \([0-9a-f]{12}…\) is connected to this panel; connect the recipe's\.",
        ),
    ]:
        with pytest.raises(ValueError, match=told):
            open_preset(sources, body)


def test_the_browser_tells_which_sae_it_has(node_classes, shapes) -> None:
    [payload] = run_node(node_classes["FeatureBrowser"], sae=shapes[2]).ui["sae_steering"]
    assert (payload["kind"], payload["fingerprint"], payload["count"]) == ("sae", fingerprint(shapes[2]), 256)
