"""Metrics of continual learning on matrices computed by hand (methods cards A16, A35)."""

import math

import numpy as np
import pytest

from cpt.errors import ProbeError
from eval import metrics

BASE = [0.05, 0.10, 0.10]
ROWS = [[0.90, 0.20, 0.10], [0.95, 0.80, 0.30], [0.60, 0.85, 0.90]]
SCORES = np.array([BASE, *ROWS])
LEARNT = [1, 2, 3]
UP = [True] * 3


def test_the_matrix_by_hand() -> None:
    assert metrics.average(SCORES) == pytest.approx(0.78333, abs=1e-5)
    assert metrics.backward_transfer(SCORES, LEARNT) == pytest.approx(-0.125)
    assert metrics.forward_transfer(SCORES, LEARNT) == pytest.approx(0.15)
    assert metrics.forgetting(SCORES, LEARNT) == pytest.approx(0.15)
    assert metrics.drops(SCORES).max() == pytest.approx(0.35)
    assert metrics.retention(SCORES, LEARNT, UP) == pytest.approx(0.8646, abs=1e-4)
    expected = (0.90 + (0.95 + 0.80) / 2 + (0.60 + 0.85 + 0.90) / 3) / 3
    assert metrics.incremental_average(SCORES, LEARNT) == pytest.approx(expected)


def test_axes_in_front_are_kept() -> None:
    both = np.stack([SCORES, SCORES / 2])
    assert metrics.backward_transfer(both, LEARNT) == pytest.approx([-0.125, -0.0625])
    assert metrics.forward_transfer(both, LEARNT) == pytest.approx([0.15, 0.075])
    assert metrics.forgetting(both, LEARNT) == pytest.approx([0.15, 0.075])
    assert metrics.tax(both).shape == (2, 3)
    assert metrics.drops(both).shape == (2, 3)


def test_a_perplexity_that_rises_is_forgetting() -> None:
    scores = np.array([[11.0], [10.0], [12.0]])
    up = metrics.upwards(scores, [False])
    assert metrics.forgetting(up, [1]) == 2
    assert metrics.backward_transfer(up, [1]) == -2
    assert metrics.retention(scores, [1], [False]) == pytest.approx(10 / 12)
    assert metrics.relative_drift(scores, [False]) == pytest.approx([-100 / 11])


def test_two_stages_are_needed() -> None:
    for metric in (metrics.backward_transfer, metrics.forgetting):
        with pytest.raises(ProbeError, match="a stage before the last one teaches"):
            metric(SCORES[:2], [1, 1, 1])
    with pytest.raises(ProbeError, match="a stage after the first one teaches"):
        metrics.forward_transfer(SCORES, [1, 1, 1])


def test_no_ratio_of_almost_nothing() -> None:
    scores = np.array([[0.5, 0.0], [0.005, 0.2], [0.5, 0.3]])
    assert metrics.retention(scores, [1, 2], [True, True]) is None
    drift = metrics.relative_drift(scores, [True, True])
    assert drift[0] == 0
    assert math.isnan(drift[1])


def test_the_tax_of_the_hops_adds_up() -> None:
    hops = metrics.tax(SCORES)
    assert hops == pytest.approx([(0.25 - 1.2) / 3, (1.2 - 2.05) / 3, (2.05 - 2.35) / 3])
    assert hops.sum() == pytest.approx((0.25 - 2.35) / 3)
