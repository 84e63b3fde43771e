"""A suite that any model answers in no time: bits per byte of a few texts; answers, where wanted."""

import json
from pathlib import Path
from typing import Any

import yaml


def write_task(
    tasks: Path, name: str, texts: list[str], metric: str = "bits_per_byte", **settings: Any
) -> None:
    """Write a task that reads texts, `<name>.yaml` and its rows; `settings` go before its own."""
    tasks.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tasks / f"{name}.jsonl").write_text(rows)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": metric}],
        "metadata": {"version": 1.0},
    }
    (tasks / f"{name}.yaml").write_text(yaml.safe_dump(task | settings))


def write_suite(folder: Path, name: str, texts: list[str], **settings: Any) -> Path:
    """Write `<name>.yaml` and its task `reads-<name>`; `settings` are those of the probe, called reads."""
    tasks = folder / f"{name}-tasks"
    write_task(tasks, f"reads-{name}", texts)
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
    write_task(
        tasks,
        f"writes-{file.stem}",
        texts,
        output_type="generate_until",
        doc_to_text="{{text}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 4},
        metric_list=[{"metric": "exact_match", "aggregation": "mean"}],
    )
    tree["probes"]["writes"] = {"task": f"writes-{file.stem}", "group": "instruction"}
    file.write_text(yaml.safe_dump(tree))
    return file
