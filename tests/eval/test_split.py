"""The split of an item: a function of its document, and scores of one side."""

from dataclasses import replace
from typing import Literal

import pytest

from cpt.errors import ProbeError
from cpt.ids import short_hash
from eval.matrix import Item, Row, Score
from eval.split import only, split_of

IDS = [short_hash(number, 16) for number in range(2000)]


def test_without_a_share_there_is_no_split() -> None:
    assert {split_of(name, 0.0) for name in IDS} == {""}


def test_the_share_is_met_and_grows_by_items_only() -> None:
    dev = {share: {n for n in IDS if split_of(n, share) == "dev"} for share in (0.1, 0.3, 0.9)}
    for share, found in dev.items():
        error = (share * (1 - share) * len(IDS)) ** 0.5
        assert abs(len(found) - share * len(IDS)) < 4 * error
    assert dev[0.1] < dev[0.3] < dev[0.9]


def test_neither_task_nor_repetition_changes_it_and_the_rule_stays() -> None:
    for name in IDS[:200]:
        assert (
            split_of(f"mmlu_law/{name}", 0.3) == split_of(name, 0.3) == split_of(f"{name}-2", 0.3)
        )
    # Pinned: another rule would put items that have chosen models among those that are reported.
    assert "".join(split_of(name, 0.3)[0] for name in IDS[:20]) == "dtttttttddddtttttddd"


def test_a_cluster_stays_together() -> None:
    assert len({split_of(name, 0.5, "passage 7") for name in IDS}) == 1
    sides = {split_of("x", 0.5, f"passage {number}") for number in range(50)}
    assert sides == {"dev", "test"}


def score(*splits: Literal["dev", "test", ""]) -> Score:
    items = tuple(
        Item(str(n), float(n), 1.0 + n, "", "", split=split) for n, split in enumerate(splits)
    )
    return Score("sums", "acc", "reasoning", True, None, 9.0, 9.0, items, "f0")


def test_only_keeps_one_side_and_computes_value_and_error_anew() -> None:
    both = score("dev", "test", "test", "dev")
    test = only(both, "test")
    assert [item.id for item in test.items] == ["1", "2"]
    assert test.value == pytest.approx((2 * 1 + 3 * 2) / 5)
    # e_i = w_i (v_i - R) / sum(w) = -+ 0.24; n / (n - 1) * sum(e^2) = 2 * 2 * 0.24^2
    assert test.stderr == pytest.approx(0.48)
    assert only(both, "dev").value == pytest.approx((1 * 0 + 4 * 3) / 5)
    assert replace(test, items=(), value=0, stderr=0) == replace(both, items=(), value=0, stderr=0)
    row = Row("sft", "sft-1", {"sums": both, "whole": score("", "")})
    assert only(row, "test").scores == {"sums": test, "whole": row.scores["whole"]}


def test_a_side_without_items_is_refused() -> None:
    with pytest.raises(ProbeError, match="sums: none of its 2 items is in the dev split; raise"):
        only(score("test", "test"), "dev")
