"""The search between a stage's parent and its result: bounded, and the best of what it saw."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.repair import Shares, count_groups, method_of, num_groups, search, write_average
from tests.tiny_stages import equal, weights_of


@dataclass(frozen=True)
class Seen:
    is_within: bool
    skill: float


class Watch:
    """Remembers what it was asked."""

    def __init__(self, is_within: Callable[[Shares], bool]) -> None:
        self.is_within = is_within
        self.asked: list[Shares] = []

    def __call__(self, shares: Shares) -> Seen:
        assert shares not in self.asked
        self.asked.append(shares)
        return Seen(self.is_within(shares), sum(shares))


def line(asked: list[Shares]) -> list[float]:
    assert all(len(set(shares)) == 1 for shares in asked)
    return [shares[0] for shares in asked]


def test_the_line_is_halved_between_what_holds_and_what_does_not() -> None:
    watch = Watch(lambda shares: shares[0] <= 0.6)
    assert search(watch, 1, 6) == (0.59375,)
    assert line(watch.asked) == [0.75, 0.5, 0.625, 0.5625, 0.59375]  # 1/32 apart: no more to learn


def test_a_small_share_is_found_below_the_grid() -> None:
    watch = Watch(lambda shares: shares[0] <= 0.1)
    assert search(watch, 1, 6) == (0.09375,)
    assert line(watch.asked) == [0.75, 0.5, 0.25, 0.125, 0.0625, 0.09375]


def test_attempts_are_bounded_and_none_may_hold() -> None:
    for most in (1, 2, 3, 8):
        watch = Watch(lambda shares: False)
        assert search(watch, 4, most) is None
        assert len(watch.asked) <= most


def test_the_parent_is_better_than_less_than_nothing() -> None:
    """It has a share and a skill of 0; an average as good as it is kept."""
    for skill, found in ((-1.0, None), (0.0, (0.9375,))):
        assert search(lambda shares, skill=skill: Seen(True, skill), 1, 3) == found  # type: ignore[misc]


def test_groups_that_do_no_harm_keep_all_that_they_learned() -> None:
    """Damage lies in group 1 alone: half of it at most is within the margin."""
    watch = Watch(lambda shares: shares[1] <= 0.5)
    assert search(watch, 4, 8) == (1.0, 0.5, 1.0, 1.0)
    assert len(watch.asked) == 8
    assert line(watch.asked[:4]) == [0.75, 0.5, 0.625, 0.5625]


def test_groups_are_tried_from_the_parent_where_the_line_fails() -> None:
    watch = Watch(lambda shares: shares[0] == 0)
    assert search(watch, 4, 8) == (0.0, 1.0, 1.0, 1.0)


def test_groups_are_blocks_of_layers_and_the_head() -> None:
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    layers = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(30)]
    assert count_groups([*names, *layers]) == 4
    assert count_groups([*names, *layers[:2]]) == 3
    assert count_groups(names) == 1


def test_the_ends_of_the_line_are_parent_and_result(stages: Any, tmp_path: Path) -> None:
    result, parent = (job.output / "checkpoint" for job in (stages.sft, stages.pretrain))
    assert num_groups(result, parent) == 3
    for name, shares, folder in (("one", (1.0,), result), ("zero", (0.0, 0.0, 0.0), parent)):
        (tmp_path / name).mkdir()
        write_average(result, parent, shares, tmp_path / name)
        assert equal(weights_of(tmp_path / name), weights_of(folder))


def test_each_group_has_its_own_share(stages: Any, tmp_path: Path) -> None:
    """(1 - a) parent + a result, by hand."""
    result, parent = (job.output / "checkpoint" for job in (stages.sft, stages.pretrain))
    shares = (1.0, 0.25, 0.0)
    write_average(result, parent, shares, tmp_path)
    found, new, old = (weights_of(folder) for folder in (tmp_path, result, parent))
    for name, weight in found.items():
        group = 2 if "layers" not in name and "embed" not in name else int(".layers.1." in name)
        expected = (1 - shares[group]) * old[name] + shares[group] * new[name]
        assert (weight - expected).abs().max() < 1e-6, name


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.5, 0.5), (0.5, 0.25, 1.0)])
def test_shares_are_the_results(shares: Shares) -> None:
    method = method_of(shares)
    assert method.problems(2) == []
    given = getattr(method, "weights", None) or method.alphas()  # type: ignore[attr-defined]
    assert given[0] == 0.5
