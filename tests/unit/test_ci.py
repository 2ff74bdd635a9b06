"""The workflows for a public repository: both systems, the floor and the newest ComfyUI, every week; and publishing."""

import re
import shutil
import subprocess

import pytest
import yaml

from project_files import ROOT, pyproject

FOLDER = ROOT / ".github" / "workflows"
COMFYUI = "Comfy-Org/ComfyUI"


def workflow(name):
    found = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads the word `on` as true
    return found


def commands(job):
    return "\n".join(step.get("run", "") for step in job["steps"])


@pytest.fixture
def tests():
    return workflow("tests.yml")


def test_both_systems_run_the_floor_and_the_newest(tests):
    matrix = tests["jobs"]["test"]["strategy"]["matrix"]
    floor = pyproject()["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert matrix["system"] == ["ubuntu-latest", "windows-latest"]
    assert matrix["comfyui"] == [f"v{floor}", "master"]
    oldest = pyproject()["project"]["requires-python"].removeprefix(">=")
    newest = pyproject()["project"]["classifiers"]
    pythons = {line["comfyui"]: line["python"] for line in matrix["include"]}
    assert pythons[f"v{floor}"] == oldest
    assert f"Programming Language :: Python :: {pythons['master']}" in newest


def test_they_run_weekly_and_may_only_read(tests):
    (when,) = tests["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", when["cron"])
    assert {"push", "pull_request", "workflow_call"} <= set(tests["on"])
    assert all(workflow(path.name)["permissions"] == {"contents": "read"} for path in FOLDER.iterdir())


def test_comfyui_comes_by_the_checkout_action_beside_the_pack(tests):
    """Inside the pack's folder its files would count as the project's."""
    steps = tests["jobs"]["test"]["steps"]
    places = {
        step["with"].get("repository"): step["with"]["path"] for step in steps if "checkout" in step.get("uses", "")
    }
    assert places == {None: "pack", COMFYUI: "ComfyUI"}
    assert all("git clone" not in commands(job) for job in tests["jobs"].values())
    assert tests["jobs"]["test"]["env"]["COMFYUI_PATH"].endswith("/ComfyUI")


def test_every_command_is_there(tests):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    said = "\n".join(commands(job) for job in tests["jobs"].values())
    targets = set(re.findall(r"\bmake (\w+)", said))
    assert targets == {"lint", "test", "fuzz"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all((ROOT / path).is_file() for path in re.findall(r"\.\./pack/(\S+)", said))
    assert all((ROOT / path).is_file() for path in re.findall(r"-r (requirements-dev\S*)", said))


def test_a_tag_publishes_after_the_tests():
    publish = workflow("publish.yml")
    assert publish["on"] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    assert publish["jobs"]["tests"] == {"uses": "./.github/workflows/tests.yml"}
    job = publish["jobs"]["publish"]
    assert job["needs"] == "tests" and f"'{pyproject()['tool']['comfy']['PublisherId']}'" in job["if"]
    action = next(step for step in job["steps"] if "publish-node-action" in step.get("uses", ""))
    assert re.fullmatch(r"Comfy-Org/publish-node-action@[0-9a-f]{40}", action["uses"])  # it is given the key
    assert action["with"]["personal_access_token"] == "${{ secrets.REGISTRY_ACCESS_TOKEN }}"


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("sed") is None, reason="needs bash and sed")
def test_the_registry_gets_the_changes_of_the_tags_version_and_of_no_other(tmp_path):
    script = commands(workflow("publish.yml")["jobs"]["publish"])
    version, given = pyproject()["project"]["version"], tmp_path / "env"

    def run(tag):
        environment = {"PATH": "/usr/bin:/bin", "GITHUB_REF_NAME": tag, "GITHUB_ENV": str(given)}
        return subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)

    wrong = run("v0.0.9")
    assert wrong.returncode == 1 and "v0.0.9 is not the version in pyproject.toml" in wrong.stdout
    assert not given.exists()
    assert run(f"v{version}").returncode == 0
    sections = re.split(r"^## (\S+)\n", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    changes = dict(zip(sections[1::2], sections[2::2], strict=True))[version]
    name, body = given.read_text(encoding="utf-8").split("\n", 1)
    end = name.removeprefix("COMFY_NODE_CHANGELOG<<")
    assert body == f"{changes}{end}\n"
