"""All that a comparison tells; rendering adds nothing to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.beside.answers import Answers, Sampling
from eval.beside.judging import WinRate
from eval.beside.prompts import Prompt
from eval.beside.table import Table
from eval.report.words import WORDS, Word, word


@dataclass(frozen=True)
class Generations:
    """Answers of all models to the same prompts; `places` are the files that keep them."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    answers: tuple[Answers, ...]
    places: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before comparing: cut answers and missing templates."""
        told = []
        for answers in self.answers:
            if not answers.has_template:
                told.append(
                    f"{answers.model} has no chat template and continues the prompt as plain text"
                )
            if answers.num_cut:
                told.append(
                    f"{answers.num_cut} of {len(self.prompts)} answers of {answers.model} are cut "
                    f"at {self.sampling.max_new_tokens} tokens"
                )
        return tuple(told)


@dataclass(frozen=True)
class Verdicts:
    """What a judge prefers, model by model; `prompt` is the wording that it was asked with."""

    judge: str
    prompt: str
    rates: tuple[WinRate, ...]


@dataclass(frozen=True)
class Story:
    """Models side by side; a part that was not asked for is None."""

    models: tuple[tuple[str, str], ...]
    reference: str
    table: Table | None
    generations: Generations | None = None
    verdicts: Verdicts | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the models, in the order of the columns."""
        return [label for label, _ in self.models]

    def rate(self, label: str) -> WinRate | None:
        """The judge's on one model."""
        rates = self.verdicts.rates if self.verdicts else ()
        return next((rate for rate in rates if rate.model == label), None)


def preference(rate: WinRate) -> Word:
    """The word for a win rate, by its own interval: it takes no part in the correction."""
    if rate.low > 0.5:
        return "improved"
    return "regressed" if rate.high < 0.5 else "undecided"


def tally(table: Table) -> list[str]:
    """Such as "sft: 1 regressed (facts), 2 improved (...), 5 held", one line per model."""
    lines = []
    for column in table.columns:
        parts = []
        for kind in WORDS:
            names = [c.probe for c in column.changes.values() if word(c) == kind]
            if names:
                parts.append(f"{len(names)} {kind} ({_brief(names)})")
        if parts:
            lines.append(f"{column.label}: {', '.join(parts)}")
    return lines


def _brief(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
