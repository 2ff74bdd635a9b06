"""Heat over tokens, laid on the picture's own pixels."""

import pytest
import torch

from sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae.drawing.overlay import RAMP, heat_overlay, ramp, token_bars
from sae.finding.heatmap import HeatReader, in_cells, on_picture, region_of
from sae.places.moment import COND, UNCOND, Crop, Moment
from sae.places.site import parse_location

WIDTH = 6


@pytest.fixture
def sae():
    random = torch.Generator().manual_seed(2)
    tensors = {name: torch.randn(10, WIDTH, generator=random) for name in ("encoder", "decoder")}
    return SparseAutoencoder.from_tensors(tensors, Architecture("relu"))


def tokens(batch, count, seed=1):
    return torch.randn(batch, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_the_mean_of_the_prompts_side_is_taken_over_the_calls(sae):
    reader = HeatReader(sae, parse_location("transformer_blocks.1", "image"), [4, 7])
    moment = Moment(0.5, (UNCOND, COND), 3, 4, 5)  # 2 × 3 tokens
    first, second = tokens(4, 6), tokens(4, 6, 2)
    reader(first, moment)
    reader(second, moment)
    rows = torch.stack([first[2:], second[2:]])
    codes = torch.relu(rows @ sae.weights.rows("encoder", (4, 7)).T).mean(0)  # (batch, tokens, 2)
    maps = codes.movedim(-1, 0)
    assert torch.allclose(reader.heat, maps, atol=1e-6) and reader.cells.shape == (2, 2, 4, 5)
    for row, column in [(0, 0), (1, 3), (3, 4)]:
        expected = maps[..., row // 2 * 3 + column // 2]
        assert torch.allclose(reader.cells[..., row, column], expected, atol=1e-6)


def test_of_a_joint_stream_the_picture_is_read(sae):
    reader = HeatReader(sae, parse_location("single_transformer_blocks.1", "joint"), [4])
    x = tokens(1, 3 + 6)
    reader(x, Moment(0.5, (COND,), 3, 4, 6))
    assert torch.allclose(reader.heat[0], torch.relu(x[:, 3:] @ sae.weights.rows("encoder", (4,)).T).squeeze(-1))


def test_parts_lie_in_their_places_and_where_they_meet_their_mean_is_taken(sae):
    """A crop may begin between two tokens, and end within one."""
    reader = HeatReader(sae, parse_location("transformer_blocks.1", "image"), [4, 7])
    whole, pair, odd = tokens(1, 12), tokens(2, 4, 2), tokens(1, 4, 3)
    first, second, third = Crop(1, 0, 6, 7), Crop(2, 3, 6, 7), Crop(3, 4, 6, 7)
    reader(whole, Moment(0.5, (COND,), 3, 6, 7))
    reader(pair, Moment(0.5, (COND, COND), 3, 4, 4, (first, second)))
    reader(odd, Moment(0.5, (COND,), 9, 3, 3, (third,)))
    looks = [[[] for _ in range(7)] for _ in range(6)]
    for x, height, width, crop in [
        (whole[0], 6, 7, Crop(0, 0, 6, 7)), (pair[0], 4, 4, first), (pair[1], 4, 4, second), (odd[0], 3, 3, third)
    ]:  # fmt: skip
        codes = torch.relu(x @ sae.weights.rows("encoder", (4, 7)).T)
        for row in range(height):
            for column in range(width):
                token = codes[row // 2 * -(-width // 2) + column // 2]
                looks[crop.top + row][crop.left + column].append(token)
    expected = torch.stack([torch.stack([torch.stack(cell).mean(0) for cell in row]) for row in looks])
    assert {len(cell) for row in looks for cell in row} == {1, 2, 3}
    assert torch.allclose(reader.cells[:, 0], expected.movedim(-1, 0), atol=1e-6)
    assert torch.allclose(reader.heat[:, 0], expected.movedim(-1, 0).flatten(1), atol=1e-6)


def test_of_parts_alone_the_rest_is_empty_and_does_not_count(sae):
    reader = HeatReader(sae, parse_location("transformer_blocks.1", "image"), [4])
    x = tokens(1, 2)
    reader(x, Moment(0.5, (COND,), 3, 2, 4, (Crop(4, 2, 8, 8),)))
    heat = torch.relu(x @ sae.weights.rows("encoder", (4,)).T)[0, :, 0]
    assert reader.cells.shape == (1, 1, 8, 8) and reader.heat.shape == (1, 1, 8)
    assert torch.allclose(reader.cells[0, 0, 4:6, 2:6], heat.repeat_interleave(2).expand(2, 4), atol=1e-6)
    assert torch.allclose(reader.heat.mean(), heat.mean()) and reader.cells.sum() == reader.heat.sum()


def test_a_part_of_which_nobody_knows_the_place_is_refused(sae):
    moment = Moment(0.5, (COND,), 3, 4, 6, (None,))
    with pytest.raises(ValueError, match=r"^positive: the model is shown a part of 48×32 pixels whose place"):
        HeatReader(sae, parse_location("transformer_blocks.1", "image"), [4])(tokens(1, 6), moment)
    bars = HeatReader(sae, parse_location("transformer_blocks.1", "text"), [4])
    bars(tokens(1, 3), moment)
    assert bars.heat.shape == (1, 1, 3)


def test_without_a_call_there_is_nothing_to_see(sae):
    with pytest.raises(ValueError, match="model: it was not called at this place"):
        HeatReader(sae, parse_location("transformer_blocks.1", "image"), [4]).heat  # noqa: B018


@pytest.mark.parametrize(
    ("latent", "size"), [((4, 6), (32, 48)), ((5, 7), (40, 56)), ((3, 3), (24, 24)), ((5, 4), (80, 64))]
)
def test_each_token_covers_its_own_pixels(latent, size):
    rows, columns = -(-latent[0] // 2), -(-latent[1] // 2)
    maps = torch.arange(rows * columns, dtype=torch.float32).view(1, 1, rows, columns)
    spread = on_picture(in_cells(maps, latent), size)
    cell = size[0] // latent[0]  # pixels a latent cell
    expected = torch.tensor(
        [[[[maps[0, 0, y // cell // 2, x // cell // 2] for x in range(size[1])] for y in range(size[0])]]]
    )
    assert torch.equal(spread, expected)


def test_the_region_is_where_any_feature_is_strong():
    maps = torch.tensor([[[[4.0, 1.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.5, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(region_of(maps, 0.5), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    assert torch.equal(region_of(maps, 0.0), torch.tensor([[[1.0, 0.25], [0.5, 1.0]]]))
    assert torch.equal(region_of(maps[2:], 0.5), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="threshold: 2 came, but it is a share"):
        region_of(maps, 2.0)


def test_the_ramp_runs_from_dark_to_bright():
    shares = torch.linspace(0, 1, 5)
    assert torch.allclose(ramp(shares), RAMP, atol=1e-6)
    assert torch.allclose(ramp(torch.tensor(0.125)), (RAMP[0] + RAMP[1]) / 2, atol=1e-6)
    brightness = ramp(torch.linspace(0, 1, 50)).sum(-1)
    assert bool((brightness.diff() > 0).all())


def test_an_overlay_leaves_the_picture_where_nothing_fires():
    picture = torch.rand(300, 260, 3, generator=torch.Generator().manual_seed(3))
    heat = torch.zeros(300, 260)
    heat[100:200, 50:80] = 2.0
    drawn = heat_overlay(picture, heat, "feature 3")
    assert drawn.shape == (344, 260, 3)
    outside = heat == 0
    grey = (0.15 + 0.3 * (picture @ torch.tensor([0.299, 0.587, 0.114]))).unsqueeze(-1).expand(-1, -1, 3)
    assert torch.allclose(drawn[:300][outside], grey[outside], atol=1e-6)
    expected = 0.25 * grey[heat > 0] + 0.75 * RAMP[-1]
    assert torch.allclose(drawn[:300][heat > 0], expected, atol=1e-6)
    assert torch.allclose(heat_overlay(picture, torch.zeros(300, 260), "dead")[:300], grey, atol=1e-6)
    assert heat_overlay(torch.zeros(64, 96, 3), torch.zeros(64, 96), "small").shape == (256 + 44, 384, 3)


def test_bars_are_as_high_as_the_tokens_fire():
    drawn = token_bars(torch.tensor([0.0, 1.0, 2.0, 4.0]), "feature 3")
    assert drawn.shape == (220, 768, 3)
    bar = (drawn[36:190] - torch.tensor([66, 112, 214]) / 255).abs().sum(-1) < 0.01
    heights = [int(bar[:, round(46 + (i + 0.5) * 177.5)].sum()) for i in range(4)]
    assert heights[0] == 0 and heights[3] > 150
    assert heights[1] == pytest.approx(heights[3] / 4, abs=2) and heights[2] == pytest.approx(heights[3] / 2, abs=2)


def test_warm_heat_shows_on_a_red_shape_as_on_any_other():
    heat = torch.zeros(256, 256)
    heat[:128] = 1.0
    for colour in ((0.9, 0.1, 0.1), (0.98, 0.85, 0.1), (0.1, 0.2, 0.9), (1.0, 1.0, 1.0)):
        drawn = heat_overlay(torch.tensor(colour).expand(256, 256, 3), heat, "")
        hot, cold = drawn[64, 64], drawn[200, 64]
        assert (hot - cold).norm() > 0.55 and cold.std() < 1e-6


def test_bars_have_the_words_of_their_tokens():
    heat = torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0, 0.0])
    plain, named = token_bars(heat, "f"), token_bars(heat, "f", ["a", "red", "", "car"])
    bar = (named - torch.tensor([66, 112, 214]) / 255).abs().sum(-1) < 0.01
    heights = [int(bar[36:144, round(46 + (i + 0.5) * 177.5)].sum()) for i in range(4)]
    assert heights[1] == pytest.approx(heights[3] / 4, abs=2) and heights[3] > 100
    below = named[150:, :].amin(-1) < 0.5
    written = [bool(below[:, round(46 + i * 177.5) : round(46 + (i + 1) * 177.5)].any()) for i in range(4)]
    assert written == [True, True, False, True]
    assert not torch.equal(plain, named)
    long = token_bars(torch.ones(60), "f", ["street"] * 60)
    assert (long[150:].amin(-1) < 0.5).any(0).float().mean() > 0.3
