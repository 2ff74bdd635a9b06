"""The small Kandinsky as it ships: it draws what texts and pictures say, and steering its embedding means something."""

import pytest
import torch

pytest.importorskip("diffusers")

from lab.judge.reader import read_pictures
from lab.judge.steer import contrast
from lab.kandinsky.chain import Chain
from lab.kandinsky.embed_evidence import random_twin
from lab.kandinsky.losses import drawings
from lab.kandinsky.models import MAX_TOKENS, build_tokenizer, end_token, token_count, word_merges
from sae.demo.shapes import WORDS, Prompt, held_out_prompts
from sae.demo.shipped_weights import EMBED_SAE, KANDINSKY_DECODER, KANDINSKY_PRIOR
from sae.drawing.pictures import to_image
from sae.embeddings.editing import steer_tokens
from sae.embeddings.spot import home_of
from sae.finding.features import feature_list
from sae.hosts.kandinsky import encode_pictures
from sae.steering.delta import Steering
from sae.steering.record import SteeringRecord

FINDING = Prompt("red", "square", "center", "big", "grey")


@pytest.fixture(scope="module")
def chain():
    return Chain()


def right(seen, prompts, slot):
    return sum(getattr(one, slot) == getattr(two, slot) for one, two in zip(seen, prompts, strict=True)) / len(prompts)


def test_every_word_is_one_token():
    tokenizer = build_tokenizer()
    ids = [tokenizer(word).input_ids for word in WORDS]
    assert all(len(row) == 3 and row[2] == end_token() for row in ids)
    assert len({row[1] for row in ids}) == len(WORDS)
    assert tokenizer("red square left big white").input_ids[1:-1] == [
        tokenizer(word).input_ids[1] for word in ("red", "square", "left", "big", "white")
    ]
    assert len(word_merges()) == len(set(word_merges())) and token_count() == end_token() + 1
    assert tokenizer.model_max_length == MAX_TOKENS


def test_the_shipped_tokenizer_is_that_one(chain):
    shipped, built = chain.prior.part("tokenizer"), build_tokenizer()
    texts = ["red square left big white", "Small GREEN circle", "", "a pink thing, on the top"]
    assert [shipped(text).input_ids for text in texts] == [built(text).input_ids for text in texts]


def test_the_files_are_small():
    size = sum(
        path.stat().st_size
        for folder in (KANDINSKY_PRIOR, KANDINSKY_DECODER)
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert size < 12e6


def test_held_out_texts_are_drawn_as_they_say(chain):
    prompts = held_out_prompts()[::4]
    seeds = range(len(prompts))
    seen = read_pictures(chain.draw(*chain.embed(prompts, seeds), seeds))
    for slot, least in (("colour", 0.9), ("place", 0.95), ("size", 0.9), ("background", 0.95)):
        assert right(seen, prompts, slot) >= least, slot


def test_pictures_are_drawn_again(chain):
    prompts = held_out_prompts()[2::5]
    pictures = [to_image(row) for row in drawings(prompts, torch.Generator().manual_seed(3))]
    seen = encode_pictures(chain.prior, pictures)
    again = read_pictures(chain.draw(seen.image_embeds, seen.blank, range(len(prompts))))
    for slot in ("colour", "place", "background"):
        assert right(again, prompts, slot) >= 0.9, slot


def test_the_sae_explains_the_embeddings_and_knows_its_tensor(chain):
    assert home_of(chain.sae) == ("image_embeds", "all") and EMBED_SAE == "shapes-image_embeds"
    prompts = held_out_prompts()
    x = encode_pictures(chain.prior, [to_image(row) for row in drawings(prompts, torch.Generator().manual_seed(4))])[0]
    error = (x - chain.sae.reconstruct(x)).square().sum()
    assert 1 - float(error / (x - x.mean(0)).square().sum()) > 0.85
    active = (chain.sae.encode_sparse(x).values > 0).float().sum(-1).mean()
    assert float(active) == pytest.approx(float(chain.sae.statistics.density.sum()), rel=0.1)


def test_swapping_the_features_found_changes_the_colour_and_a_random_direction_does_not(chain):
    changed, stayed, random = [], [], []
    for number, (source, target) in enumerate((("red", "blue"), ("blue", "red"), ("purple", "green"))):
        here, there = (chain.tally([FINDING.with_colour(colour)], range(4)) for colour in (target, source))
        found, replaces = feature_list(contrast(here, there, 8)), feature_list(contrast(there, here, 8))
        prompts = [prompt for prompt in held_out_prompts() if prompt.colour == source][:8]
        seeds = range(900 + 10 * number, 900 + 10 * number + len(prompts))
        embeds, blank = chain.embed(prompts, seeds)
        steering = Steering(chain.sae, found, "swap", 1.25, replaces=replaces)
        steered = steer_tokens(embeds.unsqueeze(1), steering, SteeringRecord()).squeeze(1)
        before, after, control = (
            read_pictures(chain.draw(rows, blank, seeds)) for rows in (embeds, steered, random_twin(embeds, steered, 3))
        )
        changed += [picture.colour == target for picture in after]
        random += [picture.colour == target for picture in control]
        for slot in ("place", "background"):
            stayed += [getattr(one, slot) == getattr(two, slot) for one, two in zip(after, before, strict=True)]
    assert len(changed) == 24
    assert sum(changed) >= 12 and sum(random) <= 2
    assert sum(stayed) / len(stayed) >= 0.85
