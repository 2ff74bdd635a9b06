"""The loops of calibration and labelling, over closed formulas for what a model would draw or answer."""

from pathlib import Path

import pytest
import torch

from sae.dictionary.sae_set import Member
from sae.finding import labelling
from sae.finding.features import FeatureReader, Together
from sae.finding.labelling import WordTally, mean_activations, tally_resumable, tally_words
from sae.places.moment import COND, UNCOND, Moment
from sae.places.site import parse_location
from sae.steering.calibration import CLEAR, HALVINGS, MOST_READINGS, UNRELATED, VISIBLE, alone, calibrate_features
from sae.steering.edits import Edit
from sae.steering.host_calls import Drawn
from sae.steering.summary import LARGE_DELTA
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

    def __call__(self, interventions, random_direction, on_step):
        assert random_direction is None
        on_step(1.0, None)
        intervention = next(iter(interventions), None)
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


class ShiftedTogether(Shifted):
    """The same, which draws up to `size` at once."""

    def __init__(self, slope: float, ratio: float, size: int) -> None:
        super().__init__(slope, ratio)
        self.size, self.runs = size, []

    def most(self):
        return self.size

    def together(self, several, on_step):
        self.runs.append(len(several))
        return [self(*one, on_step) for one in several]


def test_features_that_can_be_drawn_together_are(monkeypatch) -> None:
    edits, steering = [Edit(2), Edit(9), Edit(3), Edit(4)], alone(small_sae("relu"), SITE, "add")
    one, two = Shifted(20.0, 0.01), ShiftedTogether(20.0, 0.01, 4)
    assert calibrate_features(two, edits, "add", steering) == calibrate_features(one, edits, "add", steering)
    assert sum(two.runs) == len(two.asked) == len(one.asked)
    assert two.runs[:3] == [4, 1, 4] and two.runs[-1] == 3  # with the unsteered one; feature 9 is soon at its end


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


class Listening:
    """A model whose tokens at each step of each prompt are known; it runs `most` prompts together."""

    def __init__(self, x: torch.Tensor, most: int) -> None:
        self.x, self.most, self.ran = x, most, []  # prompt, step, side, rows, tokens, d_in

    def parts(self, prompts):
        return [prompts[first : first + self.most] for first in range(0, len(prompts), self.most)]

    def __call__(self, prompts, sees, on_step):
        self.ran.append(list(prompts))
        chosen = self.x[[int(prompt) for prompt in prompts]]
        for step in range(chosen.shape[1]):
            tokens = chosen[:, step].transpose(0, 1).flatten(0, 2)  # a side, and in it the prompts with their rows
            for see in sees:
                see(tokens, Moment(1 / (step + 1), (UNCOND, COND), 0, 2, 10))
            on_step((step + 1) / chosen.shape[1], step)
        return chosen[:, -1, 1, :, :1, :4].flatten(0, 1)


@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_means_over_the_tokens_and_steps_of_the_prompts_side(kind: str, most: int) -> None:
    sae, told, heard = small_sae(kind), [], []
    x = torch.randn(3, 3, 2, 2, 5, sae.d_in, generator=torch.Generator().manual_seed(0))
    listen = Listening(x, most)
    see = mean_activations(listen, [Member(sae, 0, SITE)], lambda *run: heard.append(run))
    means = see(["0", "1", "2"], lambda *now: told.append(now))
    expected = torch.stack([sae.encode(prompt[:, 1]).mean((0, 1, 2)) for prompt in x])
    assert means.shape == (3, sae.d_sae) and torch.allclose(means, expected, atol=1e-6)
    sizes = [len(part) for part in listen.ran]
    assert max(sizes) == most and [prompt for part in listen.ran for prompt in part] == ["0", "1", "2"]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    shares = [(end - size * (1 - step / 3)) / 3 for end, size in zip(ends, sizes, strict=True) for step in (1, 2, 3)]
    assert [share for share, _ in told] == pytest.approx(shares)
    for number, (prompt, latent, [reader]) in enumerate(heard):
        assert prompt == str(number) and torch.equal(latent, x[number, -1, 1, :, :1, :4])
        strongest = sae.encode(x[number, 1:, 1]).amax((0, 2))  # the first call is on noise
        torch.testing.assert_close(reader.peaks.peaks().strength, strongest.relu())


def test_rows_that_are_no_equal_part_for_each_prompt_are_refused() -> None:
    sae = small_sae("relu")
    together = Together([FeatureReader(sae, SITE) for _ in range(2)])
    with pytest.raises(ValueError, match=r"^model: a part of a batch has 3 rows for 2 prompts that run together"):
        together(torch.zeros(3, 5, sae.d_in), Moment(1.0, (COND,), 0, 2, 10))
