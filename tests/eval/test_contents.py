"""The texts of a suite's items, whoever brings the data."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt import corpora
from cpt.replay.hygiene import ProbeItems
from eval.contents import item_texts
from eval.suite import Suite, load_suite

ROWS = [
    {"text": f"number {n} of the passages that a task brings in its own file"} for n in range(5)
]
VIEW = [
    {"question": f"What is the name of town number {n}?", "choices": ["Rome", "a b"], "answer": 1}
    for n in range(4)
]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Two probes: one on a view of a corpus, the first three items of it; one with a file of its own."""

    def lines(file: Path, rows: list[Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    tasks = tmp_path / "tasks"
    lines(tasks / "rows.jsonl", ROWS)
    lines(tmp_path / "views" / "probe_towns.jsonl", VIEW)
    common = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}}
    reads = common | {
        "task": "reads",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    towns = common | {
        "task": "towns",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    for task in (reads, towns):
        (tasks / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.setattr(corpora, "BUILDERS", {"general": "m:C"})
    monkeypatch.setattr(corpora, "view_names", lambda builder: ["probe_towns"])
    monkeypatch.setattr(corpora, "fingerprint_of", lambda builder, source: "v1")
    monkeypatch.setattr(corpora, "views", lambda builder, source: tmp_path / "views")
    data = {"builder": "general", "view": "probe_towns"}
    probes = {
        "towns": {"group": "knowledge", "limit": 3, "data": data},
        "reads": {"group": "language", "metric": "bits_per_byte"},
    }
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps({"name": "small", "include": "tasks", "probes": probes}))
    return load_suite(file)


def test_every_text_of_every_item_that_is_measured(suite: Suite, tmp_path: Path) -> None:
    texts = list(item_texts(suite, tmp_path / "cache"))
    expected = [text for row in VIEW[:3] for text in [row["question"], *row["choices"]]]  # type: ignore[misc]
    assert texts == [*expected, *(row["text"] for row in ROWS)]
    items = ProbeItems(texts)
    assert items.are_in({"prompt": VIEW[0]["question"]})
    assert not items.are_in({"prompt": VIEW[3]["question"]})  # beyond the limit
    assert items.are_in({"text": f"Once more: {ROWS[4]['text']}"})
