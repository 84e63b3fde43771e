"""Questions on a signature: the new skill. Each has few possible answers, so code can check it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cpt.corpora.shares import Row, order
from cpt.corpora.signatures import Function


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

    numbers = [str(number) for number in range(4)]
    if len(function.defaults) < 4:
        text = "How many parameters have a default value? Answer with a number."
        yield question("defaults", text, str(len(function.defaults)), numbers)
    asked = order(visible, function.signature)[0]
    text = f"Must a caller give `{asked}`? Answer Yes or No."
    yield question("needed", text, "No" if asked in function.defaults else "Yes", ("Yes", "No"))


def balanced(functions: Sequence[Function], most: int, salt: str) -> list[Question]:
    """About `most` questions, as many of each form, and of each answer to a form, as there are."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for function in order(functions, salt):
        for question in ask(function):
            groups.setdefault((question.form, question.answer), []).append(question)
    forms: dict[str, list[list[Question]]] = {}
    for (form, _), group in sorted(groups.items()):
        forms.setdefault(form, []).append(group)
    chosen = [
        question
        for answers in forms.values()
        for group in answers
        for question in group[: max(1, most // len(forms) // len(answers))]
    ]
    random.Random(salt).shuffle(chosen)
    return chosen
