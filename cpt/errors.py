"""The errors a person can cause or must act on. Each says where, what, and what to do instead."""

from typing import ClassVar


class CptError(Exception):
    """Base of all errors with a message meant for the person who runs a chain."""

    exit_code: ClassVar[int] = 1


class RecipeError(CptError, ValueError):
    """A recipe, a config or an override is wrong; found before any weights load."""

    exit_code = 2


class PlanError(CptError, ValueError):
    """The recipe is well-formed but cannot be honoured: a conflict, a backend, a missing parent."""

    exit_code = 2


class DataError(CptError, ValueError):
    """A data set is missing, empty, or has more bad rows than allowed."""

    exit_code = 2


class StoreError(CptError):
    """A stage folder is corrupted, half-written or cannot be written."""


class EdgeError(CptError):
    """Two neighbouring checkpoints do not fit: tokenizer, template, vocabulary or reference."""


class HookError(CptError, ValueError):
    """A hook cannot do what it was asked to."""


class ProbeError(CptError, ValueError):
    """A probe suite is wrong, or a probe gave no usable score."""


class GateStopped(CptError):  # noqa: N818 - a decision, not a mistake
    """The gate found a regression and its action is `stop`, or its repair regressed too."""

    exit_code = 3
