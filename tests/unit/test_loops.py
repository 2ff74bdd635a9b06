"""The loops of calibration and labelling, over closed formulas for what a model would draw or answer."""

from pathlib import Path

import pytest
import torch

from sae.finding.listening import mean_activations
from sae.naming import labelling
from sae.naming.labelling import WordTally, tally_resumable, tally_words
from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from sae.steering.calibration import (
    CLEAR,
    HALVINGS,
    MOST_READINGS,
    UNRELATED,
    VISIBLE,
    alone,
    calibrate_features,
)
from sae.steering.draw import Drawn
from sae.steering.edits import Edit
from sae.steering.record import LARGE_DELTA
from small_saes import small_sae

SITE = parse_location("transformer_blocks.1", "image")
WORDS = ["red", "blue", "big", "small"]
CONTEXTS = ["{} cat", "{} dog on red", "{} house"]


class Cancelled(BaseException):
    """What a host raises where its user presses Cancel; ComfyUI's is no Exception either."""


class Shifted:
    """A latent that steering shifts by `slope` times the strength, all over; feature 9 changes nothing.

    Two far outliers keep the range wide, so that nothing leaves it before the change is too large.
    """

    def __init__(self, slope: float, ratio: float) -> None:
        self.slope, self.ratio, self.asked = slope, ratio, []
        self.plain = torch.tensor([1.0, -1.0]).repeat(32)
        self.plain[:2] = torch.tensor([100.0, -100.0])
        self.plain = self.plain.view(1, 1, 8, 8)

    def __call__(self, intervention, random_direction, on_step):
        assert random_direction is None
        on_step(1.0, None)
        self.asked.append(intervention)
        if intervention is None:
            return Drawn(self.plain, 0.0)
        strength, edit = intervention.steering.strength, intervention.steering.edits[0]
        shift = 0.0 if edit.feature == 9 else self.slope * strength
        return Drawn(self.plain + shift, self.ratio * strength)

    @property
    def change(self) -> float:
        """Of strength 1: ‖shift‖ = 8 · slope over √2 times the contrast, ‖plain‖ because its mean is zero."""
        return 8 * self.slope / (2 * (2 * 100**2 + 62)) ** 0.5


@pytest.mark.parametrize(("slope", "ratio"), [(20.0, 0.01), (8.0, 0.8)], ids=["too unlike", "Δ too large"])
def test_ranges_are_where_the_formula_puts_them(slope: float, ratio: float) -> None:
    draw = Shifted(slope, ratio)
    steering = alone(small_sae("relu"), SITE, "add")
    found = calibrate_features(draw, [Edit(2), Edit(9)], "add", steering)
    end = min(UNRELATED / draw.change, LARGE_DELTA / ratio)
    range_, step = found[2], 2**-HALVINGS  # of the interval that is halved
    assert range_.high <= end * (1 + 1e-6) < range_.high + 2 * end * step
    wanted = max(CLEAR * range_.high, VISIBLE / draw.change)
    assert range_.clear - range_.high * step <= wanted * (1 + 1e-6) <= range_.clear * (1 + 1e-5)
    assert range_.low - range_.clear * step <= VISIBLE / draw.change * (1 + 1e-6) <= range_.low * (1 + 1e-5)
    assert found[9] is None
    assert draw.asked.count(None) == 1


def test_each_feature_is_steered_alone_by_token_norms_whatever_it_brings() -> None:
    draw, known = Shifted(20.0, 0.01), {"mean": 3.0, "max": 5.0, "density": 0.3}
    out = [Edit(4, 0.7, **known)]
    edits = [Edit(2, 0.3, unit="raw", **known), Edit(1, -2.0, **known)]
    calibrate_features(draw, edits, "swap", alone(small_sae("relu"), SITE, "swap", out))
    steered = [intervention.steering for intervention in draw.asked[1:]]
    assert {steering.edits[0] for steering in steered} == {Edit(2, 1.0, **known), Edit(1, 1.0, **known)}
    assert all(len(s.edits) == 1 and (s.method, s.unit, s.replaces) == ("swap", "token_norm", out) for s in steered)
    assert all(intervention.site == SITE for intervention in draw.asked[1:])


def test_progress_counts_drawings_of_the_most_there_may_be() -> None:
    draw, told = Shifted(20.0, 0.01), []
    steering = alone(small_sae("relu"), SITE, "add")
    calibrate_features(draw, [Edit(2), Edit(3)], "add", steering, lambda *now: told.append(now))
    assert told == [(number, 1 + 2 * MOST_READINGS, None) for number in range(1, len(draw.asked) + 1)]
    assert 2 < len(draw.asked) <= 1 + 2 * MOST_READINGS


