"""Every reference checkpoint: codes and reconstruction, in its own precision and rounded to 16 bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from goldens import GOLDENS
from sae.formats import load

# folder: weight file; what `architecture` must say; noise level
CASES: dict[str, tuple[str, str, float | None]] = {
    "diffract_sae": ("sae_img_18.pt", "auto", 0.62),
    "dl_batchtopk": ("ae.pt", "auto", None),
    "dl_gated": ("ae.pt", "auto", None),
    "dl_topk": ("ae.pt", "auto", None),
    "gytis_clip_sae": ("sparse_autoencoder_128.pth", "auto", None),
    "lucas_topk": ("sae_best.pt", "auto", None),
    "openai_topk": ("autoencoder.pt", "auto", None),
    "overcomplete_topk": ("state_dict.pt", "overcomplete_topk:4", None),
    "prisma_standard_relu": ("weights.pt", "auto", None),
    "reny_gated": ("model.safetensors", "auto", None),
    "reny_jumprelu": ("model.safetensors", "auto", None),
    "reny_standard": ("model.safetensors", "auto", None),
    "reny_topk": ("model.safetensors", "auto", None),
    "saedit_matryoshka": ("pytorch_model.bin", "auto", None),
    "saelens_gated": ("sae_weights.safetensors", "auto", None),
    "saelens_jumprelu": ("sae_weights.safetensors", "auto", None),
    "saelens_standard": ("sae_weights.safetensors", "auto", None),
    "saelens_topk": ("sae_weights.safetensors", "auto", None),
    "saelens_topk_rescale_ln": ("sae_weights.safetensors", "auto", None),
    "saeuron": ("sae.safetensors", "auto", None),
    "saev_topk": ("sae.pt", "auto", None),
    "sdxl_unbox": ("state_dict.pth", "auto", None),
    "sparsify_topk": ("sae.safetensors", "auto", None),
}


def found(name: str) -> Path:
    path = GOLDENS / name / CASES[name][0]
    if not path.is_file():
        pytest.skip(f"no reference checkpoint {name} in {GOLDENS}; the variable SAE_GOLDENS names their folder")
    return path


def expected(path: Path) -> dict[str, Tensor]:
    return torch.load(path.with_name("expected.pt"), map_location="cpu", weights_only=True)


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """A checkpoint's content with its float tensors in another type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return {key: rounded(entry, dtype) for key, entry in value.items()} if isinstance(value, dict) else value


def copy_as(path: Path, folder: Path, dtype: torch.dtype) -> Path:
    for config in path.parent.glob("*.json"):
        shutil.copyfile(config, folder / config.name)
    target = folder / path.name
    if path.suffix == ".safetensors":
        save_file(rounded(load_file(path), dtype), target)
        return target
    content = path.read_bytes()
    line = content.partition(b"\n")[0] + b"\n" if content[:1] == b"{" else b""
    (folder / "rest").write_bytes(content[len(line) :])
    state = torch.load(folder / "rest", map_location="cpu", weights_only=True)
    torch.save(rounded(state, dtype), folder / "rest")
    target.write_bytes(line + (folder / "rest").read_bytes())
    (folder / "rest").unlink()
    return target


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstruction_match(name: str) -> None:
    path = found(name)
    _, architecture, sigma = CASES[name]
    sae, wanted = load(path, architecture=architecture), expected(path)
    torch.testing.assert_close(sae.encode(wanted["x"], sigma), wanted["f"], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(sae.decode(wanted["f"], like=wanted["x"]), wanted["xhat"], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(sae.reconstruct(wanted["x"], sigma), wanted["xhat"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_rounded_copies_match_within_their_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = found(name)
    _, architecture, sigma = CASES[name]
    sae, wanted = load(copy_as(path, tmp_path, dtype), architecture=architecture), expected(path)
    tolerance = 20 * torch.finfo(dtype).eps * float(wanted["f"].max())  # eight products and two biases are rounded
    decoded = sae.decode(wanted["f"], like=wanted["x"])
    torch.testing.assert_close(decoded, wanted["xhat"], rtol=tolerance, atol=tolerance)
    same = (sae.encode(wanted["x"], sigma) - wanted["f"]).abs() <= tolerance
    assert same.float().mean() > 0.98, "rounding may move a code over its threshold, rarely"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("neg_lora/model.safetensors", "this is a LoRA, not an SAE"),
        ("neg_truncated/model.safetensors", "the file is cut off: 976 bytes, but its header describes 1952"),
        ("neg_pickle_code/ae.pt", r"this pickle would run code \(__builtin__.print\) and was not opened"),
        ("overcomplete_topk/model.pt", r"this is a pickled object \(overcomplete.sae.topk_sae.TopKSAE\)"),
    ],
)
def test_what_is_no_sound_sae_is_refused(file: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not (GOLDENS / file).is_file():
        pytest.skip(f"no reference checkpoint {file} in {GOLDENS}; the variable SAE_GOLDENS names their folder")
    with pytest.raises(ValueError, match=f"^{file}: {message}") as caught:
        load(GOLDENS / file)
    assert "\n" not in str(caught.value) and capsys.readouterr().out == "", "the pickle's code would have printed"
