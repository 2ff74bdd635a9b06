"""Directions of other tools: read as a dictionary, and contrasts written for them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from sae.dictionary.contrast import Contrast
from sae.embeddings.residual import state_of
from sae.export.as_control_vector import write_directions
from sae.files.gguf_file import open_gguf, write_gguf
from sae.formats import load
from sae.places.site import parse_location
from sae.steering.delta import Steering
from sae.steering.edits import Edit

D = 12
ROWS = torch.randn(4, D, generator=torch.Generator().manual_seed(4))
LAYERS = (3, 7, 8, 20)


def gguf(folder: Path, layers: tuple[int, ...] = LAYERS, dtype: int = 0, **notes: str) -> Path:
    """A control vector as the format's description has it, by hand."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    notes = {"general.architecture": "controlvector", "controlvector.model_hint": "qwen3", **notes}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(layers), len(notes) + 2)
    for name, value in notes.items():
        head += text(name) + struct.pack("<I", 8) + text(value)
    head += text("controlvector.layer_count") + struct.pack("<II", 4, 24)
    head += text("a.list") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3)
    data = b""
    for row, layer in zip(ROWS, layers, strict=False):
        values = row.numpy().astype("float16" if dtype == 1 else "float32").tobytes()
        head += text(f"direction.{layer}") + struct.pack("<IQIQ", 1, D, dtype, len(data))
        data += values + bytes(-len(values) % 32)
    path = folder / "happy.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def npy(folder: Path) -> Path:
    numpy.save(folder / "states.npy", ROWS.numpy())
    return folder / "states.npy"


def npz(folder: Path, **arrays: object) -> Path:
    found = {"dirs": ROWS.numpy(), "blocks": numpy.array(LAYERS), **arrays}
    numpy.savez(folder / "dirs.npz", **{name: array for name, array in found.items() if array is not None})
    return folder / "dirs.npz"


def layers(folder: Path) -> Path:
    save_file({f"layer{n}.v": row.clone() for n, row in zip(LAYERS, ROWS, strict=True)}, folder / "v.safetensors")
    return folder / "v.safetensors"


@pytest.mark.parametrize("write", [gguf, npy, npz, layers])
def test_each_is_a_dictionary_of_its_directions(write, tmp_path):
    sae = load(write(tmp_path))
    assert (sae.d_in, sae.d_sae, sae.site) == (D, 4, None)
    assert torch.equal(sae.direction([2, 0]), ROWS[[2, 0]])
    x = torch.randn(3, 5, D)
    wanted = (x @ ROWS.T / ROWS.square().sum(1)).relu()
    torch.testing.assert_close(sae.encode(x), wanted)
    torch.testing.assert_close(sae.codes(x, [3]), wanted[..., [3]])
    [note] = sae.origin.notes
    first = 0 if write is npy else 3
    assert f"feature 0 of {first}, 1 of" in note and f"directions:{first} in the input architecture" in note
    steered = Steering(sae, [Edit(1, 2.0)], "add", 1.0, "raw").delta(x)
    torch.testing.assert_close(steered, (2 * ROWS[1]).expand_as(x))


@pytest.mark.parametrize(("write", "state"), [(gguf, 8), (npz, 8), (layers, 8), (npy, 2)])
def test_one_layers_direction_tells_its_hidden_state(write, state, tmp_path):
    """Behind block 7 is hidden state 8; row 2 of an array of states is hidden state 2."""
    sae = load(write(tmp_path), architecture=f"directions:{2 if write is npy else 7}")
    assert sae.d_sae == 1 and torch.equal(sae.direction([0])[0], ROWS[2 if write is npy else 1])
    assert state_of(sae).state == state and sae.origin.notes == ()


def test_a_single_direction(tmp_path):
    numpy.save(tmp_path / "one.npy", ROWS[0].numpy())
    numpy.savez(tmp_path / "one.npz", d=ROWS[0].numpy())
    for name in ("one.npy", "one.npz"):
        sae = load(tmp_path / name, name=f"transformer_blocks.5-image/{name}")
        assert sae.d_sae == 1 and torch.equal(sae.direction([0])[0], ROWS[0])
        assert str(sae.site) == "transformer_blocks.5 (image)" and sae.origin.notes == ()


