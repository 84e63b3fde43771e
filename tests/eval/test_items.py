"""Cells from lm-eval's results: groups, filters, and what is refused."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cpt.errors import ProbeError
from cpt.ids import short_hash
from eval.items import read_cell
from eval.split import split_of
from eval.suite import Probe

TASK = SimpleNamespace(OUTPUT_TYPE="generate_until", doc_to_text=lambda doc: doc["question"])


def probe(metric: str | None = None, task: str = "sums") -> Probe:
    return Probe("sums", task, "reasoning", metric, 0, False, None, None, None, None, "f0")


def sample(doc_id: int, value: Any, kind: str = "none", reply: Any = "4") -> dict[str, Any]:
    return {
        "doc_id": doc_id, "doc_hash": f"{doc_id:064d}", "doc": {"question": f"{doc_id} + 1\n="},
        "filter": kind, "acc": value, "resps": [[reply]], "filtered_resps": [reply],
        "arguments": [("prompt", {})],
    }  # fmt: skip


def results(scores: dict[str, float], samples: dict[str, Any], name: str = "sums") -> Any:
    return {
        "results": {name: {"name": name, "alias": name, "sample_len": 2, **scores}},
        "higher_is_better": {name: {"acc": True}},
        "versions": {name: 1.0}, "n-shot": {name: 0}, "samples": samples,
    }  # fmt: skip


def test_a_cell_has_the_number_its_error_and_its_items_in_order() -> None:
    rows = [sample(1, 0.0), sample(0, 1.0, reply=" 4\n")]
    found = results({"acc,none": 0.5, "acc_stderr,none": 0.1}, {"sums": rows})
    cell = read_cell(found, probe(), {"sums": TASK})
    assert (cell["metric"], cell["value"], cell["num_items"]) == ("acc", 0.5, 2)
    assert cell["stderr"] == pytest.approx(0.5)  # s / sqrt(2) with s = sqrt(1/2)
    assert [item["value"] for item in cell["items"]] == [1.0, 0.0]
    assert (cell["items"][0]["text"], cell["items"][0]["answer"]) == ("0 + 1 =", "4")


def test_a_document_without_bytes_is_refused() -> None:
    rows = [{**sample(0, 0.0), "bits_per_byte": [-3.0, 4]}]
    rows += [{**sample(1, 0.0), "bits_per_byte": [0.0, 0]}]
    found = results({"bits_per_byte,none": 1.0}, {"sums": rows})
    found["higher_is_better"]["sums"]["bits_per_byte"] = False
    with pytest.raises(ProbeError, match="sums: a document of 0 bytes has no bits per byte"):
        read_cell(found, probe("bits_per_byte"), {"sums": TASK})


@pytest.mark.parametrize("value", [2 / 3, 0.5 * (0.5 + 1)])
def test_a_group_is_the_mean_of_its_items_or_of_its_tasks(value: float) -> None:
    samples = {"a": [sample(0, 1.0), sample(1, 0.0)], "b": [sample(0, 1.0)]}
    found = results({"acc,none": value}, samples, "all")
    cell = read_cell(found, probe(task="all"), {"a": TASK, "b": TASK})
    items = cell["items"]
    weights = [item["weight"] for item in items]
    mean = sum(item["value"] * item["weight"] for item in items) / sum(weights)
    assert mean == pytest.approx(cell["value"]) == pytest.approx(value)
    assert len({item["id"] for item in items}) == 3


def test_a_metric_under_several_filters_must_be_named() -> None:
    rows = [sample(i, float(i), kind) for kind in ("strict", "loose") for i in range(2)]
    found = results({"acc,strict": 0.5, "acc,loose": 0.5}, {"sums": rows})
    with pytest.raises(ProbeError, match="reports 'acc,strict' and 'acc,loose'"):
        read_cell(found, probe("acc"), {"sums": TASK})
    cell = read_cell(found, probe("acc,loose"), {"sums": TASK})
    assert (cell["metric"], cell["num_items"]) == ("acc,loose", 2)


@pytest.mark.parametrize(
    ("scores", "asked", "message"),
    [
        ({"acc,none": 0.5}, probe("acc_nrm"), "no metric 'acc_nrm'"),
        ({"acc,none": math.nan}, probe(), "acc is nan, not a finite number"),
        ({"acc,none": "N/A"}, probe(), "acc is 'N/A', not a finite number"),
        ({"acc,none": 0.6}, probe(), "is no mean over its 2 items"),
        ({"f1,none": 0.5}, probe(), "does not say whether a higher f1 is better"),
        ({"acc,none": 0.5}, probe(task="tagged"), "tagged is a tag, not one task"),
    ],
)
def test_refusals(scores: dict[str, Any], asked: Probe, message: str) -> None:
    found = results(scores, {"sums": [sample(0, 1.0), sample(1, 0.0)]})
    with pytest.raises(ProbeError, match=message):
        read_cell(found, asked, {"sums": TASK})


def test_items_carry_cluster_and_split_only_where_there_are_any() -> None:
    rows = [sample(number, float(number % 2)) for number in range(6)]
    for row in rows:
        row["doc_hash"] = short_hash(row["doc_id"], 64)
        row["doc"]["topic"] = "bread" if row["doc_id"] < 3 else {"long": "x" * 100}
    found = results({"acc,none": 0.5}, {"sums": rows})
    plain = read_cell(found, probe(), {"sums": TASK})["items"]
    assert {key for item in plain for key in item} == {"id", "value", "weight", "text", "answer"}
    split = read_cell(found, replace(probe(), dev=0.5), {"sums": TASK})["items"]
    assert [item["split"] for item in split] == [split_of(item["id"], 0.5) for item in split]
    assert {item["split"] for item in split} == {"dev", "test"}
    both = read_cell(found, replace(probe(), dev=0.5, cluster="topic"), {"sums": TASK})["items"]
    assert {item["cluster"] for item in both[:3]} == {"bread"}
    assert {len(item["cluster"]) for item in both[3:]} == {16}
    assert len({item["split"] for item in both[:3]}) == len({i["split"] for i in both[3:]}) == 1
    with pytest.raises(ProbeError, match=r"cluster: its documents have no 'topik'; did you mean"):
        read_cell(found, replace(probe(), cluster="topik"), {"sums": TASK})


def test_a_direction_fills_in_what_the_task_does_not_say_and_must_not_contradict_it() -> None:
    found = results({"words,none": 0.5}, {"sums": [sample(0, 1.0), sample(1, 0.0)]})
    for row in found["samples"]["sums"]:
        row["words"] = row["acc"]
    cell = read_cell(found, replace(probe("words"), direction="lower"), {"sums": TASK})
    assert (cell["higher_is_better"], cell["is_drift"]) == (False, False)
    cell = read_cell(found, replace(probe("words"), direction="none"), {"sums": TASK})
    assert (cell["higher_is_better"], cell["is_drift"]) == (True, True)
    found = results({"acc,none": 0.5}, {"sums": [sample(0, 1.0), sample(1, 0.0)]})
    with pytest.raises(
        ProbeError, match="probe sums: direction: 'lower', but the task says that hi"
    ):
        read_cell(found, replace(probe("acc"), direction="lower"), {"sums": TASK})


def test_a_metric_of_some_documents_has_their_items_only() -> None:
    rows = [sample(number, 1.0) for number in range(3)]
    rows[1]["form"] = 0.0
    rows[2]["form"] = 1.0
    found = results({"acc,none": 1.0, "form,none": 0.5}, {"sums": rows})
    asked = replace(probe("form"), direction="higher")
    cell = read_cell(found, asked, {"sums": TASK})
    assert (cell["num_items"], cell["value"]) == (2, 0.5)


def test_a_cell_says_what_was_measured_and_for_whom() -> None:
    found = results({"acc,none": 0.5}, {"sums": [sample(0, 1.0), sample(1, 0.0)]})
    asked = replace(probe(), facet="can", owner="sft", parts={"task": "t0"})
    cell = read_cell(found, asked, {"sums": TASK})
    assert (cell["facet"], cell["owner"]) == ("can", "sft")
    assert cell["parts"] == {"task": "t0", "task_version": "1.0"}
