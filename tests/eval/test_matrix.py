"""Reading result files into the matrix, and writing the matrix out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import ProbeError
from eval.matrix import check_score, read_matrix


def cell(value: float, **other: Any) -> dict[str, Any]:
    items = [
        {"id": "a", "value": value, "weight": 1.0, "text": "2 + 2 =", "answer": "4"},
        {"id": "b", "value": value, "weight": 1.0, "text": "2 + 3 =", "answer": "6"},
    ]
    return {
        "task": "sums", "task_version": "1.0", "metric": "acc", "group": "reasoning",
        "higher_is_better": True, "margin": None, "value": value, "stderr": 0.25, "num_items": 2,
        "shots": 0, "chat": False, "fingerprint": "f0", "seconds": 1.0, "items": items, **other,
    }  # fmt: skip


def write(path: Path, probes: dict[str, Any], suite_hash: str = "5d2e91ab") -> Path:
    result = {"version": 1, "suite": "small", "suite_hash": suite_hash, "probes": probes}
    path.write_text(json.dumps(result))
    return path


def test_rows_are_the_files_that_exist_in_the_order_of_the_chain(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", {"sums": cell(0.5), "facts": cell(1.0)})
    sft = write(tmp_path / "sft.json", {"facts": cell(0.0), "sums": cell(0.25, margin=0.1)})
    nodes = [
        ("base", "base-0c1f77aa", base),
        ("pretrain", "pretrain-3fa9c1d2", tmp_path / "none.json"),
        ("sft", "sft-91be04e7", sft),
    ]
    matrix = read_matrix(nodes, "small", "5d2e91ab")
    assert [row.stage for row in matrix.rows] == ["base", "sft"]
    assert matrix.probes == ("sums", "facts")
    score = matrix.row("sft").scores["sums"]
    assert (score.value, score.margin, score.items[1].answer) == (0.25, 0.1, "6")
    assert matrix.row("sft-91be04e7") is matrix.row("sft")


def test_csv_has_a_line_per_row_and_a_gap_for_a_missing_probe(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", {"sums": cell(0.5), "facts": cell(1.0)})
    sft = write(tmp_path / "sft.json", {"sums": cell(0.25)})
    matrix = read_matrix([("base", "b0", base), ("sft", "s1", sft)], "small", "5d2e91ab")
    assert matrix.to_csv() == (
        "stage,id,sums,sums_stderr,facts,facts_stderr\nbase,b0,0.5,0.25,1.0,0.25\nsft,s1,0.25,0.25,,\n"
    )


def test_json_is_plain_and_without_items(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", {"sums": cell(0.5)})
    tree = read_matrix([("base", "b0", base)], "small", "5d2e91ab").to_json()
    assert json.loads(json.dumps(tree)) == tree
    assert tree["rows"][0]["scores"]["sums"] == {
        "metric": "acc", "group": "reasoning", "higher_is_better": True, "margin": None,
        "value": 0.5, "stderr": 0.25, "num_items": 2,
    }  # fmt: skip


def test_no_file_at_all_is_an_empty_matrix(tmp_path: Path) -> None:
    matrix = read_matrix([("base", "b0", tmp_path / "none.json")], "small", "5d2e91ab")
    assert (matrix.rows, matrix.probes) == ((), ())


def test_a_row_of_another_suite_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "base.json", {"sums": cell(0.5)}, "00000000")
    with pytest.raises(ProbeError, match="was measured with suite 00000000"):
        read_matrix([("base", "b0", path)], "small", "5d2e91ab")


def test_a_half_written_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "base.json", {"sums": cell(0.5)})
    path.write_text(path.read_text()[:100])
    with pytest.raises(ProbeError, match=r"is not a whole probe result.*delete it"):
        read_matrix([("base", "b0", path)], "small", "5d2e91ab")


def test_nan_is_a_failure_and_not_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "base.json", {"sums": cell(float("nan"))})
    with pytest.raises(ProbeError, match="probe sums: value is nan, not a finite number"):
        read_matrix([("base", "b0", path)], "small", "5d2e91ab")


def test_equal_item_ids_are_refused(tmp_path: Path) -> None:
    tree = cell(0.5)
    tree["items"][1]["id"] = "a"
    path = write(tmp_path / "base.json", {"sums": tree})
    with pytest.raises(ProbeError, match="equal ids"):
        read_matrix([("base", "b0", path)], "small", "5d2e91ab")


def test_other_items_and_other_numbers_of_a_checked_score_are_checked_anew(tmp_path: Path) -> None:
    base = write(tmp_path / "base.json", {"sums": cell(0.5)})
    score = read_matrix([("base", "b", base)], "small", "5d2e91ab").rows[0].scores["sums"]
    assert score.sound_items is score.items
    relabelled = replace(score, group="language")
    assert relabelled.sound_items is score.items
    check_score(relabelled)
    nan = replace(score.items[0], value=float("nan"))
    with pytest.raises(ProbeError, match=r"item a is nan"):
        check_score(replace(relabelled, items=(nan, score.items[1])))
    with pytest.raises(ProbeError, match=r"equal ids"):
        check_score(replace(relabelled, items=(score.items[0], score.items[0])))
    with pytest.raises(ProbeError, match=r"no items"):
        check_score(replace(relabelled, items=()))
    with pytest.raises(ProbeError, match=r"stderr is inf"):
        check_score(replace(relabelled, stderr=float("inf")))


def test_an_unknown_row_gets_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "base.json", {"sums": cell(0.5)})
    matrix = read_matrix([("base", "b0", path)], "small", "5d2e91ab")
    with pytest.raises(ProbeError, match="no row 'bse'; did you mean 'base'"):
        matrix.row("bse")


def test_clusters_parts_and_owners_are_read_where_a_file_has_them(tmp_path: Path) -> None:
    new = cell(0.5, parts={"shots": 5, "prompt": "Q:"}, owner="sft")
    new["items"][0]["cluster"] = "text 1"
    tree = {"sums": new, "facts": cell(1.0)}
    path = write(tmp_path / "base.json", tree)
    scores = read_matrix([("base", "b0", path)], "small", "5d2e91ab").rows[0].scores
    assert [item.cluster for item in scores["sums"].items] == ["text 1", ""]
    assert (scores["sums"].parts, scores["sums"].owner) == ({"shots": "5", "prompt": "Q:"}, "sft")
    assert (scores["facts"].parts, scores["facts"].owner) == ({}, None)


def test_the_number_type_is_a_part_of_how_a_cell_was_measured(tmp_path: Path) -> None:
    path = write(tmp_path / "base.json", {"sums": cell(0.5, dtype="float32"), "facts": cell(1.0)})
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    scores = read_matrix([("base", "b0", path)], "small", "5d2e91ab").rows[0].scores
    assert scores["sums"].parts == {"dtype": "float32"}
    assert scores["facts"].parts == {"dtype": "bfloat16"}


def test_what_came_later_may_be_missing(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", {"sums": cell(0.5)})
    score = read_matrix([("base", "b0", old)], "small", "5d2e91ab").rows[0].scores["sums"]
    assert (score.owner, score.facet, score.parts, score.is_drift) == (None, None, {}, False)
    assert {(item.cluster, item.split) for item in score.items} == {("", "")}
    whole = cell(0.5, owner="sft", facet="can", parts={"shots": "5"}, is_drift=True)
    whole["items"][0] |= {"cluster": "bread", "split": "dev"}
    new = write(tmp_path / "new.json", {"sums": whole})
    score = read_matrix([("base", "b0", new)], "small", "5d2e91ab").rows[0].scores["sums"]
    assert (score.owner, score.facet, score.parts, score.is_drift) == (
        "sft", "can", {"shots": "5"}, True,
    )  # fmt: skip
    assert [(item.cluster, item.split) for item in score.items] == [("bread", "dev"), ("", "")]
