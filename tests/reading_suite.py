"""A suite that any model answers in no time: bits per byte of a few texts; answers, where wanted."""

import json
from pathlib import Path
from typing import Any

import yaml


def write_suite(folder: Path, name: str, texts: list[str], **settings: Any) -> Path:
    """Write `<name>.yaml` and its task `reads-<name>`; `settings` are those of the probe, called reads."""
    tasks = folder / f"{name}-tasks"
    tasks.mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tasks / "rows.jsonl").write_text(rows)
    task = {
        "task": f"reads-{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
        "metadata": {"version": 1.0},
    }
    (tasks / "reads.yaml").write_text(yaml.safe_dump(task))
    probe = {"task": f"reads-{name}", "group": "language", **settings}
    file = folder / f"{name}.yaml"
    tree = {"name": name, "include": tasks.name, "probes": {"reads": probe}}
    file.write_text(yaml.safe_dump(tree))
    return file


def numbered(numbers: range) -> list[str]:
    """A text for each number."""
    return [f"the number {number} is not a word" for number in numbers]


def add_answers(file: Path, texts: list[str]) -> Path:
    """Add a probe called writes, which generates, to a suite that `write_suite` wrote."""
    tree = yaml.safe_load(file.read_text())
    tasks = file.parent / tree["include"]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tasks / "asked.jsonl").write_text(rows)
    task = {
        "task": f"writes-{file.stem}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "asked.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
        "metadata": {"version": 1.0},
    }
    (tasks / "writes.yaml").write_text(yaml.safe_dump(task))
    tree["probes"]["writes"] = {"task": task["task"], "group": "instruction"}
    file.write_text(yaml.safe_dump(tree))
    return file
