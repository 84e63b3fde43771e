"""The gate acts on regressions only, and says what it saw."""

from dataclasses import replace

import pytest

from cpt.errors import ProbeError
from eval.gate import judge, num_verdicts
from eval.matrix import Item, Matrix, Row, Score
from eval.means import ratio_stderr, weighted_mean
from eval.noise import Noise


def score(probe: str, right: int, total: int, scale: float = 1.0) -> Score:
    items = tuple(Item(f"i{i}", scale * (i < right), 1.0, "", "") for i in range(total))
    metric, higher = ("acc", True) if scale == 1 else ("bits_per_byte", False)
    value, stderr = weighted_mean(items), ratio_stderr(items)
    return Score(probe, metric, "knowledge", higher, None, value, stderr, items, "f")


def matrix(base: list[Score], sft: list[Score]) -> Matrix:
    rows = tuple(
        Row(stage, f"{stage}-0", {s.probe: s for s in scores})
        for stage, scores in (("base", base), ("sft", sft))
    )
    return Matrix("small", "5d2e91ab", rows, tuple(rows[0].scores))


SUMS = score("sums", 50, 1000)


def test_a_regression_stops_or_warns_as_configured() -> None:
    found = matrix([score("facts", 400, 1000), SUMS], [score("facts", 340, 1000), SUMS])
    verdict = judge(found, "sft", 0.02, "stop")
    assert (verdict.action, verdict.against) == ("stop", "base")
    assert [change.probe for change in verdict.regressed] == ["facts"]
    assert judge(found, "sft", 0.02, "warn").action == "warn"
    assert verdict.messages == (
        "facts fell by 6.0 points (+-0.8), more than its margin of 2.0; "
        "p < 0.001 after Holm over 2 probes",
    )


def test_an_undecided_probe_passes_and_says_what_would_decide() -> None:
    found = matrix([score("facts", 40, 100)], [score("facts", 38, 100)])
    verdict = judge(found, "sft", 0.02, "stop")
    assert verdict.action == "pass"
    assert [change.probe for change in verdict.undecided] == ["facts"]
    assert verdict.messages == (
        "facts fell by 2.0 points (+-1.4): 100 items cannot tell whether it stays within its "
        "margin of 2.0; the smallest excess they would show is 10.6; about 1500 items would tell a "
        "fall of twice the margin",
    )


def test_a_row_like_the_base_passes_without_a_word() -> None:
    verdict = judge(matrix([SUMS], [SUMS]), "sft", 0.02, "stop")
    assert (verdict.action, verdict.messages) == ("pass", ())


def test_few_equal_items_show_little_and_say_so() -> None:
    same = score("facts", 30, 60)
    (message,) = judge(matrix([same], [same]), "sft", 0.02, "stop").messages
    assert message.startswith(
        "facts did not change (+-0.0): 60 items cannot tell whether it stays "
    )


def test_a_p_value_just_below_the_level_does_not_look_like_it() -> None:
    found = matrix([score("facts", 50, 100)], [score("facts", 44, 100)])  # p = 1 / 64
    three = judge(found, "sft", 0.0, "stop", num_stages=3)
    assert three.messages[0].endswith("; p = 0.0469 after Holm over 1 probe and 3 verdicts")


def test_few_clusters_say_that_they_are_few() -> None:
    def clustered(right: int, size: int) -> Score:
        same = score("facts", right, 120)
        items = tuple(replace(item, cluster=f"c{n // size}") for n, item in enumerate(same.items))
        return replace(same, items=items)

    for size, told in (
        (15, "120 items in 8 clusters cannot tell whether it stays within its margin of 2.0; "
             "fewer than 10 tell nothing"),
        (10, "120 items in 12 clusters cannot tell whether it stays within its margin of 2.0; "
             "the smallest excess"),
    ):  # fmt: skip
        found = matrix([clustered(110, size)], [clustered(100, size)])
        (message,) = judge(found, "sft", 0.02, "stop").messages
        assert told in message


def test_stages_share_the_level() -> None:
    found = matrix([score("facts", 50, 100)], [score("facts", 41, 100)])  # p = 1 / 512
    alone = judge(found, "sft", 0.0, "stop")
    assert alone.messages[0].endswith("; p = 0.00391 after Holm over 1 probe")
    four = judge(found, "sft", 0.0, "stop", num_stages=4)
    assert four.messages[0].endswith("; p = 0.00781 after Holm over 1 probe and 4 verdicts")
    assert judge(found, "sft", 0.0, "stop", num_stages=26).action == "pass"


def test_a_base_that_measures_differently_each_time_stops_nothing_by_that() -> None:
    found = matrix([score("facts", 400, 1000)], [score("facts", 340, 1000)])
    noise = {"facts": Noise("facts", 1000, 90, 1.0, 0.05, 0.05)}
    assert judge(found, "sft", 0.02, "stop").action == "stop"
    assert judge(found, "sft", 0.02, "stop", noise=noise).action == "pass"


def test_losses_are_told_in_their_own_unit() -> None:
    found = matrix([score("text", 500, 1000, 4.0)], [score("text", 600, 1000, 4.0)])
    (message,) = judge(found, "sft", 0.02, "warn").messages
    assert message.startswith(
        "text rose by 0.400 bits_per_byte (+-0.038), more than its margin of 0.020"
    )


def test_the_base_row_is_not_judged() -> None:
    with pytest.raises(ProbeError, match="base is the base row"):
        judge(matrix([SUMS], [SUMS]), "base", 0.02, "warn")


def test_a_stage_without_a_row_is_refused() -> None:
    with pytest.raises(ProbeError, match="no row 'dpo'"):
        judge(matrix([SUMS], [SUMS]), "dpo", 0.02, "warn")


def test_a_probe_that_one_row_lacks_is_refused() -> None:
    facts = score("facts", 40, 100)
    with pytest.raises(ProbeError, match="sft has no score for facts, which base has"):
        judge(matrix([facts, SUMS], [SUMS]), "sft", 0.02, "warn")
    with pytest.raises(ProbeError, match="base has no score for facts, which sft has"):
        judge(matrix([SUMS], [facts, SUMS]), "sft", 0.02, "warn")


def test_rows_measured_differently_are_refused() -> None:
    with pytest.raises(ProbeError, match="measured differently"):
        judge(matrix([SUMS], [replace(SUMS, fingerprint="g")]), "sft", 0.02, "warn")


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ProbeError, match="needs the base model's row"):
        judge(Matrix("small", "5d2e91ab", (), ()), "sft", 0.02, "warn")


def test_what_takes_a_stages_place_shares_the_level_from_the_start() -> None:
    found = matrix([score("facts", 50, 100)], [score("facts", 41, 100)])  # p = 1 / 512
    verdict = judge(found, "sft", 0.0, "repair", num_stages=4)
    assert verdict.messages[0].endswith("; p = 0.0156 after Holm over 1 probe and 8 verdicts")
    own = judge(found, "sft", 0.0, "warn", num_stages=4, actions={"facts": "rollback"})
    assert own.regressed == verdict.regressed
    assert num_verdicts(4, ["warn", "stop"]) == 4
