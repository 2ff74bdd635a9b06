"""RE-N-Y checkpoints (TopK, standard, gated, JumpReLU), and what every family refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from goldens import copy_as, expected, golden
from sae.dictionary.statistics import FeatureStatistics, statistics_path, write_statistics
from sae.formats import load

D, F, K = 10, 32, 4
CONFIGS: dict[str, dict[str, Any]] = {
    "topk": {"features": D, "pages": F, "k": K, "sample": None},
    "standard": {"features": D, "pages": F},
    "gated": {"features": D, "pages": F, "device": None},
    "jumprelu": {"features": D, "pages": F, "bandwidth": 0.001, "jumpthreshold": 0.001},
}
every_layout = pytest.mark.parametrize("layout", CONFIGS)
every_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def tensors_for(layout: str) -> dict[str, Tensor]:
    torch.manual_seed(11)
    tensors = {"encoder.weight": torch.randn(F, D), "decoder.weight": torch.randn(D, F) * 0.6}
    if layout == "gated":
        vectors = {name: torch.randn(F) * 0.4 for name in ("r_mag", "gate_bias", "mag_bias")}
        return tensors | vectors | {"decoder_bias": torch.randn(D)}
    tensors |= {"bias": torch.randn(D), "encoder.bias": torch.randn(F)}
    return tensors | ({"logthres": torch.randn(F)} if layout == "jumprelu" else {})


def write(folder: Path, tensors: dict[str, Tensor], config: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "model.safetensors"


def formula(layout: str, x: Tensor, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(f, x̂), feature by feature, from the published description of the layout."""
    bias = t["decoder_bias"] if layout == "gated" else t["bias"]
    f, out = torch.zeros(len(x), F), bias.expand(len(x), D).clone()
    for n in range(F):
        e = (x - bias) @ t["encoder.weight"][n]
        column = t["decoder.weight"][:, n]
        length = column.square().sum().sqrt()
        if layout == "gated":
            opened = (e + t["gate_bias"][n] > 0).float()
            f[:, n] = opened * (e * t["r_mag"][n].exp() + t["mag_bias"][n]).clamp_min(0) * length
        else:
            f[:, n] = (e + t["encoder.bias"][n]).clamp_min(0) * (length if layout == "standard" else 1)
        if layout == "jumprelu":
            f[:, n] *= f[:, n] > t["logthres"][n].exp()
    if layout == "topk":
        f = torch.where(f >= f.sort(-1).values[:, -K, None], f, 0.0)
    scale = t["decoder.weight"].norm(dim=0) if layout in ("gated", "standard") else torch.ones(F)
    for n in range(F):
        out += (f[:, n] / scale[n])[:, None] * t["decoder.weight"][:, n]
    return f, out


def close(actual: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)


@every_layout
def test_codes_reconstruction_and_directions_follow_the_formula(layout: str, tmp_path: Path) -> None:
    tensors = tensors_for(layout)
    sae = load(write(tmp_path, tensors, CONFIGS[layout]))
    x = torch.randn(20, D) * 2
    f, back = formula(layout, x, tensors)
    assert (sae.d_in, sae.d_sae) == (D, F)
    close(sae.encode(x), f)
    close(sae.codes(x, [5, 30, 0]), f[:, [5, 30, 0]])
    close(sae.reconstruct(x), back)
    columns = tensors["decoder.weight"].T
    unit = columns / columns.norm(dim=1, keepdim=True)
    close(sae.direction([5, 30, 0]), (unit if layout in ("gated", "standard") else columns)[[5, 30, 0]])


@every_layout
def test_loading_for_directions_reads_those_columns_alone(layout: str, tmp_path: Path) -> None:
    sae = load(write(tmp_path, tensors_for(layout), CONFIGS[layout]))
    source = sae.weights.tensors["decoder"].source
    assert source.bytes_read == 0
    sae.direction([2])
    assert source.bytes_read == 4 * D
    assert sae.weights.materialised == ()


