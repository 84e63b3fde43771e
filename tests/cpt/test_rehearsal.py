"""Old rows as batches: whole cycles, no state, the same mean at any accumulation and number of processes."""

import pytest

from cpt.errors import HookError
from cpt.rehearsal import IGNORED, Example, Rehearsal, collate, drawn


def example(length: int, prompt: int = 0) -> Example:
    ids = list(range(1, length + 1))
    return Example(ids, [IGNORED] * prompt + ids[prompt:])


@pytest.mark.parametrize(("number", "size"), [(10, 3), (10, 10), (3, 8), (1, 2), (7, 7)])
def test_every_row_is_drawn_once_before_any_is_drawn_again(number: int, size: int) -> None:
    rows = [row for step in range(number * 4) for row in drawn(number, size, step, seed=3)]
    assert len(rows) == number * 4 * size
    for start in range(0, len(rows) - number, number):
        assert sorted(rows[start : start + number]) == list(range(number))


def test_cycles_have_orders_of_their_own_and_the_seed_decides() -> None:
    first, second = drawn(50, 50, 0, seed=1), drawn(50, 50, 1, seed=1)
    assert first != second
    assert drawn(50, 50, 0, seed=2) != first
    assert drawn(50, 50, 0, seed=1) == first


def test_labels_and_predictions_are_counted_without_the_first_token() -> None:
    assert example(5).num_labels == 4
    assert example(5, prompt=3).num_labels == 2
    assert example(5, prompt=3).num_predictions == 4
    assert Example([1, 2], [1, IGNORED]).num_labels == 0


def test_padding_is_behind_the_mask_and_weighs_nothing() -> None:
    batch = collate([example(5, prompt=2), example(3)], "cpu", scale=0.25)
    assert batch.forward["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch.weight.tolist() == [[0, 0.25, 0.25, 0.25, 0], [0.25, 0.25, 0, 0, 0]]
    assert batch.predictions().tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_weights_of_a_step_sum_to_1_over_its_parts(parts: int) -> None:
    rehearsal = Rehearsal([example(length) for length in range(2, 12)], 5, seed=1, name="replay")
    batches = [rehearsal.batch(4, (part, parts), "cpu") for part in range(parts)]
    assert sum(float(b.weight.sum()) for b in batches if b) == pytest.approx(1.0)
    rows = sum(len(b.labels) for b in batches if b)
    assert rows == 5
    assert (parts > 5) == any(b is None for b in batches)


def test_every_position_may_count_and_the_last_of_a_prompt_begins_its_answer() -> None:
    prompt, answered = Example([1, 2, 3], [IGNORED] * 3), example(5, prompt=2)
    assert (prompt.num_counted("all"), answered.num_counted("all")) == (3, 4)
    assert (prompt.num_counted("labels"), answered.num_counted("labels")) == (0, 3)
    batch = collate([answered, prompt], "cpu", scale=0.5, counted="all")
    assert batch.weight.tolist() == [[0.5, 0.5, 0.5, 0.5, 0], [0.5, 0.5, 0.5, 0, 0]]
    assert batch.examples == (answered, prompt)


def test_prompts_are_rehearsed_where_every_position_counts() -> None:
    prompts = [Example([1] * length, [IGNORED] * length) for length in range(1, 6)]
    rehearsal = Rehearsal([*prompts, Example([], [])], 5, seed=1, name="lwf", counted="all")
    assert rehearsal.examples == prompts
    batches = [rehearsal.batch(2, (part, 3), "cpu") for part in range(3)]
    assert sum(float(b.weight.sum()) for b in batches if b) == pytest.approx(1.0)
    weights = [float(w) for b in batches if b for w in b.weight.flatten() if w]
    assert weights == pytest.approx([1 / 15] * 15)
    with pytest.raises(HookError, match="lwf: no old row has a token"):
        Rehearsal([Example([], [])], 2, seed=1, name="lwf", counted="all")


def test_rows_without_a_label_are_refused_where_no_others_are() -> None:
    prompts = [Example([1, 2, 3], [IGNORED] * 3)]
    with pytest.raises(HookError, match="agem: no old row has a token to predict"):
        Rehearsal(prompts, 2, seed=1, name="agem")
    both = Rehearsal([*prompts, example(4)], 2, seed=1, name="agem")
    assert both.examples == [example(4)]
