"""What a suite says of its probes now, in place of what it said when they were measured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eval.matrix import Matrix, Score


def relabelled(matrix: Matrix, declared: Mapping[str, Mapping[str, Any]]) -> Matrix:
    """The matrix with the groups, facets and owners of a chain's suite.

    They change no number, so a change of them measures nothing anew, and a result keeps those that
    its suite had. Probes that are not declared, and labels that are not, stay as they are.

    Args:
        declared: probe -> label -> value, as `chain.json` has it under `suite.probes`.
    """
    rows = tuple(
        replace(
            row,
            scores={
                name: _score(score, declared.get(name, {})) for name, score in row.scores.items()
            },
        )
        for row in matrix.rows
    )
    return replace(matrix, rows=rows)


def _score(score: Score, declared: Mapping[str, Any]) -> Score:
    own = {label: declared[label] for label in ("group", "facet", "owner") if label in declared}
    return replace(score, **own)