def test_half_precision_and_the_notes_of_a_gguf(tmp_path):
    sae = load(gguf(tmp_path, dtype=1))
    assert torch.equal(sae.direction([0])[0], ROWS[0].half().float())
    assert (sae.origin.layout, sae.origin.config) == ("control vectors (GGUF)", {"model": "qwen3"})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: gguf(folder, **{"general.architecture": "llama"}), "this GGUF file holds a 'llama'"),
        (lambda folder: gguf(folder, dtype=8), "does not hold floating point numbers"),
        (lambda folder: npz(folder, blocks=numpy.array([1, 1, 2, 3])), "must name a block for each of the 4"),
        (lambda folder: npz(folder, blocks=numpy.array([1.5, 1, 2, 3])), "must hold whole numbers"),
        (lambda folder: npz(folder, dirs=numpy.zeros((2, 3, 4), "float32"), blocks=None), r"the shape \[2, 3, 4\]"),
        (lambda folder: npz(folder, dirs=numpy.full((4, D), numpy.nan, "float32")), "holds NaN or infinite"),
    ],
)
def test_what_is_wrong_is_told(write, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load(write(tmp_path)).direction([0])
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="no direction of block 5; there are 3, 7, 8, 20"):
        load(gguf(tmp_path), architecture="directions:5")


def test_directions_of_several_lengths_are_refused(tmp_path):
    save_file({"layer1.v": torch.ones(3), "layer2.v": torch.ones(4)}, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="must be vectors of one length"):
        load(tmp_path / "v.safetensors")


def test_hostile_gguf_files_end_in_a_sentence(tmp_path):
    whole = gguf(tmp_path).read_bytes()
    huge = struct.pack("<Q", 2**62)
    broken = {
        "empty": b"", "mark only": b"GGUF", "cut": whole[: len(whole) // 2], "tail": whole[:-200],
        "version": whole[:4] + struct.pack("<I", 9) + whole[8:], "tensors": whole[:8] + huge + whole[16:],
        "notes": whole[:16] + huge + whole[24:], "name": whole[:24] + huge + whole[32:],
        "nested": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 9, 1),
        "alignment": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 17) + b"general.alignment" + struct.pack("<II", 4, 0),
        "list": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<II", 9, 12) + huge,
    }  # fmt: skip
    for name, content in broken.items():
        path = tmp_path / "broken.gguf"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.gguf") as caught:
            load(path)
        assert "\n" not in str(caught.value), name
    step = max(1, len(whole) // 300)
    for place in range(0, len(whole), step):  # any one byte
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            load(path).direction([0])
        except ValueError as error:
            assert "\n" not in str(error)


def made(location: str | None = None, name: str = "token_embeddings-layer_17", seed: int = 1):
    random = torch.Generator().manual_seed(seed)
    both = Contrast.of(torch.randn(3, D, generator=random), torch.randn(3, D, generator=random), paired=True)
    return both.dictionary(parse_location(location) if location else None, name)


def test_a_contrast_comes_back_from_gguf(tmp_path):
    contrast = made()
    path = write_directions([contrast], tmp_path / "mine" / "mine", "gguf")
    assert path == tmp_path / "mine" / "mine.gguf"
    source, notes = open_gguf(path, "mine.gguf")
    assert set(source.infos) == {"direction.17"}
    assert notes == {
        "general.architecture": "controlvector", "controlvector.model_hint": "", "controlvector.layer_count": 18,
    }  # fmt: skip
    back = load(path, architecture="directions:17")
    assert torch.equal(back.direction([0]), contrast.direction([0])) and state_of(back).state == 18


def test_several_places_in_one_file_of_each_form(tmp_path):
    contrasts = [made(f"transformer_blocks.{block}.attn", "x", block) for block in (2, 11)]
    for form in ("gguf", "npz"):
        back = load(write_directions(contrasts, tmp_path / "set", form))
        assert torch.equal(back.direction([0, 1]), torch.cat([one.direction([0]) for one in contrasts]))
        assert "feature 0 of 2, 1 of 11" in back.origin.notes[0]
    with numpy.load(tmp_path / "set.npz") as arrays:
        assert arrays["blocks"].tolist() == [2, 11] and arrays["dirs"].dtype == "float32"


def test_what_a_form_cannot_hold_is_told(tmp_path):
    nowhere = made(name="pooled_output")
    back = load(write_directions([nowhere], tmp_path / "d", "npz"))
    assert torch.equal(back.direction([0]), nowhere.direction([0]))
    for dictionaries, form, message in (
        ([nowhere], "gguf", "but pooled_output tells none; use npz"),
        ([made("transformer_blocks.2"), made("transformer_blocks.2.attn")], "npz", "several are of block 2"),
        ([nowhere], "npz", "d.npz is there already"),
        ([nowhere], "npy", "format: 'npy' is none"),
    ):
        with pytest.raises(ValueError, match=message):
            write_directions(dictionaries, tmp_path / ("d" if message.startswith("d.npz") else "e"), form)


def test_what_we_write_as_gguf_has_its_data_aligned(tmp_path):
    write_gguf(tmp_path / "a.gguf", {"a": torch.arange(3.0), "b": torch.ones(2, 5)}, {"general.architecture": "x"})
    source, _ = open_gguf(tmp_path / "a.gguf", "a.gguf")
    assert all(info.start % 32 == 0 for info in source.infos.values())
    assert torch.equal(source.whole("a"), torch.arange(3.0)) and source.whole("b").shape == (2, 5)
