"""The emoji model's code of pictures, its attention, its judge, and training that carries on as if never stopped."""

import pytest
import torch
from torch.nn import functional

from lab.emoji import emoji_flux as emoji_model
from lab.emoji.attention import attend, plain_attention
from lab.emoji.decoder import Decoder
from lab.emoji.drawings import Drawing
from lab.emoji.emoji_pictures import to_pictures, to_pixels
from lab.emoji.judge import decide, find_twins
from lab.emoji.latents import NUMBERS, LinearCode, fit_code, pack, patches_of, unpack
from lab.emoji.prompts import Words
from lab.emoji.sample import sample, sigmas_for
from lab.emoji.ship_flux import ship
from lab.emoji.train_flux import Data, Training, flow_loss, rate_factor, save


@pytest.fixture(scope="module")
def pictures():
    """Blurred noise (40, 3, 64, 96), of which 64 numbers a patch keep much."""
    noise = torch.rand(40, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(noise, scale_factor=4, mode="bilinear")


@pytest.fixture(scope="module")
def code(pictures):
    return fit_code(pictures)


def test_latents_are_folded_and_unfolded():
    latents = torch.arange(2 * 16 * 6 * 4.0).view(2, 16, 6, 4)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 64)
    assert torch.equal(unpack(tokens, rows=3), latents)
    assert tokens[0, 1].view(16, 2, 2).equal(latents[0, :, :2, 2:])  # FLUX's order: channel, row, column


def test_latents_are_folded_as_diffusers_does():
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 16, 16)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 16, 16))


def test_the_code_is_the_closest_of_64_numbers(code, pictures):
    patches = patches_of(pictures).flatten(0, 1)
    again = patches_of(code.decode(code.encode(pictures), rows=4)).flatten(0, 1)
    error = (again - patches).square().sum(dim=1).mean()
    centred = (patches - patches.mean(0)).double()
    left = torch.linalg.svdvals(centred).square()[NUMBERS:].sum() / len(patches)
    assert error == pytest.approx(left.item(), rel=1e-3)
    assert torch.allclose(code.directions @ code.directions.T, torch.eye(64), atol=1e-5)


def test_numbers_have_variance_one_on_the_whole(code, pictures):
    variances = code.encode(pictures).flatten(0, 1).var(0)
    assert variances.mean() == pytest.approx(1, rel=1e-2)
    assert variances[0] > variances[10] > variances[60]


def test_what_the_code_can_say_comes_back(code):
    tokens = torch.randn(2, 24, 64)
    assert torch.allclose(code.encode(code.decode(tokens, rows=4)), tokens, atol=1e-4)


def test_pictures_of_odd_sizes_are_refused(code):
    with pytest.raises(ValueError, match=r"multiples of 16, but got \(1, 3, 60, 64\)"):
        code.encode(torch.zeros(1, 3, 60, 64))


def test_the_code_is_read_back(code, tmp_path):
    code.save(tmp_path / "code.safetensors")
    again = LinearCode.load(tmp_path / "code.safetensors")
    assert all(torch.equal(getattr(code, part), getattr(again, part)) for part in ("mean", "directions", "scales"))


def test_an_untrained_decoder_shows_what_the_code_says(code, tmp_path):
    decoder, tokens = Decoder(code), torch.randn(2, 24, 64) * 0.1
    expected = code.decode(tokens, rows=4).clamp(0, 1)
    bias = decoder.layers[-1].bias.detach()
    assert (decoder(tokens, rows=4) - expected).abs().max() <= bias.abs().max() + 1e-6
    decoder.save(tmp_path / "decoder.safetensors")
    again = Decoder.load(tmp_path / "decoder.safetensors", code)
    assert torch.allclose(again(tokens, rows=4), decoder(tokens, rows=4), atol=2e-3)


def test_pixels_come_back():
    pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(to_pixels(to_pictures(pixels)), pixels)


def test_attention_is_torchs():
    query, key, value = torch.randn(3, 2, 2, 9, 16)
    expected = functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(attend(query, key, value), expected, atol=1e-6)
    before = functional.scaled_dot_product_attention
    with plain_attention():
        assert functional.scaled_dot_product_attention is attend
    assert functional.scaled_dot_product_attention is before


@pytest.fixture
def small(monkeypatch):
    """The model with one block of each kind, which has the same shapes and trains in a moment."""
    monkeypatch.setitem(emoji_model.CONFIG, "num_layers", 1)
    monkeypatch.setitem(emoji_model.CONFIG, "num_single_layers", 1)


@pytest.fixture
def data():
    drawings = [Drawing("noto", name, name, "food-drink", (name,), (), None) for name in ("apple", "pear", "plum")]
    tokens = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))
    return Data(drawings, tokens, Words(["noto", "apple", "pear", "plum"]), [0, 1], [1.0, 1.0], [2])


def trained(data, steps):
    training = Training(len(data.words), batch=2, compiled=False, autocast=False)
    for _ in range(steps):
        training.take_step(data, rate_factor(training.step, 0, None, 0))
    return training


def test_training_carries_on_as_if_never_stopped(small, data, tmp_path):
    whole, half = trained(data, 4), trained(data, 2)
    save(half, tmp_path)
    again = Training(len(data.words), batch=2, compiled=False, autocast=False)
    again.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        again.take_step(data, rate_factor(again.step, again.first, None, 0))
    assert again.step == whole.step == 4
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, dict(again.model.named_parameters())[name]), name
        assert torch.equal(whole.average[name], again.average[name]), name


