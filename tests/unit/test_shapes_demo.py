"""The demo model as it ships: its words, latents and weights, and that steering it means something."""

import pytest
import torch

from plain_hooks import hooked

pytest.importorskip("diffusers")

from lab.judge.reader import read_pictures
from lab.judge.steer import contrast, draw_steered, drawing_of, effect, tally_prompt
from sae.demo.shapes import COLOURS, Prompt, all_prompts, draw, held_out_prompts, parse_prompt, training_prompts
from sae.demo.shapes_model import embed_prompts, encode_pictures, noise_for, pack, sample, unpack, word_vectors
from sae.demo.shipped_weights import SAE_NAMES, TEXT_SAE, WEIGHTS, load_decoder, load_sae, load_transformer
from sae.finding.features import feature_list
from sae.hosts.diffusers import capture
from sae.places.site import site_from_name
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention

PROMPT = Prompt("red", "square", "center", "big", "grey")


@pytest.fixture(scope="module")
def transformer():
    return load_transformer()


@pytest.fixture(scope="module")
def decoder():
    return load_decoder()


def read(decoder, latents):
    with torch.no_grad():
        return read_pictures(decoder(latents))


def test_prompts_are_read_in_any_order_with_fillers():
    assert parse_prompt("A big, RED square at the left on a white background.") == Prompt(
        "red", "square", "left", "big", "white"
    )
    assert parse_prompt("circle") == Prompt(shape="circle")
    assert parse_prompt("") == Prompt()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a pink square",
            r"text: the Shapes model does not know the word 'pink'; it knows colour: red, orange.*black\.",
        ),
        ("red blue square", r"text: it names two words for colour, 'red' and 'blue'; give one\."),
    ],
)
def test_wrong_prompts_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        parse_prompt(text)


def test_held_out_and_training_prompts_share_none_and_cover_all():
    held_out, training = set(held_out_prompts()), set(training_prompts())
    assert not held_out & training and held_out | training == set(all_prompts())
    assert 0.15 < len(held_out) / 720 < 0.25
    assert {prompt.colour for prompt in held_out} == set(COLOURS)


def test_words_are_orthogonal_and_text_rows_are_theirs():
    vectors = word_vectors()
    assert torch.allclose(vectors @ vectors.T, 64 * torch.eye(len(vectors)), atol=1e-3)
    text = embed_prompts([PROMPT, Prompt(colour="red")])
    assert torch.equal(text[0, 0], text[1, 0]) and torch.equal(text[1, 1], vectors[0])


def test_tokens_are_patches_of_two_by_two_in_rows():
    latents = torch.arange(2 * 16 * 4 * 6, dtype=torch.float32).view(2, 16, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 64)
    expected = torch.stack([latents[1, :, 2:4, 4:6].reshape(-1)])[0]  # channel, row, column
    assert torch.equal(tokens[1, 5], expected)
    assert torch.equal(unpack(tokens, 4, 6), latents)


def test_the_decoder_undoes_the_encoder(decoder):
    pictures, _ = draw(held_out_prompts()[:20])
    with torch.no_grad():
        back = decoder(encode_pictures(pictures))
    assert float((back - pictures).abs().mean()) < 0.01
    assert read_pictures(back) == read_pictures(pictures)


def test_noise_is_each_seeds_own():
    assert torch.equal(noise_for([3, 4])[1], noise_for([4])[0])


def test_the_files_are_small():
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size < 20e6


def test_held_out_prompts_are_drawn_as_they_say(transformer, decoder):
    prompts = held_out_prompts()[::4]
    seen = read(decoder, sample(transformer, prompts, range(len(prompts))))
    for slot, least in (("colour", 0.95), ("place", 0.95), ("size", 0.9), ("background", 0.95)):
        right = sum(getattr(one, slot) == getattr(two, slot) for one, two in zip(seen, prompts, strict=True))
        assert right / len(prompts) >= least, slot


@pytest.mark.parametrize("name", SAE_NAMES)
def test_each_sae_explains_its_site(transformer, name):
    sae, tokens = load_sae(name), []
    assert sae.site == site_from_name(name) and sae.statistics is not None
    with capture(transformer, sae.site, lambda x, moment: tokens.append(x.flatten(0, 1))):
        sample(transformer, held_out_prompts()[::9], range(500, 515))
    x = torch.cat(tokens)
    error = (x - sae.reconstruct(x)).square().sum()
    explained = 1 - float(error / (x - x.mean(0)).square().sum())
    assert explained > 0.7
    active = (sae.encode_sparse(x).values > 0).float().sum(-1).mean()
    assert float(active) == pytest.approx(float(sae.statistics.density.sum()), rel=0.1)


def test_swapping_the_features_found_changes_the_colour_and_a_random_direction_does_not(transformer, decoder):
    sae = load_sae(TEXT_SAE)
    blue, red = (tally_prompt(transformer, sae, PROMPT.with_colour(colour), range(4)) for colour in ("blue", "red"))
    features, replaces = feature_list(contrast(blue, red, 8)), feature_list(contrast(red, blue, 8))
    steering = Intervention(Steering(sae, features, "swap", 1.0, replaces=replaces), sae.site)
    prompts = [prompt for prompt in held_out_prompts() if prompt.colour == "red"][:16]
    seeds = range(900, 900 + len(prompts))
    before = read(decoder, sample(transformer, prompts, seeds))
    steered, record = draw_steered(transformer, prompts, seeds, [steering])
    random, _ = draw_steered(transformer, prompts, seeds, [steering], random_direction=3)
    after, control = read(decoder, steered), read(decoder, random)
    assert sum(picture.colour == "blue" for picture in after) >= 12
    assert sum(picture.colour == "blue" for picture in control) <= 2
    for slot in ("place", "background"):
        assert sum(getattr(a, slot) == getattr(b, slot) for a, b in zip(after, before, strict=True)) >= 14
    assert record.summary().steps == 8


