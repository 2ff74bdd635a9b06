"""models/sae, together with what extra_model_paths.yaml adds before or after the pack has loaded."""

from pathlib import Path

import folder_paths
import pytest
from utils.extra_config import load_extra_path_config

from sae_steering_pack.sae.formats.named_tensors import SUFFIXES
from sae_steering_pack.sae.hosts.comfyui.model_folder import register, sae_names, sae_path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """models/sae and another folder, each with a weight file and other files; ComfyUI knows neither yet."""
    own, other = tmp_path / "models" / "sae", tmp_path / "other"
    for folder, name in ((own, "a"), (other, "b")):
        (folder / "sub").mkdir(parents=True)
        for path in (f"{name}.safetensors", f"sub/{name}.safetensors", f"{name}.stats.safetensors", f"{name}.json"):
            (folder / path).write_bytes(b"")
    (tmp_path / "extra.yaml").write_text(f"tests:\n  base_path: {tmp_path.as_posix()}\n  sae: other\n")
    (tmp_path / "secret.safetensors").write_bytes(b"")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    kinds = {kind: entry for kind, entry in folder_paths.folder_names_and_paths.items() if kind != "sae"}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    return tmp_path


def read_yaml(folders):
    load_extra_path_config(str(folders / "extra.yaml"))


@pytest.mark.parametrize("steps", [(read_yaml, register), (register, read_yaml), (read_yaml, register, register)])
def test_both_folders_are_listed_whatever_comes_first(folders, steps):
    for step in steps:
        step(folders) if step is read_yaml else step()
    names = [
        "a.safetensors",
        "b.safetensors",
        str(Path("sub", "a.safetensors")),
        str(Path("sub", "b.safetensors")),
    ]
    assert sae_names() == sorted(names)
    assert sae_path("a.safetensors") == folders / "models" / "sae" / "a.safetensors"
    assert sae_path("b.safetensors") == folders / "other" / "b.safetensors"
    paths, extensions = folder_paths.folder_names_and_paths["sae"]
    assert len(paths) == 3 and set(extensions) == set(SUFFIXES)


def test_file_types_of_another_pack_stay(folders):
    folder_paths.folder_names_and_paths["sae"] = ([str(folders / "other")], {".sft"})
    register()
    assert set(folder_paths.folder_names_and_paths["sae"][1]) == {".sft", *SUFFIXES}


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "..\\secret.safetensors",
        "/etc/passwd",
        "a.safetensors\0",
        "",
        "a.json",
        "c.safetensors",
    ],
)
def test_a_name_that_is_not_listed_is_refused(folders, name):
    register()
    with pytest.raises(
        ValueError, match=r"^sae_name: .* is not among the files in models/sae; choose one of a\.safetensors"
    ) as caught:
        sae_path(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_has_gone_since_it_was_listed(folders, monkeypatch):
    register()
    monkeypatch.setattr("sae_steering_pack.sae.hosts.comfyui.model_folder.sae_names", lambda: ["gone.safetensors"])
    with pytest.raises(ValueError, match=r"^sae_name: 'gone\.safetensors' is no longer in models/sae"):
        sae_path("gone.safetensors")


def test_an_empty_folder_says_what_to_do(folders):
    (folders / "models" / "sae").rename(folders / "moved")
    register()
    kinds = r"\.safetensors, \.pt, \.pth, \.bin, \.npz, \.npy, \.zip, \.gguf"
    with pytest.raises(ValueError, match=rf"choose one after putting a weight file \({kinds}\) there"):
        sae_path("a.safetensors")
