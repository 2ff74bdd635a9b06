"""What the Comfy registry asks of a pack (docs.comfy.org/registry/specifications), and what it hands to users."""

import os
import re
import shutil
import subprocess
import zipfile
from xml.etree import ElementTree

import pytest
from pathspec import GitIgnoreSpec

from expected_nodes import NODE_IDS
from project_files import ROOT, project_files, pyproject, relative, requirements

PROJECT, COMFY = pyproject()["project"], pyproject()["tool"]["comfy"]
VERSIONS = re.compile(r"(==|>=|<=|!=|~=|>|<)\d+\.\d+\.\d+")  # anything else comfy-cli drops with a warning
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {
    *(f"Environment :: GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")),
    "Environment :: NPU :: Huawei Ascend",
}
MEGABYTE = 1_000_000


def test_the_name_is_one_that_the_registry_takes():
    name = PROJECT["name"]
    assert len(name) < 100
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([._-][A-Za-z0-9]+)*", name)


def test_the_project_says_what_it_is():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert len(PROJECT["description"]) > 20
    assert PROJECT["requires-python"] == ">=3.10"
    assert set(PROJECT["license"]) == {"file"} and (ROOT / PROJECT["license"]["file"]).is_file()
    assert (ROOT / PROJECT["readme"]).is_file()


@pytest.mark.parametrize("link", ["Repository", "Documentation", "Issues"])
def test_links_lead_to_the_repository(link):
    repository = PROJECT["urls"]["Repository"]
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", repository)
    assert PROJECT["urls"][link].startswith(repository)


def test_classifiers_are_of_the_kinds_that_it_reads():
    systems = [line.split(" :: ", 1)[1] for line in PROJECT["classifiers"] if line.startswith("Operating System")]
    assert systems and all(name.startswith(SYSTEMS) for name in systems)
    accelerators = {line for line in PROJECT["classifiers"] if line.startswith("Environment")}
    assert accelerators and accelerators <= ACCELERATORS


def test_the_pack_says_who_publishes_it_and_what_it_needs():
    assert set(COMFY) == {"PublisherId", "DisplayName", "Icon", "requires-comfyui"}  # with `web` files would load twice
    assert re.fullmatch(r"[a-z][a-z0-9-]*", COMFY["PublisherId"])
    assert COMFY["DisplayName"] and not COMFY["DisplayName"].lower().startswith("comfyui")
    parts = [part.strip() for part in COMFY["requires-comfyui"].split(",")]
    assert all(VERSIONS.fullmatch(part) for part in parts) and parts[0].startswith(">=")


def test_the_icon_is_a_picture_of_the_project_and_no_larger_than_allowed():
    address = COMFY["Icon"]
    root = PROJECT["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com")
    assert address.startswith(f"{root}/main/") and address.endswith(".svg")
    picture = ElementTree.parse(ROOT / address.removeprefix(f"{root}/main/")).getroot()
    assert float(picture.attrib["width"]) <= 800 and float(picture.attrib["height"]) <= 400


@pytest.fixture(scope="module")
def archive():
    """The files that `comfy node pack` puts into its archive, by the rules of .gitignore."""
    left_out = GitIgnoreSpec.from_lines(requirements(".comfyignore"))
    ours = GitIgnoreSpec.from_lines(requirements(".gitignore"))
    return {name for path in project_files() if not ours.match_file(name := relative(path))
            and not left_out.match_file(name)}  # fmt: skip


def test_the_archive_has_what_runs_and_what_is_read(archive):
    single = {"__init__.py", "LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt"}
    folders = {"example_workflows", "locales", "nodes", "sae", "subgraphs", "web"}
    assert {name.split("/")[0] for name in archive} == single | folders
    wanted = {relative(path) for folder in folders for path in project_files(ROOT / folder)}
    assert wanted - archive == set()


def test_the_archive_has_every_nodes_help_page(archive):
    assert {name for name in archive if re.fullmatch(r"web/docs/\w+\.md", name)} == {
        f"web/docs/{node}.md" for node in NODE_IDS
    }


def test_the_archive_is_small(archive):
    assert sum((ROOT / name).stat().st_size for name in archive) < 30 * MEGABYTE


@pytest.fixture(scope="module")
def comfy(tmp_path_factory):
    """comfy-cli's commands in a copy of the project; what they say."""
    program = shutil.which("comfy")
    if program is None:
        pytest.skip("needs comfy-cli: pip install comfy-cli, in an environment of its own on the PATH")
    copy, home = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("home")
    for path in project_files():
        (copy / relative(path)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / relative(path))

    def run(*words):
        command = [program, "--skip-prompt", "--no-enable-telemetry", "node", *words]
        done = subprocess.run(command, cwd=copy, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.folder = copy
    return run


def test_comfy_cli_finds_nothing_to_warn_of(comfy):
    said = comfy("validate")
    assert "All validation checks passed" in said
    assert "warning" not in said.lower()


def test_comfy_cli_packs_these_files(comfy, archive):
    comfy("pack")
    with zipfile.ZipFile(comfy.folder / "node.zip") as packed:
        assert set(packed.namelist()) == archive
