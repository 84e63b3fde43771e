"""Selections: the card's fixtures, brute force, and no silent sample in place of any (pitfall F21)."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from cpt.errors import HookError
from cpt.replay.selection import difficult, herding, kcenter, kmeans, quality


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_herding_on_the_cards_line() -> None:
    """x = 0, 1, 2, 9 with mean 3: first 2 (distance 1), then 1, whose mean with 2 is 1.5."""
    line = np.array([[0.0], [1.0], [2.0], [9.0]])
    assert herding(line, 1) == [2]
    assert herding(line, 2) == [2, 1]
    # 9 follows: (2 + 1 + 9) / 3 = 4 is nearer to 3 than (2 + 1 + 0) / 3 = 1.
    assert herding(line, 4) == [2, 1, 3, 0]
    assert herding(line, 9) == [2, 1, 3, 0]


def test_herding_is_the_greedy_solution() -> None:
    phi = random(0).normal(size=(40, 5))
    chosen: list[int] = []
    for number in range(1, 13):
        errors = {
            place: np.linalg.norm(phi.mean(0) - phi[[*chosen, place]].sum(0) / number)
            for place in range(40)
            if place not in chosen
        }
        chosen.append(min(errors, key=lambda place: (errors[place], place)))
        assert herding(phi, number) == chosen


def test_kcenter_covers_two_clusters_with_two_rows() -> None:
    near = random(1).normal(size=(20, 3))
    far = random(2).normal(size=(5, 3)) + 100
    one, other = kcenter(np.concatenate([near, far]), 2)
    assert (one < 20) != (other < 20)


def test_kcenter_is_within_twice_the_least_radius() -> None:
    phi = random(3).normal(size=(12, 2))

    def radius(centres: Sequence[int]) -> float:
        return float(np.linalg.norm(phi[:, None] - phi[list(centres)][None], axis=2).min(1).max())

    least = min(radius(centres) for centres in itertools.combinations(range(12), 3))
    assert radius(kcenter(phi, 3)) <= 2 * least
    assert sorted(kcenter(phi, 99)) == list(range(12))


def test_kcenter_never_takes_a_row_twice_even_among_copies() -> None:
    assert sorted(kcenter(np.zeros((4, 2)), 3)) == [0, 1, 2]


def test_kmeans_takes_the_row_nearest_to_each_centre() -> None:
    middle = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    around = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    phi = np.concatenate([np.concatenate([[centre], centre + around]) for centre in middle])
    for seed in range(5):
        assert sorted(kmeans(phi, 3, random(seed))) == [0, 5, 10]


def test_kmeans_gives_as_many_different_rows_as_asked() -> None:
    copies = np.repeat(np.eye(2), 5, axis=0)
    assert len(set(kmeans(copies, 4, random(0)))) == 4
    assert kmeans(copies, 10, random(0)) == list(range(10))
    phi = random(4).normal(size=(50, 3))
    assert kmeans(phi, 7, random(1)) == kmeans(phi, 7, random(1))


def test_difficult_takes_the_highest_losses_below_the_noise() -> None:
    losses = np.arange(100.0)[::-1].copy()  # row 0 has the highest, 99
    # The 95th percentile, from below, is 94: rows 0 to 4 are above it.
    assert difficult(losses, 3) == [5, 6, 7]
    assert difficult(losses, 3, percentile=100) == [0, 1, 2]
    assert len(difficult(losses, 100)) == 95
    with pytest.raises(HookError, match="the loss of row 1 is nan"):
        difficult(np.array([1.0, np.nan]), 1)


def test_quality_takes_the_highest_scores_first_of_equals_first() -> None:
    assert quality(np.array([1.0, 5.0, 3.0, 5.0]), 3) == [1, 3, 2]


def test_no_selection_is_a_random_sample_in_disguise() -> None:
    """Of 100 rows 10 lie far away; what each selection takes of them is no sample's."""
    phi = np.concatenate([np.zeros((90, 2)), np.array([[50.0, 0.0]] * 10)])
    assert sum(place >= 90 for place in kcenter(phi, 2)) == 1
    assert sum(place >= 90 for place in herding(phi, 10)) == 1  # the mean's own part
    assert sum(place >= 90 for place in kmeans(phi, 2, random(0))) == 1