def test_training_learns(small, data):
    training = Training(len(data.words), batch=4, compiled=False, autocast=False)
    rows = torch.tensor([data.words.read("noto apple"), data.words.read("noto pear")])

    def loss():
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return flow_loss(training.model, data.tokens[:2], rows, generator, autocast=False).item()

    untrained = loss()
    for _ in range(10):
        training.take_step(data, 0.5)
    assert loss() < 0.95 * untrained
    before = {name: weight.clone() for name, weight in training.model.named_parameters()}
    assert 0 < training.held_out_loss(data) < 5
    assert all(torch.equal(before[name], weight) for name, weight in training.model.named_parameters())


def test_averaged_weights_lag_behind(small, data):
    training = trained(data, 1)
    weights = dict(training.model.named_parameters())
    assert all(torch.equal(training.average[name], weight) for name, weight in weights.items())  # nothing before it
    before = training.average["words"].clone()
    training.take_step(data, 1.0)
    share = (1 - 1 / 2) ** 8  # of the old average after step 2
    assert torch.allclose(training.average["words"], share * before + (1 - share) * weights["words"], atol=1e-6)


def test_weights_to_start_from(small, data, tmp_path):
    training = trained(data, 2)
    save(training, tmp_path)
    again = Training(len(data.words), batch=2, compiled=False, autocast=False)
    again.start_from(tmp_path / "average.safetensors")
    assert again.step == again.first == 2  # further draws follow, and the average reaches as far back
    for name, weight in again.model.named_parameters():
        assert torch.equal(weight, training.average[name].half().float()), name


@pytest.mark.parametrize(
    ("step", "first", "last", "decay", "factor"),
    [
        (0, 0, None, 0, 0.01),
        (49, 0, None, 0, 0.5),
        (5049, 5000, None, 0, 0.5),
        (5000, 0, None, 0, 1),
        (900, 0, 1000, 0, 1),
        (900, 0, 1000, 200, 0.5),
        (999, 0, 1000, 200, 0.005),
    ],
)
def test_learning_rate(step, first, last, decay, factor):
    assert rate_factor(step, first, last, decay) == pytest.approx(factor)


def test_sigmas():
    assert sigmas_for(4, shift=1).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert sigmas_for(2, shift=3).tolist() == [1, 0.75, 0]


def test_a_batch_does_not_change_a_drawing(small, data):
    model = trained(data, 2).model.eval()
    rows = torch.tensor([data.words.read("noto apple"), data.words.read("pear")])
    both = sample(model, rows, [5, 6], steps=2)
    alone = sample(model, rows[1:], [6], steps=2)
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_without_guidance_the_empty_prompt_is_not_drawn(small, data):
    model = trained(data, 2).model.eval()
    rows = torch.tensor([data.words.read("noto apple")])
    plain = sample(model, rows, [5], steps=2, guidance=1)
    nearly = sample(model, rows, [5], steps=2, guidance=1 + 1e-7)
    assert torch.allclose(plain, nearly, atol=1e-4)


def test_the_judge_looks_among_names_of_the_style():
    drawings = [
        Drawing("noto", "cat", "cat", "animals", ("cat",), (), None),
        Drawing("noto", "man: dark skin tone", "man", "people", ("man", "dark-skin"), (), "dark-skin"),
        Drawing("noto", "woman: dark skin tone", "woman", "people", ("woman", "dark-skin"), (), "dark-skin"),
        Drawing("fluent", "cat", "cat", "animals", ("cat",), (), None),
        Drawing("noto", "house", "house", "places", ("house",), (), None),
        Drawing("noto", "hut", "hut", "places", ("hut",), (), None),
        Drawing("noto", "sun", "sun", "sky", ("sun",), (), None),
    ]
    known = functional.normalize(torch.eye(7) + 0.01, dim=1)
    # The cat looks most like the fluent one, and of noto's like its own; the man is drawn as the woman.
    drawn = functional.normalize(
        known[[3, 2]] + torch.tensor([[0.5, 0, 0, 0, 0, 0, 0], [0, 0.3, 0, 0, 0, 0, 0]]), dim=1
    )
    verdict = decide(drawn, [0, 1], known, drawings, torch.arange(7))
    assert (verdict.count, verdict.top1, verdict.top5) == (2, 0.5, 1.0)
    assert (verdict.tone, verdict.gender, verdict.group, verdict.style) == (1.0, 0.0, 1.0, 0.5)
    twins = torch.tensor([0, 1, 1, 3, 4, 5, 6])  # man and woman share one picture
    assert decide(drawn, [0, 1], known, drawings, twins).top1 == 1.0


def test_twins_share_a_number():
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pictures[3] = pictures[1] + 0.001
    pictures[4] = pictures[1]
    assert find_twins(pictures, ["noto", "noto", "noto", "noto", "fluent"]).tolist() == [0, 1, 2, 1, 4]


def test_a_run_is_shipped(tmp_path):
    run, weights = tmp_path / "run", tmp_path / "weights"
    run.mkdir()
    for name in ("average.safetensors", "words.json"):
        (run / name).write_text(name, encoding="utf-8")
    with pytest.raises(ValueError, match=r"no code\.safetensors"):
        ship(run, weights)
    (run / "code.safetensors").write_text("code", encoding="utf-8")
    assert ship(run, weights) == ["average.safetensors", "words.json", "code.safetensors"]
    assert (weights / "words.json").read_text(encoding="utf-8") == "words.json"
