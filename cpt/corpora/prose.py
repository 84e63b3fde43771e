"""English prose that every installation has: lm-eval's task descriptions and worked examples.

The text is about languages, history, law, science and daily life, none of it about Python code.
"""

import importlib.util
import json
import re
from pathlib import Path

from cpt.errors import DataError

_MARKUP = re.compile(r"https?:|[{}<>|\\#*_`$=@\[\]]|^\s*[-+\d]|\.\.\.|--")
_STOCK = re.compile(
    r"Let's think step by step\.\s*|(?:We refer|Refer|Let's refer) to [^.]*\.\s*", re.I
)
_SENTENCE = re.compile(r"(?<=[a-z)\"'][.?!]) +(?=[A-Z])")


def tasks_folder() -> Path:
    """The folder of lm-eval's own tasks; imports nothing.

    Raises:
        DataError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise DataError("builder general: lm_eval is not installed; run `make install`")
    return Path(spec.origin).parent / "tasks"


def files() -> list[Path]:
    """Files that `passages` and `worked_examples` read."""
    folder = tasks_folder()
    return [*sorted(folder.glob("*/README.md")), _examples_file()]


def _examples_file() -> Path:
    return tasks_folder() / "mmlu" / "flan_cot_fewshot" / "_cot_prompts.json"


def readme_paragraphs() -> dict[str, list[str]]:
    """Task name -> paragraphs of plain English of its README."""
    found = {}
    for path in sorted(tasks_folder().glob("*/README.md")):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        kept = [part for part in paragraphs if len(part) >= 200 and is_prose(part)]
        if kept:
            found[path.parent.relative_to(tasks_folder()).as_posix()] = kept
    return found


def is_prose(text: str) -> bool:
    """True for plain ASCII sentences without markup."""
    return text.isascii() and not _MARKUP.search(text) and text[0].isupper() and text[-1] in ".?!"


def worked_examples() -> dict[str, list[tuple[str, str, str]]]:
    """Subject -> (question with its choices, explanation, letter of the answer)."""
    prompts = json.loads(_examples_file().read_text(encoding="utf-8"))
    found: dict[str, list[tuple[str, str, str]]] = {}
    for subject, text in sorted(prompts.items()):
        for block in text.split("\n\nQ: ")[1:]:
            question, _, answer = block.partition("\nA: ")
            explanation, _, letter = answer.partition("The answer is (")
            explanation = " ".join(_STOCK.sub("", explanation).split())
            if letter and explanation and (question + explanation).isascii():
                item = (question.strip(), explanation, letter[0])
                found.setdefault(subject, []).append(item)
    return found


def sentences(text: str) -> list[str]:
    """A paragraph cut at the ends of its sentences."""
    return _SENTENCE.split(text)


def pieces(text: str, shortest: int, longest: int) -> list[str]:
    """Runs of whole sentences of `shortest` to `longest` characters."""
    found, run = [], ""
    for sentence in sentences(text):
        joined = f"{run} {sentence}".strip()
        if len(joined) > longest:
            if len(run) >= shortest:
                found.append(run)
            run = sentence if len(sentence) <= longest else ""
        else:
            run = joined
    if len(run) >= shortest:
        found.append(run)
    return found