def test_mistakes_cost_no_drawing_and_cancel_goes_through() -> None:
    draw = Shifted(1.0, 0.1)
    plain = alone(small_sae("relu"), SITE, "add")
    with pytest.raises(ValueError, match=r"^features: the list is empty"):
        calibrate_features(draw, [], "add", plain)
    with pytest.raises(ValueError, match=r"^method: 'scale' cannot be calibrated"):
        calibrate_features(draw, [Edit(2)], "scale", plain)
    with pytest.raises(ValueError, match=r"^replaces: 'swap' needs the features to take out"):
        calibrate_features(draw, [Edit(2)], "swap", alone(small_sae("relu"), SITE, "swap"))
    assert draw.asked == []

    def cancel(done, total, shown):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        calibrate_features(draw, [Edit(2)], "add", plain, cancel)
    assert len(draw.asked) == 2  # the third drawing was under way


def answer(prompt: str) -> torch.Tensor:
    """Seven features, each another function of the prompt's letters."""
    return torch.tensor([float(prompt.count(letter)) for letter in "aeioubr"])


class Answers:
    """A model that counts letters; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, prompts, on_step):
        on_step(0.5, "seen")
        self.asked.append(list(prompts))
        on_step(1.0, "seen")
        return torch.stack([answer(prompt) for prompt in prompts])


def check_whole(tally: WordTally) -> None:
    """Every run is in the tally once: the sum over all, and each kept word's mean over the contexts."""
    sums = torch.stack([sum(answer(context.replace("{}", word)) for context in CONTEXTS) for word in WORDS])
    assert torch.equal(tally.total[0], sums.sum(0))
    found = tally.best_words()
    torch.testing.assert_close(found.mean, sums.gather(0, found.words) / len(CONTEXTS))


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 12), (5, [5, 5, 2])])
def test_all_words_in_all_contexts(batch: int, sizes: list[int]) -> None:
    see, told = Answers(), []
    tally = WordTally.new(WORDS, CONTEXTS, 7)
    assert tally_words(tally, see, lambda *now: told.append(now), batch) is tally
    assert [len(prompts) for prompts in see.asked] == sizes
    prompts = [context.replace("{}", word) for word in WORDS for context in CONTEXTS]
    assert [prompt for part in see.asked for prompt in part] == prompts
    check_whole(tally)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    steps = [done for end, size in zip(ends, sizes, strict=True) for done in (end - size / 2, float(end))]
    assert told == [(done, 12, "seen") for done in steps]


def test_a_cancelled_labelling_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, see = tmp_path / "labelling" / "kept.safetensors", Answers()

    def cancel(done, total, shown):
        if done > 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        tally_resumable(path, "key", WORDS, CONTEXTS, 7, see, cancel)
    assert len(see.asked) == 5
    assert WordTally.resumed(path, "key", WORDS, CONTEXTS, 7).done == 5
    told = []
    tally = tally_resumable(path, "key", WORDS, CONTEXTS, 7, see, lambda *now: told.append(now))
    assert len(see.asked) == 12
    assert told[0] == (5.5, 12, "seen")
    check_whole(tally)
    assert not path.exists()


def test_what_is_done_is_saved_now_and_then(tmp_path: Path, monkeypatch) -> None:
    path, clock, kept = tmp_path / "kept.safetensors", [0.0], []
    monkeypatch.setattr(labelling.time, "monotonic", lambda: clock[0])

    def note(done, total, shown):
        clock[0] += 11  # seconds for half a run
        kept.append(WordTally.resumed(path, "key", WORDS, CONTEXTS, 7).done)

    tally_resumable(path, "key", WORDS, CONTEXTS, 7, Answers(), note)
    # a run takes 22 s, so every third one is saved after its end
    assert kept == [done for run in range(12) for done in 2 * [run // 3 * 3]]


def test_nothing_is_saved_before_the_first_run(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"

    def cancel(*told):
        raise Cancelled

    with pytest.raises(Cancelled):
        tally_resumable(path, "key", WORDS, CONTEXTS, 7, Answers(), cancel)
    assert not path.exists()


def test_means_over_the_tokens_and_steps_of_the_prompts_side() -> None:
    sae, told = small_sae("relu"), []
    x = torch.randn(2, 3, 4, 5, sae.d_in, generator=torch.Generator().manual_seed(0))  # prompt, step, rows, tokens

    def listen(prompt, see, on_step):
        for step, tokens in enumerate(x[int(prompt)], 1):
            see(tokens, Moment(1 / step, (UNCOND, COND), 0, 2, 10))
            on_step(step / 3, step)

    means = mean_activations(listen, sae, SITE)(["0", "1"], lambda *now: told.append(now))
    expected = torch.stack([sae.encode(prompt[:, 2:]).mean((0, 1, 2)) for prompt in x])
    assert means.shape == (2, sae.d_sae) and torch.allclose(means, expected, atol=1e-6)
    assert [shown for _, shown in told] == [1, 2, 3, 1, 2, 3]
    assert [share for share, _ in told] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
