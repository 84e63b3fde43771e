"""Questions on a signature: the new skill. Each has few possible answers, so code can check it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low

from cpt.corpora.shares import Row, order
from cpt.corpora.signatures import Function

_NUMBERS = range(4)
_VALUES = ("None", "True", "False", "0")
_SKEW = 3  # no answer is more frequent than that many times the median one


@dataclass(frozen=True)
class Question:
    """A question with all its possible answers; all of one token in common vocabularies."""

    form: str
    function: Function
    text: str
    answer: str
    choices: tuple[str, ...]

    def item(self) -> Row:
        """As a row of a multiple-choice task."""
        return {
            "form": self.form,
            "question": self.text,
            "choices": list(self.choices),
            "answer": self.choices.index(self.answer),
        }

    def wrong(self) -> str:
        """One of the wrong answers, always the same."""
        return order((word for word in self.choices if word != self.answer), self.text)[0]


def ask(function: Function) -> Iterator[Question]:
    """The questions that can be asked about a function."""
    visible = [name for name in function.parameters if name not in ("self", "cls")]
    if not visible:
        return

    def question(form: str, text: str, answer: str, choices: Sequence[str]) -> Question:
        return Question(form, function, f"{function.signature}\n{text}", answer, tuple(choices))

    defaults = dict(function.defaults)
    if len(defaults) <= max(_NUMBERS):
        text = "How many parameters have a default value? Answer with a number."
        yield question("defaults", text, str(len(defaults)), [str(number) for number in _NUMBERS])
    name = order(visible, function.signature)[0]
    text = f"Must a caller give `{name}`? Answer Yes or No."
    yield question("needed", text, "No" if name in defaults else "Yes", ("Yes", "No"))
    plain = [name for name in visible if defaults.get(name) in _VALUES]
    if plain:
        name = order(plain, function.signature)[0]
        text = f"What is the default value of `{name}`? Answer with the value."
        yield question("value", text, defaults[name], _VALUES)


def balanced(functions: Sequence[Function], most: int, salt: str) -> list[Question]:
    """About `most` questions, shared equally by the forms, and about equally by the
    answers to a form."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for function in order(functions, salt):
        for question in ask(function):
            groups.setdefault((question.form, question.answer), []).append(question)
    forms: dict[str, list[list[Question]]] = {}
    for (form, _), group in sorted(groups.items()):
        forms.setdefault(form, []).append(group)
    chosen = []
    for answers in forms.values():
        fair = max(1, most // len(forms) // len(answers))
        number = min(fair, _SKEW * median_low(len(group) for group in answers))
        chosen += [question for group in answers for question in group[:number]]
    random.Random(salt).shuffle(chosen)
    return chosen
