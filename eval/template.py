"""Which chat template a probe was asked in, and where a change of it may be compared across.

Answers in one template and in another differ for two reasons, so scores of `chat: true` probes are compared
only where their templates are the same text, with two exceptions. A stage of a chain may declare another one
(`model: {chat_template: ...}`): its rows are compared with those before it, since they are what the chain
made, and the report says so. And a person may ask for it (`--any-template`). Results of before templates
were kept say nothing about theirs: they are compared with any, as they were then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt.chain_file import read_manifest
from cpt.ids import short_hash
from eval.matrix import Matrix, Row, Score

#: Its name among the parts of a fingerprint that a result keeps.
PART = "template"


def template_of(tokenizer: Any) -> str:
    """Hash of the chat template that lm-eval asks in: of several that a tokenizer has, the default one."""
    return hashed(tokenizer.get_chat_template())


def hashed(text: str) -> str:
    """Of a template's text."""
    return short_hash(text, 16)


def declared_by(stages: Iterable[Mapping[str, Any] | None]) -> frozenset[str]:
    """Hashes of the templates that stages declare.

    Args:
        stages: each with a `chat_template`, its text; as `cpt.model_spec.ModelChange.content` says it, and
            the manifest under `inputs: model`.
    """
    texts = [stage.get("chat_template") for stage in stages if stage]
    return frozenset(hashed(text) for text in texts if text)


def declared_in(folders: Iterable[Path]) -> frozenset[str]:
    """Hashes of the templates that the stages in these folders declare; what is not finished has none yet."""
    files = [folder / "manifest.json" for folder in folders]
    inputs = [read_manifest(file).get("inputs") or {} for file in files if file.is_file()]
    return declared_by(each.get("model") for each in inputs)


def across(matrix: Matrix, templates: frozenset[str]) -> Matrix:
    """The matrix of a chain whose stages declare these templates."""
    return replace(matrix, rows=tuple(replace(row, templates=templates) for row in matrix.rows))


def any_template(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows that may be compared whatever their templates are."""
    given = tuple(rows)
    found = frozenset(
        score.parts[PART] for row in given for score in row.scores.values() if PART in score.parts
    )
    return tuple(replace(row, templates=found) for row in given)


def is_declared(before: Row, after: Row, old: Score, new: Score) -> bool:
    """Whether two scores may be compared though their templates differ; see `Row.templates`."""
    templates = before.templates & after.templates
    return not templates.isdisjoint({old.parts[PART], new.parts[PART]})


def note(rows: Iterable[Row]) -> str:
    """Which rows were asked in another template than the first, as a sentence; empty where none was."""
    first, *others = [(row.stage, _templates(row)) for row in rows] or [("", {})]
    name, known = first
    changed = [
        stage
        for stage, own in others
        if any(own[probe] != known[probe] for probe in own.keys() & known.keys())
    ]
    if not changed:
        return ""
    return (
        f"{', '.join(changed)}: asked in another chat template than {name}; what changed in probes with "
        f"`chat: true` is due to the template and the weights together."
    )


def _templates(row: Row) -> dict[str, str]:
    return {name: score.parts[PART] for name, score in row.scores.items() if PART in score.parts}
