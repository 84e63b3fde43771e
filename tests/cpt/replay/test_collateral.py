"""mix-cd: the card's simulated stream, bins, floor, age, several processes as one."""

import numpy as np
import pytest

from cpt.errors import HookError
from cpt.replay.collateral import Collateral, quantile_bins


def test_bins_hold_equally_many_rows_whatever_their_order() -> None:
    losses = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert quantile_bins(losses, 3) == [2, 0, 1, 0, 1, 2]
    assert quantile_bins(losses[::-1], 3) == [2, 0, 1, 0, 1, 2][::-1]
    assert quantile_bins(np.ones(5), 3) == [0] * 5


def test_the_cards_stream_is_sampled_by_its_forget_rates() -> None:
    """True rates 0.8 and 0.1 of equal bins: 0.8 / 0.9 of the draws come from the first, and alpha is near."""
    bins = [0] * 100 + [1] * 100
    damage = Collateral(bins, 2)
    generator = np.random.default_rng(0)
    drawn, estimates = [], []
    for step in range(600):
        for row in damage.draw(32, generator):
            damage.observe(row, bool(generator.random() < (0.8 if row < 100 else 0.1)))
            if step >= 200:
                drawn.append(bins[row])
        damage.end_step()
        if step >= 200:
            estimates.append(damage.alpha)
    assert drawn.count(0) / len(drawn) == pytest.approx(0.8 / 0.9, abs=0.05)
    assert np.mean(estimates, axis=0) == pytest.approx([0.8, 0.1], abs=0.03)


def test_by_hand() -> None:
    damage = Collateral([0, 0, 0, 1], 2, discount=0.5, floor=0.1)
    assert damage.alpha.tolist() == [0.5, 0.5]
    assert damage.mass.tolist() == [0.75, 0.25]
    # 0.9 * [0.75, 0.25] + 0.1 / 2
    assert damage.probabilities == pytest.approx([0.725, 0.275])
    for row, lost in ((0, True), (1, True), (2, False), (3, False)):
        damage.observe(row, lost)
    assert damage.alpha.tolist() == [0.5, 0.5]  # not before the step ends
    damage.end_step()
    assert damage.alpha == pytest.approx([(1 + 2) / (2 + 3), 1 / 3])
    damage.end_step()  # a step older, without news
    assert damage.alpha == pytest.approx([(1 + 1) / (2 + 1.5), 1 / 2.5])


def test_a_bin_without_rows_is_never_drawn() -> None:
    damage = Collateral([0] * 5, 2)
    assert damage.probabilities.tolist() == [1.0, 0.0]
    assert set(damage.draw(500, np.random.default_rng(0))) == set(range(5))


def test_a_bin_that_is_never_forgotten_is_still_looked_at() -> None:
    damage = Collateral([0, 1], 2)
    for _ in range(500):
        damage.observe(0, True)
        for _ in range(20):
            damage.observe(1, False)
        damage.end_step()
    assert damage.probabilities[1] >= 0.05 / 2


def test_two_processes_learn_what_one_does() -> None:
    whole, first, second = (Collateral([0, 0, 1, 1], 2) for _ in range(3))
    seen = [(0, True), (1, False), (2, True), (3, True)]
    for row, lost in seen:
        whole.observe(row, lost)
    for part, own in ((first, seen[:1]), (second, seen[1:])):
        for row, lost in own:
            part.observe(row, lost)
    counts = first._new + second._new
    whole.end_step()
    for part in (first, second):
        part.end_step(lambda _: counts)
        assert part.alpha == pytest.approx(whole.alpha)


def test_what_was_learnt_is_saved() -> None:
    one, other = Collateral([0, 1], 2), Collateral([0, 1], 2)
    one.observe(0, True)
    one.end_step()
    other.load_state_dict(one.state_dict())
    assert other.probabilities.tolist() == one.probabilities.tolist()
    with pytest.raises(HookError, match="the saved state has 2 bins, this stage 3"):
        Collateral([0, 1, 2], 3).load_state_dict(one.state_dict())
