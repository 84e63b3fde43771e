"""The texts of a suite's items: what must not be in the data that a stage rehearses."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cpt.files import read_json
from eval.progress import Meter, quiet
from eval.suite import Probe, Suite, materialise
from eval.view import view_file


def item_texts(suite: Suite, cache: Path) -> Iterator[str]:
    """Every text of the items that a suite measures: questions, passages, choices, answers.

    Views of our corpora are read as they are; lm-eval, and what it downloads, is only asked for other tasks.

    Args:
        cache: where the suite's tasks are written for lm-eval.
    """
    once = {(probe.task, probe.limit): probe for probe in suite.probes.values()}
    for probe in once.values():
        for item in islice(_items(probe, suite, cache), probe.limit):
            yield from _texts(item)


def _items(probe: Probe, suite: Suite, cache: Path) -> Iterator[Any]:
    if probe.data is not None:
        yield from read_json(view_file(probe.data))
        return
    from eval.harness import load_tasks

    folder = materialise(suite, cache / "suites" / f"{suite.name}-{suite.hash}")
    with quiet(Meter(None), verbose=False):
        loaded = load_tasks(probe.name, probe.task, folder if probe.local else None)
        documents = [task.eval_docs for task in loaded["tasks"].values()]
    for found in documents:
        yield from found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
