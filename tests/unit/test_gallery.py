"""Pictures on which features fire: the peaks of a run against a plain loop, the gallery against brute force."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sae.dictionary.activations import SparseCodes
from sae.dictionary.owner import Owner
from sae.drawing.pictures import thumbnail
from sae.finding.features import PeakTally
from sae.known import gallery as module
from sae.known.gallery import EACH, Gallery, Shown, add_pictures, read_gallery, write_gallery
from sae.places.moment import COND, Moment

D_SAE = 12
OWNER = Owner("0123456789abcdef" * 2, "mine")
OTHER = Owner("f" * 32, "theirs")


def codes_of(seed: int, tokens: int, batch: int = 2) -> SparseCodes:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand((batch, tokens, 3), generator=generator).sub(0.3).clamp_min(0)
    indices = torch.rand((batch, tokens, D_SAE), generator=generator).topk(3).indices
    return SparseCodes(values, indices)


def moment(sigma: float) -> Moment:
    return Moment(sigma, (COND,), 5, 6, 8)  # 3 by 4 tokens


@pytest.mark.parametrize("stream", ["image", "joint", "text"])
def test_peaks_are_the_largest_activations_of_the_calls_that_see_a_picture(stream: str) -> None:
    tokens = {"image": 12 + 4, "joint": 5 + 12 + 4, "text": 5}[stream]  # four of a reference picture
    tally = PeakTally(D_SAE, stream)
    calls = [codes_of(seed, tokens) for seed in range(3)]
    for codes, sigma in zip(calls, (1.0, 0.75, 0.4), strict=True):
        tally.add(codes, moment(sigma))
    first = 5 if stream == "joint" else 0
    seen = [codes.to_dense(D_SAE)[:, first : first + (5 if stream == "text" else 12)] for codes in calls[1:]]
    dense = torch.stack(seen).amax(0)  # (batch, tokens, d_sae)
    strength, spot = tally.peaks()
    assert torch.equal(strength, dense.amax(1))
    assert (strength > 0).float().mean() > 0.8
    if stream == "text":
        assert spot.isnan().all()
        return
    for picture, feature in (strength > 0).nonzero().tolist():
        token = int(dense[picture, :, feature].argmax())
        assert spot[picture, feature].tolist() == pytest.approx([(token // 4 + 0.5) / 3, (token % 4 + 0.5) / 4])


def picture(number: int) -> bytes:
    return f"picture {number}".encode()


def filled(count: int, seed: int = 0) -> tuple[Gallery, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand((count, D_SAE), generator=generator).sub(0.2).clamp_min(0)
    strength[:, 3] = 0  # a feature that fires on nothing
    spot = torch.rand((count, D_SAE, 2), generator=generator)
    gallery = Gallery(D_SAE)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    for part in (order[: count // 2], order[count // 2 :]):
        gallery.add([picture(n) for n in part], [f"prompt {n}" for n in part], strength[part], spot[part])
    return gallery, strength, spot


def test_every_feature_shows_the_pictures_on_which_it_fires_most() -> None:
    gallery, strength, spot = filled(20)
    for feature in range(D_SAE):
        best = [n for n in strength[:, feature].argsort(descending=True).tolist() if strength[n, feature] > 0][:EACH]
        shown = gallery.of(feature)
        assert [gallery.pictures[one.picture] for one in shown] == [picture(n) for n in best]
        assert [gallery.prompts[one.picture] for one in shown] == [f"prompt {n}" for n in best]
        for one, n in zip(shown, best, strict=True):
            assert one.strength == strength[n, feature]
            assert one.spot == tuple(spot[n, feature].tolist())
    assert gallery.of(3) == []
    assert len(gallery.pictures) <= 20 and set(gallery.which.flatten().tolist()) - {-1} == set(
        range(len(gallery.pictures))
    )


def test_a_picture_comes_once(tmp_path: Path) -> None:
    gallery, strength, spot = filled(6)
    before = list(gallery.pictures), gallery.which.clone()
    gallery.add([picture(n) for n in range(6)], [""] * 6, strength, spot)
    kept = [n for n in range(6) if picture(n) in before[0]]
    assert len(gallery.pictures) == len(set(gallery.pictures)) and len(kept) == len(before[0])


def test_when_there_is_no_room_the_pictures_go_that_fewest_features_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PICTURES", 5)
    gallery, *_ = filled(30)
    assert len(gallery.pictures) == 5
    assert set(gallery.which.flatten().tolist()) == {-1, 0, 1, 2, 3, 4}
    assert (gallery.strength[gallery.which < 0] == 0).all()
    assert (gallery.strength.diff(dim=1) <= 0).all()


def test_a_gallery_reads_back_as_it_was_written(tmp_path: Path) -> None:
    gallery, *_ = filled(20)
    path = tmp_path / "deep" / "sae.gallery.safetensors"
    write_gallery(path, gallery, OWNER)
    back = read_gallery(path, OWNER)
    assert back.pictures == gallery.pictures and back.prompts == gallery.prompts
    assert torch.equal(back.which, gallery.which) and torch.equal(back.strength, gallery.strength)
    torch.testing.assert_close(back.spot[back.which >= 0], gallery.spot[gallery.which >= 0], rtol=0, atol=5e-4)
    with pytest.raises(ValueError, match=r"its pictures belong to another SAE than theirs \(ffffffff\); make them"):
        read_gallery(path, OTHER)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_pictures_of_a_second_run_join_those_of_the_first_and_another_saes_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "one.gallery.safetensors"
    spot = torch.full((1, D_SAE, 2), 0.5)
    for number, owner in ((0, OWNER), (1, OWNER), (2, OTHER)):
        strength = torch.full((1, D_SAE), 1.0 + number)
        add_pictures(path, owner, D_SAE, [picture(number)], ["a prompt"], strength, spot)
        wanted = {0: [0], 1: [1, 0], 2: [2]}[number]
        shown = read_gallery(path, owner)
        assert [shown.pictures[one.picture] for one in shown.of(7)] == [picture(n) for n in wanted]
    assert shown.of(7) == [Shown(0, 3.0, (0.5, 0.5))]


def test_broken_galleries_are_refused(tmp_path: Path) -> None:
    gallery, *_ = filled(8)
    path = tmp_path / "one.gallery.safetensors"
    gallery.which[5, 0] = 99
    write_gallery(path, gallery, OWNER)
    with pytest.raises(ValueError, match="its parts do not fit each other"):
        read_gallery(path, OWNER)
    path.write_bytes(b"no gallery at all")
    with pytest.raises(ValueError, match=r"this gallery cannot be read \(.*\); make it again"):
        read_gallery(path, OWNER)


def test_activations_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"activations \(1, 5\) came with 1 pictures; \(1, 12\) are needed"):
        Gallery(D_SAE).add([picture(0)], [""], torch.zeros(1, 5), torch.zeros(1, 5, 2))


def test_a_thumbnail_keeps_the_proportions_and_needs_a_few_kilobytes() -> None:
    down, across = torch.meshgrid(torch.linspace(0, 1, 300), torch.linspace(0, 1, 600), indexing="ij")
    encoded = thumbnail(torch.stack([down, across, torch.zeros_like(down)]))
    image = Image.open(BytesIO(encoded))
    assert (image.format, image.size) == ("WEBP", (80, 40))
    assert len(encoded) < 4000
    red, green, blue = image.convert("RGB").getpixel((70, 5))
    assert abs(red - 255 * 5.5 / 40) < 16 and abs(green - 255 * 70.5 / 80) < 16 and blue < 16
