"""Labels of today's suite on results of yesterday's."""

from eval.labels import relabelled
from eval.matrix import Item, Matrix, Row, Score

ITEMS = (Item("a", 1.0, 1.0, "", ""),)


def test_labels_are_those_of_the_chain_where_it_has_any() -> None:
    old = Score("sums", "acc", "code", True, 0.1, 1.0, 0.0, ITEMS, "f0", owner="sft", facet="how")
    row = Row("base", "base-0", {"sums": old, "facts": old})
    matrix = Matrix("small", "s0", (row,), ("sums", "facts"))
    declared = {"sums": {"group": "reasoning", "facet": "can", "owner": None, "margin": 0.5}}
    new = relabelled(matrix, declared).rows[0].scores
    found = new["sums"]
    assert (found.group, found.facet, found.owner, found.margin) == ("reasoning", "can", None, 0.1)
    assert new["facts"] == old  # a chain of before labels had groups only
