"""The evidence's own measuring: what counts as changed and kept, the control without an SAE, and the tables."""

from dataclasses import replace

import pytest
import torch

from lab.evidence.cases import FINDING, changes, saying
from lab.evidence.rows import COLOUR_ROWS, EARLY, KIND_ROWS, Row
from lab.evidence.seen import draw_shifted, see_prompts
from lab.evidence.tables import Line, Table
from lab.judge.reader import measure_pictures
from lab.judge.score import Score, kept_slots
from sae.demo.shapes import SLOTS, Prompt, draw, held_out_prompts
from sae.demo.shapes_model import sample
from sae.demo.shipped_weights import ATTENTION_SAE, TEXT_SAE, load_sae, load_transformer

START = Prompt("red", "square", "left", "big", "grey")
OTHER = {"colour": "blue", "shape": "circle", "place": "top", "size": "small", "background": "white"}


@pytest.fixture(scope="module")
def transformer():
    return load_transformer()


def judged(slot: str, target: str, *after: Prompt) -> Score:
    score = Score(slot)
    before = measure_pictures(draw([START] * len(after))[0])
    score.add(before, measure_pictures(draw(list(after))[0]), target)
    return score


@pytest.mark.parametrize("slot", SLOTS)
def test_a_change_counts_where_its_word_came_and_nothing_else_went(slot: str) -> None:
    right = saying(START, slot, OTHER[slot])
    for other in kept_slots(slot):
        score = judged(slot, OTHER[slot], right, START, saying(right, other, OTHER[other]))
        assert (score.changed, score.strict) == (2, 1), other
        assert score.kept[other] == 2
    assert set(score.kept) == set(SLOTS) - {slot}


def test_a_change_of_colour_keeps_the_outline_and_a_change_of_place_moves_it() -> None:
    moved = replace(START, place="center")
    assert judged("colour", "red", moved).kept == {"shape": 0, "place": 0, "size": 1, "background": 1}
    assert judged("place", "center", moved).kept == {"colour": 1, "shape": 1, "size": 1, "background": 1}


def test_changes_are_all_pairs_and_their_pictures_are_held_out() -> None:
    for slot, words in SLOTS.items():
        found = list(changes(slot))
        assert len({(one.source, one.target) for one in found}) == len(found) == len(words) * (len(words) - 1)
        seeds = [seed for one in found for seed in one.seeds(10)]
        assert len(set(seeds)) == len(seeds)
        for one in found:
            prompts = one.prompts(10)
            assert {getattr(prompt, slot) for prompt in prompts} == {one.source}
            assert set(prompts) <= set(held_out_prompts())
            assert {one.worded(prompt) for prompt in prompts} == {saying(p, slot, one.target) for p in prompts}


def test_the_mean_of_what_is_seen_is_that_of_the_modules_own_outputs(transformer) -> None:
    saes = {name: load_sae(name) for name in (TEXT_SAE, ATTENTION_SAE)}
    texts, images = [], []
    hooks = [
        transformer.transformer_blocks[0].register_forward_hook(lambda module, args, output: texts.append(output[0])),
        transformer.transformer_blocks[1].attn.register_forward_hook(lambda m, args, output: images.append(output[0])),
    ]
    try:
        seen = see_prompts(transformer, saes, [FINDING[0]] * 2, range(2))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(texts) == 8
    torch.testing.assert_close(seen[TEXT_SAE].mean, torch.stack(texts).mean((0, 1)))
    torch.testing.assert_close(seen[ATTENTION_SAE].mean, torch.stack(images).mean((0, 1, 2)).unsqueeze(0))
    codes = torch.stack([saes[TEXT_SAE].encode(x.float()) for x in texts])
    torch.testing.assert_close(seen[TEXT_SAE].tally.mean, codes.mean((0, 1, 2)), atol=1e-5, rtol=1e-4)


def test_the_difference_is_added_once_to_every_token(transformer) -> None:
    site, difference = load_sae(TEXT_SAE).site, torch.randn(5, 128)
    shifted, record = draw_shifted(transformer, [START], [3], {site: difference})
    hook = transformer.transformer_blocks[0].register_forward_hook(
        lambda module, args, output: (output[0] + difference, output[1])
    )
    try:
        expected = sample(transformer, [START], [3])
    finally:
        hook.remove()
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=1e-5)
    assert record.summary().steps == 8
    assert not torch.allclose(shifted, sample(transformer, [START], [3]), atol=1e-2)


def test_a_table_survives_its_file_and_tells_its_shares() -> None:
    score = judged("shape", "circle", replace(START, shape="circle"), START, START, START)
    score.ratio, score.runs = 0.5, 2
    table = Table("shape", [Line("text", str(KIND_ROWS[0]), score, Score("shape")), Line("none", "unsteered", score)])
    assert Table.read(table.content()) == table
    head, _, first, second, _ = table.markdown().split("\n")
    assert head.startswith("| where | steering | ‖Δ‖/‖x‖ | changed | colour | place | size | background | all kept |")
    assert first == f"| text | {KIND_ROWS[0]} | 0.25 | 25% | 100% | 100% | 100% | 100% | 100% | 25% | 0% | 0% |"
    assert second.startswith("| none | unsteered | 0 | 25% |") and second.endswith("| 25% |  |  |")


def test_every_row_says_something_else() -> None:
    for rows in (COLOUR_ROWS, KIND_ROWS):
        assert len({(row.where, str(row)) for row in rows}) == len(rows)
    assert str(Row("set", "add", 0.2, schedule=EARLY, region="heat")) == (
        "add 0.2 token_norm, 0% to 50% of the run, where the heat is"
    )
