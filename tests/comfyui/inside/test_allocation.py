"""What a tap allocates while a block runs: newer ComfyUI ends the process where such a tensor outlives the block.

Core records the memory of a block's call there, but for what is allocated under `pause_malloc_graph`.
"""

import sys
from contextlib import contextmanager, nullcontext

import comfy.model_prefetch
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_steering_pack.sae.finding.features import FeatureReader
from sae_steering_pack.sae.finding.heatmap import HeatReader
from sae_steering_pack.sae.finding.inspection import SelfTest
from sae_steering_pack.sae.hosts.comfyui import steering as host
from sae_steering_pack.sae.places.moment import Schedule
from sae_steering_pack.sae.places.site import parse_location
from sae_steering_pack.sae.steering.edits import Edit
from tiny_flux import conditioning, make_sae, sample, steer

PLACES = [
    ("transformer_blocks.0", "image"),
    ("transformer_blocks.0-1.update", "text"),
    ("transformer_blocks.1.attn", "image"),
    ("transformer_blocks.1.ff", "image"),
    ("single_transformer_blocks.0-2", "joint"),
    ("single_transformer_blocks.1.update", "image"),
    ("single_transformer_blocks.1.attn", "joint"),
    ("transformer_blocks.0.input", "text"),
    ("single_transformer_blocks.1.input", "image"),
]
SWAP = {"features": (Edit(3, mean=1.0, density=0.5),), "replaces": (Edit(5, mean=1.0, density=0.5),)}
METHODS = {
    "add": {}, "set": {"unit": "raw"}, "scale": {"strength": 2.0}, "boost_if_active": {}, "project_out": {},
    "surgery": {}, "swap": SWAP,
}  # fmt: skip


class Allocations(TorchDispatchMode):
    """Weak references to the memory that operations take: (reference, whether the record was paused)."""

    def __init__(self):
        super().__init__()
        self.made, self.paused = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in known:
                self.made.append((StorageWeakRef(tensor.untyped_storage()), self.paused))
        return out

    @contextmanager
    def pause(self):
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    @property
    def alive(self):
        """Whether the record was paused, for everything that is still there."""
        return [paused for reference, paused in self.made if not reference.expired()]


def watched(model, after_block, after_call, now):
    """A clone whose block slots, blocks included, are watched; the callbacks get the Allocations of a model call.

    While a slot runs, `now` holds them.
    """
    clone = model.clone()

    def around(slot, seen):
        def call(args, extra):
            now[:] = [seen]
            with seen:
                out = slot(args, extra)
            now.clear()
            after_block(seen)
            return out

        return call

    def see(executor, *args, **kwargs):
        *args, options = args
        seen = Allocations()
        slots = {key: around(slot, seen) for key, slot in options["patches_replace"]["dit"].items()}
        options = {**options, "patches_replace": {"dit": slots}}
        out = executor(*args, options, **kwargs)
        after_call(seen)
        return out

    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "allocations", see)
    return clone


def kept_in_each_call(model, **run):
    """How many tensors that were allocated in a block's call live on, after each call of the model."""
    kept, made = [], []

    def count(seen):
        kept.append(len(seen.alive))
        made.append(len(seen.made))

    sample(watched(model, lambda seen: None, count, []), **run)
    assert any(made)
    return kept


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def test_no_tensor_of_a_block_call_is_kept(model, sae, place):
    mask = None if place[1] == "text" else torch.ones(1, 64, 64)
    assert kept_in_each_call(steer(model, sae, *place, mask=mask)) == [0, 0]


@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("method", METHODS)
def test_no_method_keeps_a_tensor(model, method, kind):
    sae = make_sae(k=8 if kind == "topk" else None)
    assert kept_in_each_call(steer(model, sae, *PLACES[0], method=method, **METHODS[method])) == [0, 0]


def test_several_calls_a_step_and_both_sides(model, sae):
    run = {"cfg": 2.0, "sampler": "heun", "steps": 3, "positive": conditioning(2), "negative": conditioning(4, 9)}
    steered = steer(model, sae, *PLACES[4], mask=torch.ones(1, 64, 64), schedule=Schedule(0.3, 1.0), side="opposite")
    kept = kept_in_each_call(steered, **run)
    assert len(kept) == 10 and not any(kept)


def outliving(model, monkeypatch, **run):
    """Of everything that was allocated in a block's call and outlived it: was core's record paused?"""
    found, now = [], []

    @contextmanager
    def pause():
        with now[0].pause() if now else nullcontext():
            yield

    monkeypatch.setattr(comfy.model_prefetch, "pause_malloc_graph", pause, raising=False)
    sample(watched(model, lambda seen: found.extend(seen.alive), lambda seen: None, now), **run)
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def test_what_outlives_a_block_is_not_on_cores_record(model, sae, monkeypatch, place):
    """The new tokens, which the block returns in place of its own or writes into, and nothing else."""
    found = outliving(steer(model, sae, *place), monkeypatch)
    assert all(found) and bool(found) == (
        place[0].endswith(("input", "update")) or place[0].rpartition(".")[2][0].isdigit()
    )


@pytest.mark.parametrize(
    "reader",
    [
        lambda sae, site: FeatureReader(sae, site),
        lambda sae, site: HeatReader(sae, site, [3]),
        lambda sae, site: SelfTest(sae),
    ],
    ids=["features", "heat", "self-test"],
)
def test_what_a_reader_keeps_is_not_on_cores_record(model, monkeypatch, reader):
    sae, site = make_sae(k=8), parse_location("transformer_blocks.0", "image")
    found = outliving(host.observe(model, site, reader(sae, site), sae), monkeypatch)
    assert found and all(found)


def test_a_core_without_a_record(model, sae, monkeypatch):
    monkeypatch.delattr(comfy.model_prefetch, "pause_malloc_graph", raising=False)
    expected = sample(steer(model, sae, *PLACES[0]))
    monkeypatch.delitem(sys.modules, "comfy.model_prefetch")
    assert torch.equal(sample(steer(model, sae, *PLACES[0])), expected)
