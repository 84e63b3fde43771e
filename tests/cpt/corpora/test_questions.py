"""The answers are right, and no answer wins by being frequent."""

import ast
import collections
from typing import Any

from cpt.corpora import english, python_code, questions, sense, world
from cpt.corpora.prose import pieces
from cpt.corpora.shares import table_rows
from cpt.corpora.signatures import functions

Views = dict[str, list[dict[str, Any]]]


def truth(question: str) -> str:
    """The answer by running the signature."""
    import inspect

    signature, _, asked = question.partition("\n")
    tree = ast.parse(f"{signature}: pass").body[0]
    assert isinstance(tree, ast.FunctionDef)
    for argument in ("defaults", "kw_defaults"):
        values = getattr(tree.args, argument)
        new = [None if v is None else ast.Constant(ast.unparse(v)) for v in values]
        setattr(tree.args, argument, new)
    space: dict[str, Any] = {}
    code = ast.fix_missing_locations(ast.Module([tree], []))
    exec(compile(code, "signature", "exec"), space)
    parameters = inspect.signature(space[tree.name]).parameters
    optional = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    if asked.startswith("How many"):
        return str(len(optional))
    name = asked.split("`")[1]
    if asked.startswith("Must"):
        return "No" if name in optional else "Yes"
    return str(optional[name])


def test_answers_on_signatures_are_right(stdlib: Views) -> None:
    for row in stdlib["probe_skill"]:
        assert row["choices"][row["answer"]] == truth(row["question"])
    for row in stdlib["prompts"]:
        assert row["answer"] == truth(row["prompt"][0]["content"])
    for row in stdlib["preferences"]:
        right = truth(row["prompt"][0]["content"])
        assert row["chosen"][0]["content"] == right != row["rejected"][0]["content"]


def test_the_most_frequent_answer_does_not_win(stdlib: Views) -> None:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in stdlib["probe_skill"]:
        counts[row["form"]][row["choices"][row["answer"]]] += 1
    assert set(counts) == {"needed", "defaults", "value"}
    best = sum(max(count.values()) for count in counts.values())
    assert best / len(stdlib["probe_skill"]) < 0.45


def test_a_question_has_a_wrong_answer_of_the_same_kind() -> None:
    (function,) = functions("def f(a, b=None): pass")
    asked = {question.form: question for question in questions.ask(function)}
    assert set(asked) == {"defaults", "needed", "value"}
    assert asked["defaults"].answer == "1"
    assert asked["value"].answer == "None"
    for question in asked.values():
        assert question.wrong() in set(question.choices) - {question.answer}


def test_documents_are_whole_functions_where_they_fit() -> None:
    block = "def f{}(a):\n" + "    return a\n" * 20 + "\n"
    text = "".join(block.format(i) for i in range(10))
    chunks = python_code.chunk_code(text, 500)
    assert all(chunk.startswith("def f") and len(chunk) <= 500 for chunk in chunks)
    assert "".join(chunks).replace("\n", "") == text.replace("\n", "")
    assert max(map(len, python_code.chunk_code("x = 1\n" * 1000, 500))) <= 500


def test_sums_are_right(general: Views) -> None:
    for row in general["probe_arithmetic"]:
        problem = row["question"].rpartition("\n")[2]
        right = row["choices"][row["answer"]]
        if problem.endswith("="):
            left, sign, second = problem.split()[:3]
            result = int(left) + int(second) if sign == "+" else int(left) * int(second)
        else:
            number = int(problem.split()[-2])
            result = 2 * number if problem.startswith("Twice") else number // 2
        assert right == str(result)


def test_facts_have_one_right_answer(general: Views) -> None:
    countries = {name: continent for name, _, continent, _ in table_rows(world.COUNTRIES)}
    capitals = {capital: name for name, capital, _, _ in table_rows(world.COUNTRIES)}
    assert len(capitals) == len(countries)
    for row in general["probe_facts"]:
        right = row["choices"][row["answer"]]
        if row["question"].endswith(" is the capital of"):
            assert capitals[row["question"].removesuffix(" is the capital of")] == right
        elif row["question"].endswith(" is a country in"):
            assert countries[row["question"].removesuffix(" is a country in")] == right


def test_tables_are_whole() -> None:
    assert {len(row) for row in table_rows(world.COUNTRIES)} == {4}
    assert {len(row) for row in table_rows(world.CITIES)} == {2}
    for start, right, wrong in table_rows(sense.SENSE):
        assert right not in wrong.split(","), start
        assert len(set(wrong.split(","))) == 3, start
    assert all(pair.good != pair.bad for pair in english.pairs(1))


def test_pieces_are_whole_sentences() -> None:
    text = "One is here. Two is there. Three is a longer sentence than these."
    assert pieces(text, 10, 30) == ["One is here. Two is there."]
    assert pieces(text, 10, 200) == [text]
