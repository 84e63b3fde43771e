"""Repetition, on texts whose n-grams can be counted by hand."""

import pytest

from eval.behaviour.repetition import distinct, has_loop, repeated, units


def test_units_are_words_and_single_characters_without_spaces() -> None:
    assert units("It's 3 o'clock, non_stop!") == ["it's", "3", "o'clock", "non", "stop"]
    assert units("\u6211\u7528Python") == ["\u6211", "\u7528", "python"]
    assert units("  ...  ") == []


def test_rep_n_and_distinct_n_by_hand() -> None:
    # a b a b a: bigrams ab ba ab ba, of which 2 of 4 differ
    assert repeated("a b a b a", 2) == 0.5
    assert distinct("a b a b a", 2) == 0.5
    assert repeated("a b c", 4) == 0
    assert distinct("", 2) == 1
    assert repeated("x " * 8, 4) == pytest.approx(4 / 5)


def test_a_loop_is_eight_words_three_times() -> None:
    line = "one two three four five six seven eight. "
    assert not has_loop(line * 2)
    assert has_loop(line * 3)
    assert not has_loop("one two three four five six seven. " * 2)
    # 7 words three times make each of 7 rotations of 8 words at most twice.
    assert not has_loop("one two three four five six seven. " * 3)
    assert has_loop("no " * 10)
    assert not has_loop("no " * 9)
    assert has_loop("\u54c8" * 10)
