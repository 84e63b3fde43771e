"""HellaSwag, LAMBADA and GSM8K of a data folder as a suite of local lm-eval tasks, written on the fly."""

import json
from pathlib import Path
from typing import Any

import yaml

MEAN = {"aggregation": "mean", "higher_is_better": True}
SHOTS = 4
_SOLUTION = "Question: {question}\nAnswer:"

#: Task -> file in the data folder, settings of lm-eval, settings of the probe.
TASKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "hellaswag": (
        "eval/hellaswag_val_a.jsonl",
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
        },
        {"group": "reasoning", "metric": "acc"},
    ),
    "lambada": (
        "eval/lambada_a.jsonl",
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{continuation}}",
            "metric_list": [{"metric": "acc", **MEAN}],
        },
        {"group": "language", "metric": "acc"},
    ),
    "gsm8k_solutions": (
        "math/gsm8k_test.jsonl",
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", **MEAN}],
        },
        {"group": "reasoning", "metric": "acc"},
    ),
    "gsm8k": (
        "math/gsm8k_test.jsonl",
        {
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{final}}",
            "generation_kwargs": {"do_sample": False, "max_gen_toks": 64, "until": ["Question:"]},
            "filter_list": [
                {
                    "name": "final",
                    "filter": [
                        {"function": "regex", "regex_pattern": "#### (-?[0-9.,]+)"},
                        {"function": "take_first"},
                    ],
                }
            ],
            "metric_list": [{"metric": "exact_match", **MEAN}],
        },
        {"group": "reasoning", "metric": "exact_match"},
    ),
}


def write(data: Path, folder: Path, limit: int) -> tuple[Path | None, list[str]]:
    """Write the suite.

    Args:
        data: see the README of the data; holds `eval` and `math`.
        folder: for the suite and its tasks.
        limit: items of each task.

    Returns: the suite, unless no file is there, and a line for each task that is left out.
    """
    tasks, probes, skipped = folder / "tasks", dict[str, Any](), list[str]()
    tasks.mkdir(parents=True, exist_ok=True)
    for name, (file, settings, probe) in TASKS.items():
        if not (data / file).is_file():
            skipped.append(f"{name}: skipped, $CPT_DATA/{file} is not there")
            continue
        rows = [json.loads(line) for line in (data / file).read_text("utf-8").splitlines()]
        if name.startswith("gsm8k"):
            rows = _with_prompt(rows)
        _write(tasks / f"{name}.jsonl", rows[:limit])
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
            "test_split": "test",
            "num_fewshot": 0,
            "metadata": {"version": 1.0},
        }
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(common | settings, sort_keys=False))
        probes[name] = probe
    suite = {"name": "shared", "include": "tasks", "max_length": 1024, "probes": probes}
    path = folder / "shared.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return (path if probes else None), skipped


def _with_prompt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same worked examples, the last rows, before every question."""
    examples = "".join(f"{_SOLUTION.format(**row)} {row['answer']}\n\n" for row in rows[-SHOTS:])
    return [row | {"prompt": examples + _SOLUTION.format(**row)} for row in rows[:-SHOTS]]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
