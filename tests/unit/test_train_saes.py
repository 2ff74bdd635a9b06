"""Collecting activations of the Shapes transformer and training its SAEs, on random weights."""

import json
import sys

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from lab.train import saes as train_saes
from lab.train import shapes_tokens
from lab.train.shapes_tokens import TokenStore, collect_tokens
from sae.demo.shapes import Prompt
from sae.demo.shapes_model import build_transformer, sample
from sae.demo.shipped_weights import ATTENTION_SET, SAE_NAMES, TEXT_SAE
from sae.formats import load
from sae.places.moment import COND, Moment
from sae.places.site import parse_location, site_from_name

pytest.importorskip("diffusers")

NAMES = [TEXT_SAE, "shapes-transformer_blocks.1-image"]
MOMENT = Moment(1.0, (COND,), 5, 16, 16)


@pytest.fixture(autouse=True)
def small_calls(monkeypatch):
    monkeypatch.setattr(shapes_tokens, "PICTURES", 8)
    monkeypatch.setattr(shapes_tokens, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(train_saes, "FRESH_TOKENS", 500)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return build_transformer().eval()


def test_folder_names_tell_their_sites():
    """The set is every attention output of the picture's stream, and nothing else."""
    sites = [site_from_name(name) for name in SAE_NAMES]
    assert len(set(sites)) == len(SAE_NAMES) == 9 and None not in sites
    found = [site_from_name(name) for name in ATTENTION_SET]
    assert {(site.point, site.stream) for site in found} == {("attn", "image")}
    assert [(site.kind, *site.blocks) for site in found] == [
        ("double", 0), ("double", 1), ("single", 0), ("single", 1), ("single", 2), ("single", 3),
    ]  # fmt: skip


def test_store_takes_its_share_of_each_call_and_stops_when_full():
    store = TokenStore(tokens=40, share=0.25, seed=0)
    calls = torch.arange(3 * 2 * 32, dtype=torch.float32).view(3, 2, 32, 1).expand(-1, -1, -1, 7)
    for call in calls:
        store.see(call, MOMENT)
    assert store.full and store.rows.shape == (40, 7) and store.rows.dtype == torch.float16
    numbers = store.rows[:, 0].tolist()
    assert len(set(numbers)) == 40
    assert [sum(low <= n < low + 64 for n in numbers) for low in (0, 64, 128)] == [16, 16, 8]
    assert torch.equal(store.rows, store.rows[:, :1].expand(-1, 7))


def test_collected_tokens_are_those_of_the_module(transformer):
    """The module's own outputs, seen by a plain hook, hold every token that was collected."""
    site = parse_location("transformer_blocks.1.attn", "image")
    seen = []
    attention = transformer.transformer_blocks[1].attn
    handle = attention.register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
    tokens = collect_tokens(transformer, {"here": site}, 600, seed=1)["here"]
    handle.remove()
    every = torch.cat(seen).flatten(0, 1).half()
    assert tokens.shape == (600, 128)
    distance = torch.cdist(tokens[::20].float(), every.float(), compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.amin(dim=1).max() == 0


def test_seeds_share_no_tokens_and_hooks_are_gone(transformer):
    site = {"here": parse_location("transformer_blocks.0", "image")}
    first, again, other = (collect_tokens(transformer, site, 400, seed)["here"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not (first[:, None, :4] == other[None, :, :4]).all(dim=-1).any()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in transformer.modules())
    assert hooks == 0


def test_command_writes_saes_that_load(transformer, tmp_path, monkeypatch):
    torch.save(transformer.state_dict(), tmp_path / "transformer.pt")
    options = ["--transformer", tmp_path / "transformer.pt", "--out", tmp_path / "saes", "--sites", *NAMES]
    options += ["--tokens", 600, "--steps", 5, "--batch", 256, "--features", 64, "--k", 4]
    monkeypatch.setattr(sys, "argv", ["train_saes", *map(str, options)])
    train_saes.main()
    numbers = json.loads((tmp_path / "saes/evaluation.json").read_text())
    assert set(numbers) == set(NAMES)
    for name in NAMES:
        sae = load(tmp_path / "saes" / name / "model.safetensors")
        assert sae.site == site_from_name(name)
        assert site_from_name(sae.origin.hook) == sae.site  # the file tells it, not only the folder's name
        assert (sae.d_in, sae.d_sae, sae.statistics.tokens) == (128, 64, 500)
        assert numbers[name]["l0"] <= 4
        assert float(sae.statistics.density.sum()) == pytest.approx(numbers[name]["l0"], abs=1e-4)


def test_averaged_weights_of_a_checkpoint_are_taken(transformer, tmp_path):
    worse = {name: torch.zeros_like(value) for name, value in transformer.state_dict().items()}
    torch.save({"model": worse, "average": AveragedModel(transformer).state_dict(), "step": 3}, tmp_path / "state.pt")
    loaded = train_saes.load_transformer(tmp_path / "state.pt")
    prompt = [Prompt("red", "cross", "left", "big", "white")]
    assert torch.equal(sample(loaded, prompt, [0], steps=1), sample(transformer, prompt, [0], steps=1))
