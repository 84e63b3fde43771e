"""A row that the chat template refuses is bad, and no other row is the worse for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stages.tokenise as module
from cpt.data import Reader
from cpt.data_spec import DataSpec
from cpt.errors import DataError
from cpt.recipe import StageSpec
from cpt.settings import validate
from stages import kind_of
from stages.tokenise import tokenise
from stages.tokens_on_disk import TokenFile

ALTERNATE = (
    "{% for message in messages %}{% if loop.index0 and "
    "message['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)


def turns(*said: str) -> list[dict[str, str]]:
    """`u...` of the user, `a...` of the assistant."""
    roles = {"u": "user", "a": "assistant"}
    return [{"role": roles[words[0]], "content": words} for words in said]


def good(number: int) -> dict[str, Any]:
    return {"messages": turns(f"u{number}", f"a{number}")}


BAD = {"messages": turns("u", "u", "a")}
GOOD_PAIR = {"prompt": turns("u"), "chosen": turns("a1"), "rejected": turns("a2")}


@pytest.fixture
def strict(tiny_tokenizer: Any) -> Iterator[Any]:
    """A tokenizer whose template wants the roles to alternate."""
    before = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = before.replace("{% for message in messages %}", ALTERNATE)
    yield tiny_tokenizer
    tiny_tokenizer.chat_template = before


def run(kind: str, rows: Any, tokenizer: Any, folder: Path, said: Any = None, **more: Any):  # type: ignore[no-untyped-def]
    rewards = {"rewards": ["exact_match"]} if kind == "grpo" else {}
    spec = validate(StageSpec, {"kind": kind, "data": {"path": "./a"}, **rewards}, "s.yaml")
    say = said.append if said is not None else lambda line: None
    return tokenise(kind_of(kind, "x"), spec, tokenizer, "new", rows, folder, say, **more)


@pytest.mark.parametrize("batch", [1, 2, 5, 1000])
def test_tokens_do_not_depend_on_the_batches(
    tmp_path: Path, strict: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    rows = [good(0), {"text": "some text"}, good(1), BAD, good(2), BAD, {"text": ""}, good(3)]
    done = run("sft", rows, strict, tmp_path)
    assert list(done.kept) == [0, 1, 2, 4, 7]
    assert (done.num_refused, done.num_dropped, len(done)) == (2, 1, 5)
    alone = run("sft", [rows[n] for n in done.kept], strict, tmp_path)
    assert done.num_tokens == alone.num_tokens
    for files in (done.rows, alone.rows):
        assert isinstance(files, TokenFile)
    for row, length in enumerate(done.num_tokens):
        for own, other in zip(
            done.rows.read(row, 0, length), alone.rows.read(row, 0, length), strict=True
        ):
            assert own.tolist() == other.tolist()


def test_examples_name_the_row_and_the_reason(tmp_path: Path, strict: Any) -> None:
    done = run("sft", [good(0), BAD, *[BAD] * 5], strict, tmp_path, numbers=range(10, 20))
    assert len(done.examples) == 3
    assert done.examples[0] == (
        "row 11: the chat template refuses turns of user, user, assistant: roles must alternate"
    )


@pytest.mark.parametrize(
    ("kind", "fine", "bad"),
    [
        ("sft", good(0), BAD),
        ("pretrain", good(0), BAD),
        ("dpo", GOOD_PAIR, {**GOOD_PAIR, "rejected": turns("u")}),
        ("dpo", GOOD_PAIR, {**GOOD_PAIR, "prompt": turns("u", "u")}),
        ("grpo", {"prompt": turns("u")}, {"prompt": turns("u", "u")}),
    ],
)
def test_every_kind_counts_refused_rows(
    tmp_path: Path, strict: Any, kind: str, fine: Any, bad: Any
) -> None:
    done = run(kind, [fine, bad, fine], strict, tmp_path)
    assert (list(done.kept), done.num_refused) == ([0, 2], 1)
    assert "row 2: the chat template refuses turns of " in done.examples[0]


def test_turns_that_the_template_rewrites_are_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    before = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = (
        "{{ 'many ' if messages | length > 3 else '' }}" + before  # as templates that drop thoughts
    )
    done = run("sft", [good(0), {"messages": turns("u", "a", "u", "a")}], tiny_tokenizer, tmp_path)
    tiny_tokenizer.chat_template = before
    assert (list(done.kept), done.num_refused) == ([0], 1)
    assert "writes earlier turns differently" in done.examples[0]


def test_a_content_of_null_is_the_rows_own_fault(tmp_path: Path, tiny_tokenizer: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    done = run("sft", [good(0), {"messages": [*turns("u"), call]}], tiny_tokenizer, tmp_path)
    assert (list(done.kept), done.num_refused) == ([0], 1)


@pytest.mark.parametrize(
    ("kind", "row"), [("sft", good(0)), ("dpo", GOOD_PAIR), ("grpo", {"prompt": turns("u")})]
)
def test_what_is_wrong_with_every_row_stops_at_once(
    tmp_path: Path, tiny_tokenizer: Any, kind: str, row: Any
) -> None:
    before = tiny_tokenizer.chat_template
    try:
        tiny_tokenizer.chat_template = None
        with pytest.raises(DataError, match="the tokenizer has no chat template"):
            run(kind, [row], tiny_tokenizer, tmp_path)
        if kind != "grpo":
            tiny_tokenizer.chat_template = before.replace("<|im_end|>", "")
            with pytest.raises(DataError, match="without the tokenizer's EOS"):
                run(kind, [row], tiny_tokenizer, tmp_path)
    finally:
        tiny_tokenizer.chat_template = before


def test_it_says_how_far_it_is_when_it_takes_long(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": str(number)} for number in range(6)]
    said: list[str] = []
    run("sft", rows, tiny_tokenizer, tmp_path, said)
    assert said == []
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    run("sft", rows, tiny_tokenizer, tmp_path, said)
    assert said == [f"tokenising new: {n} of 6 rows" for n in (2, 4, 6)]


def test_what_arrives_is_told_in_tokens_and_refused_rows_by_their_number(
    tmp_path: Path, strict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    rows = [{"messages": []}, good(0), BAD]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {"path": str(tmp_path / "a.jsonl"), "max_bad": 0.5}
    said: list[str] = []
    reader = Reader(validate(DataSpec, tree, "d.yaml"), ("messages",))
    done = run("sft", reader, strict, tmp_path, said)
    assert (list(done.kept), done.num_refused, reader.num_bad) == ([0], 1, 1)
    assert done.examples[0].startswith("row 3: the chat template refuses turns of ")
    assert said == [f"tokenising new: {done.total} tokens of 2 rows so far"]
    assert done.source[1] == BAD


@pytest.mark.parametrize("enough", [1, 2, 5])
def test_what_arrives_is_read_until_it_is_enough(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n' * 9)
    reader = Reader(validate(DataSpec, {"path": str(tmp_path / "a.jsonl")}, "d.yaml"), ("text",))
    more = {"is_enough": lambda done: len(done) >= enough}
    done = run("sft", reader, tiny_tokenizer, tmp_path, **more)
    assert len(done) == reader.num_good == 2 * -(-enough // 2)
    assert (done.total, done.longest) == (3 * len(done), 3)