@every_half
@every_layout
def test_half_precision_files_are_read_as_they_are(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {key: tensor.to(dtype) for key, tensor in tensors_for(layout).items()}
    sae = load(write(tmp_path, stored, CONFIGS[layout]))
    x = torch.randn(20, D)
    f, back = formula(layout, x, {key: tensor.float() for key, tensor in stored.items()})
    close(sae.encode(x), f)
    close(sae.reconstruct(x), back)


@every_layout
def test_reference_checkpoints(layout: str) -> None:
    path = golden(f"reny_{layout}")
    sae, reference = load(path), expected(path)
    close(sae.encode(reference["x"]), reference["f"])
    close(sae.decode(reference["f"]), reference["xhat"])
    close(sae.reconstruct(reference["x"]), reference["xhat"])


@every_half
@every_layout
def test_rounded_reference_checkpoints(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = golden(f"reny_{layout}")
    reference, sae = expected(path), load(copy_as(path, tmp_path, dtype))
    tolerance = 20 * torch.finfo(dtype).eps  # of the largest code: eight products and two biases are rounded
    close(sae.decode(reference["f"]), reference["xhat"], tolerance * float(reference["f"].max()))
    same = (sae.encode(reference["x"]) - reference["f"]).abs() <= tolerance * float(reference["f"].max())
    assert same.float().mean() > 0.98, "rounding may move a code over its threshold, rarely"


def test_site_and_name_come_from_the_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "cc3m-transformer_blocks.0-1", tensors_for("topk"), CONFIGS["topk"])
    sae = load(path)
    assert sae.name == "cc3m-transformer_blocks.0-1/model"
    assert str(sae.site) == "transformer_blocks.0 (image)"
    assert load(path, "flux/first").site is None


def test_statistics_beside_the_weights_are_read_and_checked(tmp_path: Path) -> None:
    path = write(tmp_path, tensors_for("topk"), CONFIGS["topk"])
    assert load(path).statistics is None
    write_statistics(FeatureStatistics(torch.ones(F), torch.arange(F) * 1.0, torch.zeros(F), 7), statistics_path(path))
    statistics = load(path).statistics
    assert statistics is not None and statistics.max[3] == 3 and statistics.tokens == 7
    write_statistics(
        FeatureStatistics(torch.ones(F + 1), torch.ones(F + 1), torch.ones(F + 1), 7), statistics_path(path)
    )
    with pytest.raises(ValueError, match=f"statistics are of {F + 1} features"):
        load(path)


def test_a_jumprelu_file_needs_no_config(tmp_path: Path) -> None:
    assert load(write(tmp_path, tensors_for("jumprelu"))).architecture.kind == "jumprelu"


@pytest.mark.parametrize("layout", ["topk", "gated"])
@pytest.mark.parametrize("config", [None, {}, {"k": K}])
def test_layouts_that_only_the_config_tells_apart_are_not_guessed(layout: str, config: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.safetensors: its tensors alone do not tell the layout .*config\.json"):
        load(write(tmp_path, tensors_for(layout), config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": D + 1}, f"says features = {D + 1}, but the tensors have {D}"),
        ({"pages": D}, f"says pages = {D}, but the tensors have {F}"),
        ({"k": F + 1}, f"k is {F + 1}, but must lie between 1 and the number of features, {F}"),
        ({"k": 0}, "k is 0"),
        ({"k": 0.5}, "must give k as a whole number, but has 0.5"),
        ({"k": None}, "must give k as a whole number, but has None"),
        ({"sample": True}, "sample = True"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, tensors_for("topk"), CONFIGS["topk"] | change))


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_broken_config_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, tensors_for("topk"))
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"model.safetensors: config.json beside it"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": torch.zeros(F + 1, D)}, "does not fit"),
        ({"decoder.weight": torch.zeros(F, D)}, f"says features = {D}, but the tensors have {F}"),
        ({"bias": torch.zeros(D + 1)}, "bias has the shape"),
        ({"encoder.bias": torch.zeros(F, 1)}, "encoder.bias has the shape"),
        ({"encoder.weight": torch.zeros(F, D, dtype=torch.int8)}, "does not hold floating point"),
        ({"extra": torch.zeros(3)}, "unknown tensor 'extra'"),
    ],
)
def test_tensors_that_contradict_each_other_are_refused(
    change: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, tensors_for("topk") | change, CONFIGS["topk"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_when_they_are_read(value: float, tmp_path: Path) -> None:
    tensors = tensors_for("topk")
    tensors["decoder.weight"][1, 6] = value
    sae = load(write(tmp_path, tensors, CONFIGS["topk"]), "mine/model.safetensors")
    assert sae.direction([5, 7]).isfinite().all()
    for call in (lambda: sae.direction([6]), lambda: sae.reconstruct(torch.zeros(1, D))):
        with pytest.raises(ValueError, match=r"mine/model.safetensors: the tensor 'decoder.weight' holds NaN"):
            call()


def _lora(path: Path) -> None:
    save_file({"blocks_0.lora_down.weight": torch.zeros(4, 8), "blocks_0.lora_up.weight": torch.zeros(8, 4)}, path)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _too_long(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"tail")


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1208168816\n", encoding="utf-8")


def _web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Not found</body></html>", encoding="utf-8")


def _bad_header(path: Path) -> None:
    path.write_bytes((40).to_bytes(8, "little") + b'{"bias": {"dtype": "F32", "shape": [2]}}' + bytes(8))


def _other_model(path: Path) -> None:
    save_file({"img_in.weight": torch.zeros(4, 4)}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lora, "this is a LoRA, not an SAE"),
        (_cut_off, "the file is cut off"),
        (_too_long, "the file is too long"),
        (_pointer, "this is a Git LFS pointer"),
        (_web_page, "not a complete safetensors file"),
        (_bad_header, "the header cannot be read"),
        (_other_model, r"its tensors \(img_in.weight, ...\) are of no SAE layout"),
        (lambda path: path.write_bytes(b""), "not a complete safetensors file"),
        (Path.unlink, "may have been removed"),
    ],
)
def test_files_that_hold_no_sae_are_named(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, tensors_for("topk"), CONFIGS["topk"])
    spoil(path)
    for name in ("mine/model", "mine/model.safetensors"):
        with pytest.raises(ValueError, match=f"^mine/model.safetensors: .*{message}") as caught:
            load(path, name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("neg_lora", "LoRA"), ("neg_truncated", "cut off")])
def test_reference_files_that_hold_no_sae(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name}/model.safetensors: .*{message}"):
        load(golden(name))


@pytest.mark.parametrize("suffix", [".ckpt", ".mat", ".pkl.gz", ".msgpack", ""])
def test_other_file_types_are_refused_unopened(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not read; give a file of the kinds \.safetensors, \.pt"):
        load(tmp_path / f"ae{suffix}")


def test_a_file_that_goes_away_or_changes_after_loading_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, tensors_for("topk"), CONFIGS["topk"])
    sae = load(path)
    write(tmp_path, {"other": torch.zeros(3)})
    with pytest.raises(ValueError, match="changed since it was loaded"):
        sae.direction([0])
    path.unlink()
    with pytest.raises(ValueError, match="may have been removed"):
        sae.part("encoder")
