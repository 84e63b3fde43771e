"""The items that two rows share, whatever their order."""

from eval.matrix import Item, Matrix, Row, Score
from eval.pairs import paired_items
from eval.resample import common_items


def row(name: str, ids: str) -> Row:
    items = tuple(Item(key, float(ord(key)), 1.0, "", "") for key in ids)
    score = Score("sums", "acc", "reasoning", True, None, 0.5, 0.1, items, "f0")
    return Row(name, name, {"sums": score})


def test_items_are_paired_by_id_in_the_order_of_the_first_row() -> None:
    for ids, shared in (("abc", "abc"), ("cab", "abc"), ("cxa", "ac")):
        before, after = paired_items(row("base", "abc"), row("sft", ids), "sums")
        assert [item.id for item in before] == [item.id for item in after] == list(shared)
        assert [item.value for item in after] == [float(ord(key)) for key in shared]


def test_items_that_every_row_has_are_in_one_order() -> None:
    for last, shared in (("abc", "abc"), ("cba", "abc"), ("cxa", "ac")):
        rows = (row("base", "abc"), row("sft", "abc"), row("dpo", last))
        found = common_items(Matrix("small", "0", rows, ("sums",)), "sums")
        assert [[item.id for item in items] for items in found] == [list(shared)] * 3
