"""The shuffling buffer: every token once, mixed, in bounded room, and in a type that holds large activations."""

import itertools
import math

import pytest
import torch

from sae.training.buffer import MixedBatches, MixingBuffer


def counted_chunks(sizes):
    """Tokens (n, 2) numbered in their first column."""
    numbers = itertools.count()
    for size in sizes:
        yield torch.tensor([[float(next(numbers)), 1.0] for _ in range(size)]).reshape(size, 2)


@pytest.mark.parametrize("sizes", [[7] * 60, [400, 0, 20], [1] * 100 + [320], [3]])
def test_buffer_gives_every_token_once_and_mixed(sizes):
    buffer = MixedBatches(counted_chunks(sizes), MixingBuffer(2, batch_tokens=10, capacity=100, dtype=torch.float32))
    batches = [batch[:, 0].int().tolist() for batch in buffer]
    given = [number for batch in batches for number in batch]
    assert all(len(batch) == 10 for batch in batches)
    assert len(set(given)) == len(given) == sum(sizes) // 10 * 10
    assert set(given) <= set(range(sum(sizes)))
    if given:
        assert max(batches[0]) <= 100 and max(batches[0]) - min(batches[0]) > 50


def test_buffer_reads_only_what_it_has_room_for():
    """An endless source is taken chunk by chunk: never more ahead than the capacity and one chunk."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 8
            yield torch.zeros(8, 2)

    given = 0
    for batch in itertools.islice(MixedBatches(endless(), MixingBuffer(2, batch_tokens=10, capacity=64)), 500):
        given += len(batch)
        assert taken - given <= 64 + 8 + 10
    assert given == 5000


def test_buffer_order_depends_on_the_seed_only():
    def order(seed):
        chunks = counted_chunks([50] * 4)
        return torch.cat(list(MixedBatches(chunks, MixingBuffer(2, batch_tokens=20, capacity=80, seed=seed))))

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))


def test_buffer_holds_activations_beyond_half_precision():
    """Late blocks of large models reach 1e5; bfloat16 keeps eight bits of each number."""
    chunk = torch.tensor([[1e5, -3.2e7], [0.001, 7.0]])
    (batch,) = MixedBatches([chunk], MixingBuffer(2, batch_tokens=2, capacity=4))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch[batch[:, 0].argsort()], chunk.flip(0), rtol=2**-8, atol=0.0)


@pytest.mark.parametrize(
    ("chunk", "dtype", "message"),
    [
        (torch.zeros(3, 5), torch.bfloat16, r"\(n, 2\), but got \(3, 5\)"),
        (torch.tensor([[1.0, math.nan]]), torch.bfloat16, "NaN or beyond 3.38953e[+]38"),
        (torch.tensor([[1.0, math.inf]]).half(), torch.bfloat16, "NaN or beyond 3.38953e[+]38"),
        (torch.tensor([[1.0, -math.inf]]), torch.float32, "NaN or beyond 3.40282e[+]38"),
        (torch.tensor([[1.0, 70_000.0]]), torch.float16, "NaN or beyond 65504.* or a buffer in bfloat16"),
    ],
)
def test_buffer_refuses_bad_activations(chunk, dtype, message):
    with pytest.raises(ValueError, match=message):
        list(MixedBatches([chunk], MixingBuffer(2, batch_tokens=1, capacity=4, dtype=dtype)))