def test_what_the_loops_draw_is_what_plain_hooks_draw(transformer, decoder):
    sae, told = load_sae(TEXT_SAE), []
    site, unit = sae.site, torch.nn.functional.normalize(sae.direction([31])[0], dim=-1)
    draw = drawing_of(transformer, [PROMPT], [4], steps=3)
    steering = Intervention(Steering(sae, [Edit(31)], "add", 0.4, "token_norm"), site)

    def hand_made(direction):
        with hooked(
            transformer, site.location, site.stream, lambda x, _: x + 0.4 * x.norm(dim=-1, keepdim=True) * direction
        ):
            return sample(transformer, [PROMPT], [4], 3)

    steered = draw([steering], None, lambda *now: told.append(now))
    assert torch.allclose(steered.result, hand_made(unit), atol=1e-4)
    assert steered.ratio == pytest.approx(0.4, rel=1e-4)
    assert told == [(1 / 3, None), (2 / 3, None), (1.0, None)]
    direction = torch.randn(sae.d_in, generator=torch.Generator().manual_seed(3))
    control = draw([steering], 3, lambda *now: None)
    assert torch.allclose(control.result, hand_made(direction / direction.norm()), atol=1e-4)
    plain = sample(transformer, [PROMPT], [4], 3)
    assert not torch.allclose(control.result, plain, atol=0.1)
    assert torch.equal(draw((), None, lambda *now: None).result, plain)
    pictures = drawing_of(transformer, [PROMPT], [4], 3, decoder)((), None, lambda *now: None).result
    with torch.no_grad():
        assert torch.equal(pictures, decoder(plain))


def test_a_cancelled_drawing_leaves_no_hook(transformer):
    draw = drawing_of(transformer, [PROMPT], [4], steps=3)
    plain = draw((), None, lambda *now: None).result
    steering = Intervention(Steering(load_sae(TEXT_SAE), [Edit(31)], "add", 0.4, "token_norm"), load_sae(TEXT_SAE).site)

    def cancel(share, shown):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw([steering], None, cancel)
    assert torch.equal(draw((), None, lambda *now: None).result, plain)


def test_what_swap_cannot_find_is_told(transformer):
    """The features of green against red, taken out while the prompt says green, and while it says red."""
    sae = load_sae(TEXT_SAE)
    tallies = {
        colour: tally_prompt(transformer, sae, PROMPT.with_colour(colour), [0]) for colour in ("red", "green", "blue")
    }
    green = feature_list(contrast(tallies["green"], tallies["red"], 8))
    blue = feature_list(contrast(tallies["blue"], tallies["green"], 8))
    steering = Steering(sae, blue, "swap", 1.0, replaces=green)
    told = {}
    for colour in ("green", "red"):
        prompt = Prompt(colour, "circle", "left", "small", "white")
        _, record = draw_steered(transformer, [prompt], [3], [Intervention(steering, site_from_name(TEXT_SAE))])
        told[colour] = record.summary()
    assert told["green"].presence["replaces"] == pytest.approx(0.84, abs=0.1) and told["green"].warnings == []
    assert told["red"].steps == 8 and told["red"].presence["replaces"] < 0.05 and told["red"].mean_ratio < 0.01
    [warning] = told["red"].warnings
    assert warning.startswith("The features in 'replaces' hardly fire here, at 2.5% of their own mean")


def test_features_by_their_effect_change_the_colour(transformer, decoder):
    """Of 32 candidates the 4 that act most, from each side; a feature's effect is the same in any company."""
    sae = load_sae(TEXT_SAE)
    tallies = {colour: tally_prompt(transformer, sae, PROMPT.with_colour(colour), [0]) for colour in ("red", "blue")}
    chosen = {}
    for here, there in (("red", "blue"), ("blue", "red")):
        found = contrast(tallies[here], tallies[there], 32)
        sides = transformer, sae, PROMPT.with_colour(here), PROMPT.with_colour(there)
        chosen[here] = effect(*sides, found, 4)
        alone = effect(*sides, [row for row in found if row.feature == chosen[here][1].feature], 4)
        assert [row.effect for row in alone] == pytest.approx([chosen[here][1].effect], rel=1e-3)
        assert chosen[here][0].effect > chosen[here][1].effect > chosen[here][2].effect > 0
    features, replaces = feature_list(chosen["blue"]), feature_list(chosen["red"])
    steering = Steering(sae, features, "swap", 1.0, replaces=replaces)
    prompts = [
        Prompt("red", *words) for words in [("square", "left", "big", "grey"), ("circle", "top", "small", "black")]
    ]
    latents, _ = draw_steered(transformer, prompts, [1, 2], [Intervention(steering, site_from_name(TEXT_SAE))])
    assert [picture.colour for picture in read(decoder, latents)] == ["blue", "blue"]
