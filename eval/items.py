"""From lm-eval's results to one cell of the matrix: a number, its standard error, its items."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cpt.errors import ProbeError
from cpt.ids import short_hash
from cpt.settings import did_you_mean
from eval.item_text import answer_of, text_of
from eval.matrix import Item
from eval.means import ratio_stderr, weighted_mean
from eval.split import split_of
from eval.suite import Probe
from eval.suite_checks import contradiction

CLUSTER_CHARACTERS = 40
_ALWAYS = ("id", "value", "weight", "text", "answer")


def read_cell(results: Any, probe: Probe, tasks: dict[str, Any]) -> dict[str, Any]:
    """The cell of a probe, from what `lm_eval.evaluator.evaluate` returned with `log_samples=True`.

    Args:
        tasks: the lm-eval tasks that ran, by name; several for one of lm-eval's groups.

    Raises:
        ProbeError: no such metric, a number that is missing or NaN, or no mean over items.
    """
    if probe.task not in results["results"]:
        raise ProbeError(
            f"probe {probe.name}: {probe.task} is a tag, not one task; "
            f"name one of {', '.join(tasks)}"
        )
    metric, key = _metric_key(probe, results["results"][probe.task])
    value = results["results"][probe.task][key]
    higher = results["higher_is_better"].get(probe.task, {}).get(metric.partition(",")[0])
    higher = _direction(probe, metric, higher)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ProbeError(f"probe {probe.name}: {metric} is {value!r}, not a finite number")
    items = _items(results["samples"], probe, tasks, key, float(value))
    shots = results["n-shot"].get(probe.task, probe.shots)
    return {
        "task": probe.task,
        "task_version": str(results["versions"].get(probe.task)),
        "metric": metric,
        "higher_is_better": higher,
        **probe.labels,
        "value": float(value),
        "stderr": ratio_stderr(items),
        "num_items": len(items),
        "shots": int(shots or 0),
        "chat": probe.chat,
        "fingerprint": probe.fingerprint,
        "is_drift": probe.direction == "none",
        "parts": {**probe.parts, "task_version": str(results["versions"].get(probe.task))},
        "items": [_plain(item) for item in items],
    }


def _direction(probe: Probe, metric: str, higher: bool | None) -> bool:
    """Whether a higher number is better; True where neither is."""
    if problem := contradiction(probe.direction, higher):
        raise ProbeError(f"probe {probe.name}: direction: {problem}")
    if probe.direction is not None:
        return probe.direction != "lower"
    if higher is None:
        raise ProbeError(
            f"probe {probe.name}: task {probe.task} does not say whether a higher {metric} is "
            f"better; add higher_is_better to its metric_list, or `direction` to the probe"
        )
    return bool(higher)


def _plain(item: Item) -> dict[str, Any]:
    """An item as JSON; cluster and split only where there are any."""
    return {name: value for name, value in vars(item).items() if value != "" or name in _ALWAYS}


def _metric_key(probe: Probe, scores: dict[str, Any]) -> tuple[str, str]:
    """The metric as people write it, and lm-eval's key `metric,filter`."""
    keys = [key for key in scores if "," in key and not key.partition(",")[0].endswith("_stderr")]
    wanted = probe.metric
    fitting = [key for key in keys if wanted is None or wanted in (key, key.partition(",")[0])]
    if len(fitting) == 1:
        return wanted or fitting[0].partition(",")[0], fitting[0]
    if not fitting:
        names = {key.partition(",")[0] for key in keys}
        raise ProbeError(
            f"probe {probe.name}: task {probe.task} has no metric {wanted!r}"
            f"{did_you_mean(str(wanted), names)}"
        )
    raise ProbeError(
        f"probe {probe.name}: task {probe.task} reports {' and '.join(map(repr, fitting))}; "
        f"say which under `metric`"
    )


def _items(
    samples: Any, probe: Probe, tasks: dict[str, Any], key: str, value: float
) -> tuple[Item, ...]:
    """Items whose weighted mean is `value`.

    A group's number is the mean over all items, or the mean of its tasks' means.
    """
    parts = [
        [*_task_items(samples[name], probe, task, key, f"{name}/" if len(tasks) > 1 else "")]
        for name, task in tasks.items()
    ]
    parts = [part for part in parts if part]
    flat = tuple(item for part in parts for item in part)
    equal = tuple(replace(item, weight=item.weight / len(part)) for part in parts for item in part)
    for items in (flat, equal):
        if items and math.isclose(weighted_mean(items), value, rel_tol=1e-9, abs_tol=1e-12):
            return items
    raise ProbeError(
        f"probe {probe.name}: {key} is {value}, which is no mean over its {len(flat)} items; "
        f"paired tests need one, such as acc, exact_match or bits_per_byte"
    )


def _task_items(
    samples: list[dict[str, Any]], probe: Probe, task: Any, key: str, prefix: str
) -> Iterator[Item]:
    metric, _, chosen = key.partition(",")
    seen: Counter[str] = Counter()
    rows = [s for s in samples if s["filter"] == chosen and metric in s]
    for sample in sorted(rows, key=lambda sample: int(sample["doc_id"])):
        name = prefix + sample["doc_hash"][:16]
        seen[name] += 1
        _refuse_nan(probe, sample)
        value, weight = _value(probe, metric, sample[metric])
        cluster = _cluster(probe, sample["doc"])
        yield Item(
            id=name if seen[name] == 1 else f"{name}-{seen[name]}",
            value=value,
            weight=weight,
            text=text_of(task, sample),
            answer=answer_of(task, sample, metric),
            cluster=cluster,
            split=split_of(name, probe.dev, cluster),
        )


def _cluster(probe: Probe, doc: dict[str, Any]) -> str:
    """The value of the field that groups items, or its hash where it is long."""
    if probe.cluster is None:
        return ""
    if probe.cluster not in doc:
        near = did_you_mean(probe.cluster, doc)
        raise ProbeError(
            f"probe {probe.name}: cluster: its documents have no {probe.cluster!r}{near}"
        )
    value = doc[probe.cluster]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if text and len(text) <= CLUSTER_CHARACTERS else short_hash(text, 16)


def _value(probe: Probe, metric: str, raw: Any) -> tuple[float, float]:
    """An item's value and weight; bits per byte come as (log-likelihood in nats, bytes)."""
    if metric == "bits_per_byte" and isinstance(raw, list | tuple) and len(raw) == 2:
        if not raw[1]:
            raise ProbeError(
                f"probe {probe.name}: a document of 0 bytes has no bits per byte; leave it out of its data"
            )
        return -float(raw[0]) / (float(raw[1]) * math.log(2)), float(raw[1])
    try:
        return float(raw), 1.0
    except (TypeError, ValueError):
        raise ProbeError(
            f"probe {probe.name}: {metric} has no number per item; take a metric that is a mean "
            f"over items, such as acc, exact_match or bits_per_byte (in place of a perplexity)"
        ) from None


def _refuse_nan(probe: Probe, sample: dict[str, Any]) -> None:
    """A model that answers NaN has no score, though lm-eval would count its first choice."""
    for responses in sample["resps"]:
        for response in responses:
            number = response[0] if isinstance(response, list | tuple) and response else response
            if isinstance(number, float) and math.isnan(number):
                raise ProbeError(
                    f"probe {probe.name}: the model's log-likelihood is NaN "
                    f"(item {sample['doc_id']}); its weights are damaged"
                )
