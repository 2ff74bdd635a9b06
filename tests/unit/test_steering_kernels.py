"""The kernels that add a row at every token do what torch's own operations do. On a GPU, or in Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

from sae.steering.fast.one_row import LARGEST_RATIO, LONGEST, Push, kernels_work
from sae.steering.record import _facts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are made
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter cuts off where bfloat16 is rounded
ROWS, TOKENS, AT_ONCE = 2, 70, 64  # the kernel that sums up has to go round


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    if find_spec("triton") is not None:
        monkeypatch.setattr("sae.steering.fast.kernels.AT_ONCE", AT_ONCE)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def both(x, row, amounts=None, weight=None):
    """The sum and its facts by the kernels and by torch."""
    from sae.steering.fast.kernels import add_row

    pushed = Push(amounts, row, row.norm(), True, False, weight).added(x)
    facts = _facts(x, pushed.change, pushed.steered, None if weight is None else weight != 0)
    return add_row(x, row, row.norm(), amounts, weight, LONGEST, LARGEST_RATIO), (pushed.steered, facts)


@needs_triton
@pytest.mark.parametrize("width", [24, 320])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_the_kernels_sum_is_torchs(width, weighted, given):
    """Of tokens that lie between others, as the picture's in a joint sequence; weights that broadcast."""
    x = (3 * random(ROWS, TOKENS + 50, width)).to(DTYPE)[:, 50:]
    amounts = random(ROWS, TOKENS, 1, seed=1) if given else None
    weight = torch.tensor([[1.0], [-0.5]], device=DEVICE).expand(ROWS, TOKENS) if weighted else None
    (steered, facts), (wanted, its_facts) = both(x, 0.3 * random(width, seed=2) / width**0.5, amounts, weight)
    step = wanted.float().abs() * torch.finfo(DTYPE).eps + 1e-6
    assert ((steered.float() - wanted.float()).abs() <= step).all()  # the last bit of a sum in float32 can tip a number
    assert (steered != wanted).float().mean() < 2e-3
    torch.testing.assert_close(facts[:3], its_facts[:3], rtol=1e-5, atol=0)
    assert facts[3].item() == pytest.approx(its_facts[3].item(), abs=0.05)  # torch's is of a sample


@needs_triton
def test_tokens_that_are_left_alone_stay_and_do_not_count():
    x = random(1, TOKENS, 24).to(DTYPE)
    weight = (torch.arange(TOKENS, device=DEVICE) % 3 == 0).float().view(1, -1)
    x[0, 1] = torch.nan  # not steered
    (steered, facts), (_, wanted) = both(x, random(24, seed=2), None, weight)
    assert torch.equal(steered[weight == 0].nan_to_num(7), x[weight == 0].nan_to_num(7))
    assert facts.isfinite().all()
    torch.testing.assert_close(facts, wanted, rtol=1e-5, atol=0)


@needs_triton
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("given", [False, True])
def test_what_is_not_finite_is_in_the_facts(bad, given):
    x = random(1, TOKENS, 24).to(DTYPE)
    x[0, 60, 5] = bad
    amounts = torch.ones(1, TOKENS, 1, device=DEVICE) if given else None
    (steered, facts), _ = both(x, random(24, seed=2), amounts)
    assert not facts[2].isfinite() and (facts[1].isnan() or bad == torch.inf)
    assert steered[0, :60].isfinite().all() and not steered[0, 60, 5].isfinite()


@needs_triton
def test_a_row_too_short_for_the_dtype_is_lost_and_said_so():
    x = 100 * torch.ones(1, TOKENS, 24, device=DEVICE).to(DTYPE)
    (steered, facts), _ = both(x, torch.full((24,), 1e-6, device=DEVICE), torch.ones(1, TOKENS, 1, device=DEVICE))
    assert torch.equal(steered, x) and abs(facts[3].item()) < 1e-6


def test_a_device_is_tried_once(monkeypatch):
    """Each steering asks, at each of its places."""
    device, tried = torch.device("cpu", 7), []
    monkeypatch.setattr("sae.steering.fast.one_row._attempt", lambda given: tried.append(given) or True)
    assert kernels_work(device) and kernels_work(device) and tried == [device]


def test_kernels_are_for_graphics_cards():
    assert not kernels_work(torch.device("cpu"))
