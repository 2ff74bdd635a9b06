"""What version 0.1 saved (tests/fixtures/v0.1) draws what it drew: workflow, recipes, names, ranges, statistics."""

import copy
import json
import shutil
from urllib.parse import urlencode

import pytest
from safetensors.torch import load, load_file

from project_files import ROOT
from random_flux import write_random_flux
from workflows import by_type, read_workflow, to_prompt

OLD = ROOT / "tests" / "fixtures" / "v0.1"
LABELS = OLD / "base" / "user" / "default" / "sae_steering" / "labels"
MARK = "21b9d676894d8243a693eec5763efb1bc29a3ac66f18d53f1cfdea06f37c332d"  # the SAE's fingerprint
SAE = "transformer_blocks.0-image/model.safetensors"
SOURCE = {"loader": "LoadSAE", "sae_name": SAE, "architecture": "auto"}
DRAWN = load_file(OLD / "latents.safetensors")
LOADERS = ("1", "2", "3", "4", "5")  # nodes of the workflow: FLUX, SAE, prompt, baseline, size
STEERED = ("sliders", "swap", "both")
TOLERANCE = 1e-4  # relative to the latent's norm: other processors add up in another order


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def difference(a, b):
    return float((a - b).norm() / b.norm())


def written(base):
    """The files that users and nodes put into ComfyUI's base folder."""
    folders = ("models", "output", "user/default/sae_steering")
    return {path for folder in folders for path in (base / folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def old_files(server):
    """Lays the old files where 0.1 kept them, and takes away whatever is new when the tests are through."""
    base = server.place.base
    before = written(base)
    shutil.copytree(OLD / "base", base, dirs_exist_ok=True)
    write_random_flux(server.place.models / "diffusion_models" / "tiny-flux.safetensors")
    yield
    for path in written(base) - before:
        path.unlink()


@pytest.fixture
def old_names(server):
    """For a test that changes names or ranges: the old ones are there again when it is through."""
    yield
    for path in LABELS.iterdir():
        shutil.copy(path, server.place.base / LABELS.relative_to(OLD / "base") / path.name)


@pytest.fixture(params=["workflow_api", "workflow"])
def workflow(request, client):
    """The prompt, from each of the two formats."""
    found = read_workflow(OLD / f"{request.param}.json")
    return found if request.param == "workflow_api" else to_prompt(found, client.object_info())


@pytest.fixture
def graph():
    """The loaders, and one KSampler with SaveLatent, as in the workflow: node 20 takes the model."""
    whole = read(OLD / "workflow_api.json")
    return {number: whole[number] for number in (*LOADERS, "20", "21")}


def run(client, prompt):
    """What SaveLatent wrote, by its prefix's last word, and the entry."""
    entry = client.run(prompt)
    latents = {}
    for number, node in prompt.items():
        if node["class_type"] == "SaveLatent":
            name = node["inputs"]["filename_prefix"].split("/")[-1]
            assert number in entry["outputs"], f"{name}: nothing was drawn; the server took only a part of the workflow"
            latents[name] = load(client.view(entry["outputs"][number]["latents"][0]))["latent_tensor"]
    return latents, entry


def draw(client, graph, nodes):
    """The latent that the model of the last of these nodes draws."""
    prompt = copy.deepcopy(graph) | nodes
    prompt["20"]["inputs"]["model"] = [list(nodes)[-1], 0]
    return run(client, prompt)[0]["unsteered"]


def told(client, **query):
    """What the route says of the SAE's features, by index."""
    answer = client.get_json(f"/sae_steering/features?{urlencode({**SOURCE, **query})}")
    assert answer["fingerprint"] == MARK
    return {row["feature"]: row for row in answer["features"]}


def everything(client):
    return told(client, index=",".join(map(str, range(64))))


def ranges_of(row):
    """Method -> low, clear and high; the row has first the method that was used last, whatever that was."""
    found = row.get("calibrations", [])
    return {one["method"]: {end: one[end] for end in ("low", "clear", "high")} for one in found}


def recipe_node(name, model="1"):
    text = (OLD / "base" / "output" / "sae" / "recipes" / f"{name}.json").read_text(encoding="utf-8")
    inputs = {"model": [model, 0], "recipe": text, "strength": 1.0, "sae": ["2", 0]}
    return {"class_type": "LoadRecipe", "inputs": inputs}


def steer_node(features):
    inputs = {
        "model": ["1", 0], "sae": ["2", 0], "features": features, "method": "add", "strength": 1.0,
        "unit": "token_norm", "location": "auto", "stream": "auto", "start_percent": 0.0, "end_percent": 1.0,
        "apply_to": "both",
    }  # fmt: skip
    return {"class_type": "FluxActivationSteer", "inputs": inputs}


def test_a_workflow_draws_what_it_drew(client, workflow):
    latents, entry = run(client, workflow)
    assert difference(latents["unsteered"], DRAWN["unsteered"]) < TOLERANCE  # else it is the model that differs
    for name in STEERED:
        assert difference(latents[name], DRAWN[name]) < TOLERANCE, name
        assert difference(latents[name], latents["unsteered"]) > 0.05, name
    assert "warm light, größer als 1 ☀" in entry["outputs"]["8"]["text"][0]


def test_a_recipe_saved_now_holds_what_the_one_saved_then_holds(client):
    prompt = to_prompt(read_workflow(OLD / "workflow.json"), client.object_info())
    for name in ("sliders", "swap"):
        number = next(number for number, node in prompt.items() if node["inputs"].get("name") == name)
        text = client.run(prompt)["outputs"][number]["text"][0]
        now, then = (
            json.loads(text[text.index("{") :]),
            read(OLD / "base" / "output" / "sae" / "recipes" / f"{name}.json"),
        )
        for key in ("features", "replaces"):
            assert len(now[key]) == len(then[key])
            for new, old in zip(now[key], then[key], strict=True):
                numbers = {part: value for part, value in old.items() if isinstance(value, float)}
                assert {part: new[part] for part in numbers} == pytest.approx(numbers, rel=1e-3)
                assert {part: new[part] for part in set(old) - set(numbers)} == {
                    part: old[part] for part in set(old) - set(numbers)
                }


def test_each_row_of_the_mixer_counts(client, workflow):
    """So that a row which is not understood would show in the picture."""
    mixer = by_type(workflow, "FeatureMixer")["inputs"]
    rows = json.loads(mixer["mix"])["rows"]
    wanted = {number: workflow[number] for number in (*LOADERS, "10", "11", "12", "22", "23")}
    for row in rows:
        mixer["mix"] = json.dumps(
            {"rows": [{**other, "on": other.get("on", True) != (other is row)} for other in rows]}
        )
        assert difference(run(client, wanted)[0]["sliders"], DRAWN["sliders"]) > 100 * TOLERANCE, row


@pytest.mark.parametrize("name", ["sliders", "swap"])
def test_a_recipe_draws_what_the_workflow_drew(client, graph, name):
    latent = draw(client, graph, {"40": recipe_node(name)})
    assert difference(latent, DRAWN[name]) < TOLERANCE


def test_two_recipes_draw_what_the_chain_drew(client, graph):
    latent = draw(client, graph, {"40": recipe_node("sliders"), "41": recipe_node("swap", "40")})
    assert difference(latent, DRAWN["both"]) < TOLERANCE


def test_names_ranges_and_statistics_are_shown(client):
    rows = everything(client)
    assert len(rows) == 64
    labels = read(LABELS / f"{MARK}.json")["labels"]
    assert len(labels) == 52
    shown = {str(k): (row["name"], row["note"], row["score"]) for k, row in rows.items() if "name" in row}
    assert shown == {k: (label["name"], label.get("note", ""), label.get("score")) for k, label in labels.items()}
    assert list(told(client, q="warm größer")) == [17]
    ranges = {}
    for feature, row in rows.items():
        for method, range_ in ranges_of(row).items():
            ranges.setdefault(method, {})[str(feature)] = range_
    assert ranges == read(LABELS / f"{MARK}.calibration.json")["methods"]
    statistics = load_file(OLD / "base" / "output" / "sae" / f"{SAE.removesuffix('.safetensors')}.stats.safetensors")
    for key, name in (("mean", "mean"), ("max", "max"), ("share", "density")):
        assert [rows[k][key] for k in range(64)] == statistics[name].tolist()


@pytest.mark.parametrize("feature", [17, 48])
def test_a_row_in_the_unit_calibrated_has_the_old_range(client, graph, feature):
    """0.75 × clear, which is the same as that strength in token_norm."""
    clear = read(LABELS / f"{MARK}.calibration.json")["methods"]["add"][str(feature)]["clear"]
    calibration = {"method": "add", **ranges_of(told(client, index=str(feature))[feature])["add"]}
    mix = json.dumps({"rows": [{"feature": feature, "strength": 0.75, "calibration": calibration}]})
    mixer = {"class_type": "FeatureMixer", "inputs": {"sae": ["2", 0], "mix": mix}}
    plain = {"class_type": "SAEFeature", "inputs": {"feature": feature, "strength": 0.75 * clear}}
    calibrated = draw(client, graph, {"40": mixer, "41": steer_node(["40", 0])})
    expected = draw(client, graph, {"40": plain, "41": steer_node(["40", 0])})
    assert difference(calibrated, expected) < TOLERANCE
    assert difference(calibrated, DRAWN["unsteered"]) > 0.05


def test_new_names_and_ranges_join_the_old_ones(client, graph, old_names):
    before = everything(client)
    client.post("/sae_steering/labels", {**SOURCE, "fingerprint": MARK, "labels": {"23": "tall", "48": None}})
    calibrate = {
        "model": ["1", 0], "sae": ["2", 0], "features": ["40", 0], "positive": ["3", 0], "latent_image": ["5", 0],
        "seed": 3, "steps": 1, "method": "add", "location": "auto", "stream": "auto", "save": True,
    }  # fmt: skip
    client.run(
        {
            **{number: graph[number] for number in LOADERS},
            "40": {"class_type": "SAEFeature", "inputs": {"feature": 23, "strength": 1.0}},
            "41": {"class_type": "CalibrateStrength", "inputs": calibrate},
        }
    )
    after = everything(client)
    assert after[23]["name"] == "tall"
    assert "name" not in after[48]
    assert set(ranges_of(after[23])) == {"add", "swap"}
    for feature in set(range(64)) - {23, 48}:
        one, other = ({**rows[feature], "calibrations": ranges_of(rows[feature])} for rows in (after, before))
        assert one == other
    assert ranges_of(after[48]) == ranges_of(before[48])
    assert ranges_of(after[23])["swap"] == ranges_of(before[23])["swap"]
