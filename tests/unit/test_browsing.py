"""The order in which all features are looked through, against plain sorting of what is known of them."""

import time

import pytest
import torch

from sae.known.gallery import browse
from sae.known.labels import Label

LABELS = {
    4: Label("sky, blue"),
    1: Label("Blue"),
    3: Label("red", "a blue note of 0.54"),
    7: Label("4 legs"),
    99: Label("blue"),
}
DENSITY = torch.tensor([0.5, 0.0, 0.25, 0.125, 0.25, 0.0, 1.0, 0.01])


def test_all_features_in_each_order():
    assert browse(8, LABELS, DENSITY) == list(range(8))
    assert browse(8, LABELS, DENSITY, sort="name") == [7, 1, 3, 4, 0, 2, 5, 6]
    assert browse(8, LABELS, DENSITY, sort="density") == [6, 0, 2, 4, 3, 7, 1, 5]
    assert browse(8, LABELS, DENSITY, sort="rarity") == [7, 3, 2, 4, 0, 6, 1, 5]  # the dead last


def test_words_and_numbers():
    assert browse(8, LABELS, DENSITY, "BLUE") == [1, 4, 3]  # the nearest name first
    assert browse(8, LABELS, DENSITY, " blue ", "density") == [4, 3, 1]
    assert browse(8, LABELS, DENSITY, "blue red") == [3]
    assert browse(8, LABELS, DENSITY, "4") == [4, 7]  # the number, then the name that has it, but no note
    assert browse(8, LABELS, DENSITY, "4", "rarity") == [4, 7]
    assert browse(8, LABELS, DENSITY, "99") == []
    assert browse(8, LABELS, DENSITY, "9" * 400) == []
    assert browse(8, {}, None, "green") == []


@pytest.mark.parametrize(
    ("sort", "density", "told"),
    [("size", DENSITY, "sort: 'size' came"), ("rarity", None, "sort: rarity needs to know")],
)
def test_what_cannot_be_sorted_is_told(sort, density, told):
    with pytest.raises(ValueError, match=told):
        browse(8, LABELS, density, sort=sort)


def test_a_large_dictionary_is_sorted_while_one_types():
    count = 49_152
    density = torch.rand(count, generator=torch.Generator().manual_seed(0))
    labels = {k: Label(f"name {count - k:06}") for k in range(0, count, 2)}
    started = time.process_time()
    assert browse(count, labels, density, sort="density") == density.argsort(descending=True, stable=True).tolist()
    names = browse(count, labels, density, "name", "name")
    assert names == list(range(count - 2, -1, -2))
    assert time.process_time() - started < 2
