"""What messages show of files, and plain copies of what was unpickled."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from hostile_pickle import archive, nested, raw, saved, unfolding
from layouts import D, F, linear
from links import link
from sae.dictionary.autoencoder import SparseAutoencoder
from sae.dictionary.fingerprint import fingerprint
from sae.files.pickle_check import MAX_OPERATIONS
from sae.files.pickle_file import open_pickle
from sae.files.quote import MOST_VALUES, Plain, Unread, quoted, shown
from sae.files.safetensors_file import open_safetensors
from sae.files.tensors import LARGEST, TensorMemory, largest_size
from sae.formats import load
from sae.known.labels import LabelStore, shipped_labels


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("topk", "'topk'"), (None, "None"), (True, "True"), (16, "16"), (0.25, "0.25"), ([3, 4], "[3, 4]"),
        ((1, 2, 3, 4, 5, 6, 7), "[1, 2, 3, 4, 5, 6, …]"), ([], "[]"), ({"k": 3}, "{'k': 3}"), ({}, "{}"),
        (10**400, "a whole number of about 400 digits"), (-(10**5000), "a whole number of about 5000 digits"),
        ("a\nb\u202e\0", "'a\\nb\\u202e\\x00'"), (nested(50_000), "[[[…]]]"), (Unread("a tensor"), "a tensor"),
        (torch.zeros(2), "a Tensor"), (unfolding(), None), ("x" * 10**7, None), ({"a": "y" * 10**6}, None),
    ],
    ids=lambda _: "value",  # pytest would print them
)  # fmt: skip
def test_a_value_in_a_message(value: object, told: str | None) -> None:
    found = quoted(value)
    assert len(found) <= 60 and found.isprintable()
    assert told is None or found == told


def test_a_name_in_a_message() -> None:
    assert shown("cc3m-transformer_blocks.18-1/model.safetensors") == "cc3m-transformer_blocks.18-1/model.safetensors"
    assert shown("雪/модель.pt") == "雪/модель.pt"
    assert shown("a\nb\u2066\ud800") == "a\\nb\\u2066\\ud800"
    long = shown("folder/" + "x" * 10**6 + "/end.pt")
    assert len(long) <= 100 and long.startswith("folder/x") and long.endswith("x/end.pt") and "…" in long
    assert len(shown("\u202e" * 5000)) <= 100


def test_plain_copies() -> None:
    odd = OrderedDict(k=3)
    odd.__dict__.update(items=5, get=6)
    given = {"a": [1, 2.5, "x", None, True], "o": odd, "t": torch.zeros(2), 7: "no name", "big": 10**400, "s": (1, 2)}
    found = Plain().copy(given)
    assert found == {
        "a": [1, 2.5, "x", None, True], "o": {"k": 3}, "t": Unread("a tensor"),
        "big": Unread("a whole number of hundreds of digits"), "s": [1, 2],
    }  # fmt: skip


def test_plain_copies_are_bounded_in_depth_and_count() -> None:
    def count(value: object) -> int:
        entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return 1 + sum(map(count, entries))

    for kind in (list, tuple):
        assert count(Plain().copy({"a": unfolding(kind), "b": unfolding(kind)})) <= MOST_VALUES + 100
    found, depth = Plain().copy(nested(50_000)), 0
    while isinstance(found, list):
        found, depth = found[0], depth + 1
    assert depth == 12 and str(found) == "a list that is too large or nested too deeply"
    history = {"losses": list(range(10_001)), "k": 32}
    assert Plain().copy(history)["k"] == 32, "a long list beside it does not hide what is asked for"


def test_a_state_dict_with_what_training_leaves_in_it_is_read(tmp_path: Path) -> None:
    """An optimizer's state, a history, torch.nn's metadata: none of it is in the way."""
    model = torch.nn.Linear(D, F)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, D)).sum().backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": [0.5] * 20_000, "k": 4}
    content |= {"size": torch.Size([3, 4]), "device": torch.device("cpu"), "dtype": torch.float16, "pair": (1, "a")}
    torch.save(content, tmp_path / "x.pt")
    contents = open_pickle(tmp_path / "x.pt", "x.pt")
    assert torch.equal(contents.source.whole("weight"), model.weight)
    assert (contents.extras["k"], contents.extras["size"], contents.extras["pair"]) == (4, [3, 4], [1, "a"])


def test_a_checkpoint_of_as_many_tensors_as_flux_has_is_read(tmp_path: Path) -> None:
    torch.save({f"block.{n}.weight": torch.full((2,), float(n)) for n in range(1500)}, tmp_path / "x.pt")
    assert open_pickle(tmp_path / "x.pt", "x.pt").source.whole("block.1499.weight").tolist() == [1499, 1499]


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        (b"]" * (MAX_OPERATIONS + 1) + b".", "it holds too many objects"),
        (b"N" * (8 * 2**20) + b".", "it has no data.pkl of a sensible size"),
        (b"]q\x00h\x05.", "its pickle takes more than it holds"),
        (b"\x8f.", "its pickle has EMPTY_SET, which torch.save does not write"),
        (b"ctorch\nFloatStorage\n\x85R.", "its pickle takes more than it holds"),
        (b"ctorch\nFloatStorage\nK\x04\x85R.", "its pickle calls what torch.save does not call"),
        (b"]K\x01K\x02s.", "its pickle fills a list as a dict"),
    ],
)
def test_pickles_that_torch_does_not_write_are_refused(operations: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^x\.pt: this file of torch\.save cannot be read \({told}\)"):
        open_pickle(raw(tmp_path / "x.pt", operations), "x.pt")


def test_the_header_may_be_as_large_as_a_checkpoint_needs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entries = ",".join(f'"layer.{n}.weight":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(92_000))
    text = f"{{{entries}}}".encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert len(open_safetensors(path)[0].infos) == 92_000
    path.write_bytes((9 * 2**20).to_bytes(8, "little") + b" " * (9 * 2**20))
    with pytest.raises(ValueError, match="its header has 9437184 bytes, but no SAE's has more than 8388608"):
        open_safetensors(path)


def test_the_largest_size() -> None:
    assert largest_size(torch.tensor([1.0, -3.0, 2.0])) == 3
    assert largest_size(torch.tensor(-2.0)) == 2 and largest_size(torch.zeros(0)) == 0
    assert largest_size(torch.tensor([[1.0], [float("-inf")]])) == float("inf")
    values = torch.zeros(3_000_000)
    values[2_999_999] = float("nan")
    assert largest_size(values) != largest_size(values)
    assert TensorMemory({"a": torch.full((2,), LARGEST)}).whole("a").tolist() == [LARGEST] * 2
    with pytest.raises(ValueError, match=r"the tensor 'a' comes to the number 1\.01e"):
        TensorMemory({"a": torch.full((2,), 1.01 * LARGEST)}).whole("a")


def test_unread_tensors_are_not_printed(tmp_path: Path) -> None:
    """Their memory was never filled: it holds whatever this program had there before."""
    config = {"use_topk": True, "topk_k": torch.zeros(3), "input_dim": D, "hidden_dim": F}
    path = saved(tmp_path / "m.pt", {"state_dict": linear("pre_bias", "encoder.bias"), "config": config})
    with pytest.raises(ValueError, match=r"its config must give topk_k as a whole number, but has a tensor\.$"):
        load(path)


def test_labels_that_are_a_link_out_of_the_model_folders_are_not_read(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    models.mkdir()
    outside.mkdir()
    (outside / "secret.json").write_text('{"3": "the secret"}')
    (models / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    path = saved(models / "ae.pt", linear("bias", "encoder.bias"))
    link(models / "ae.labels.json", outside / "secret.json")

    def names(*within: Path) -> tuple[dict[int, str], list[str]]:
        store, sae = LabelStore(tmp_path / "user"), load(path, within=within)
        assert isinstance(sae, SparseAutoencoder)
        return {k: v.name for k, v in store.labels(fingerprint(sae), shipped_labels(sae)).items()}, store.warnings

    found, [warning] = names(models)
    assert found == {} and warning.startswith("ae.labels.json: ae.labels.json is a link that leads out of the model")
    assert names(models, outside) == ({3: "the secret"}, [])
    assert names() == ({3: "the secret"}, []), "the library by itself follows links, as the Hub's cache needs"


def test_an_archive_of_nothing_but_records_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", b"\x80\x02}.", [torch.zeros(1)] * 20_001)
    with pytest.raises(ValueError, match="the archive is damaged"):
        open_pickle(path, "x.pt")
