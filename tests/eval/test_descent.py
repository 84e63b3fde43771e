"""Which row came of which: lines, branches, merges and stages without a row."""

from eval.descent import descent, line


def test_a_line_is_a_graph_of_one_parent_each() -> None:
    parents = {"sft": ("base",), "dpo": ("sft",)}
    assert descent(("base", "sft", "dpo"), parents) == line(3)
    assert line(3).before == (0, 0, 1)
    assert line(3).last == (0, 1, 2)


def test_branches_and_merges_by_hand() -> None:
    stages = ("base", "code", "chat", "merged", "aside")
    parents = {"code": ("base",), "chat": ("base",), "merged": ("chat", "code"), "aside": ("chat",)}
    found = descent(stages, parents)
    assert found.before == (0, 0, 0, 2, 2)
    assert found.led_to == (
        frozenset({0}),
        frozenset({0, 1}),
        frozenset({0, 2}),
        frozenset({0, 1, 2, 3}),
        frozenset({0, 2, 4}),
    )
    assert found.last == (0, 2, 4)
    along = found.along(found.last)
    assert along == line(3)


def test_a_stage_without_a_row_is_passed_through() -> None:
    """A reward model has no row; what nobody knows a parent of started from the base."""
    parents = {"reward": ("sft",), "sft": ("base",), "ppo": ("reward",)}
    found = descent(("base", "sft", "ppo", "lost"), parents)
    assert found.before == (0, 0, 1, 0)
    assert found.led_to[2] == frozenset({0, 1, 2})
