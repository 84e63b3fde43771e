"""What a suite asks of a model, counted without lm-eval where the data are local.

`python -m eval.cost configs/probes/behaviour.yaml` prints it as JSON. How many seconds that takes is
measured, not computed: `cpt plan` shows it once the suite has run (`cpt.seconds`).
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cpt.files import read_json
from eval.suite import Probe, Suite, load_suite
from eval.taskfile import TaskFile
from eval.view import view_file

BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Cost:
    """Of one run of a task: the probes that share it cost nothing more.

    Args:
        num_requests: texts that the model scores or goes on with; a choice is one each.
        num_tokens: an estimate of what it reads, at 4 bytes a token: prompts and choices, few-shot
            examples taken to be as long as the items.
        num_new_tokens: the most that it writes.
    """

    num_items: int
    num_requests: int
    num_tokens: int
    num_new_tokens: int


def costs(suite: Suite) -> dict[str, Cost | None]:
    """Cost by probe, under the first probe of each run; None where only lm-eval knows the data."""
    first = {probe.run: probe for probe in reversed(suite.probes.values())}
    return {name: cost(probe) for name, probe in suite.probes.items() if first[probe.run] is probe}


def cost(probe: Probe) -> Cost | None:
    """What one run of a probe's task costs; builds the view of a corpus where it is missing."""
    files = _files(probe)
    if probe.local is None or not files:
        return None
    items = list(islice((row for file in files for row in read_json(file)), probe.limit))
    config = probe.local.config
    generation = config.get("generation_kwargs") or {}
    writes = config.get("output_type") == "generate_until"
    requests = [_num_requests(probe.local, item) for item in items]
    shots = int((config.get("num_fewshot") if probe.shots is None else probe.shots) or 0)
    sizes = [_num_bytes(probe.local, item) for item in items]
    read = sum(n * size for n, size in zip(requests, sizes, strict=True)) + shots * sum(
        n * sum(sizes) / len(sizes) for n in requests
    )
    return Cost(
        num_items=len(items),
        num_requests=sum(requests),
        num_tokens=round(read / BYTES_PER_TOKEN),
        num_new_tokens=len(items) * int(generation.get("max_gen_toks", 256)) if writes else 0,
    )


def _files(probe: Probe) -> list[Path]:
    if probe.data is not None:
        return [view_file(probe.data)]
    return probe.local.test_files if probe.local else []


def _num_requests(task: TaskFile, item: Mapping[str, Any]) -> int:
    if task.config.get("output_type") != "multiple_choice":
        return 1
    choices = task.config.get("doc_to_choice")
    names = re.findall(r"\w+", choices) if isinstance(choices, str) else []
    found = [item[name] for name in names if isinstance(item.get(name), list)]
    return len(found[0] if found else choices or [""])


def _num_bytes(task: TaskFile, item: Mapping[str, Any]) -> int:
    """Bytes of the fields that the prompt and the answer of a request are made of."""
    size = 0.0
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        for name in set(re.findall(r"\w+", str(task.config.get(key, "")))):
            value = item.get(name)
            parts = value if isinstance(value, list) else [value]
            texts = [len(part.encode()) for part in parts if isinstance(part, str)]
            size += sum(texts) / len(texts) if texts else 0
    return round(size)


if __name__ == "__main__":
    told = {
        name: each and asdict(each) for name, each in costs(load_suite(Path(sys.argv[1]))).items()
    }
    print(json.dumps(told, indent=1))
