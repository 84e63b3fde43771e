import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

import cpt.data as module
from cpt.data import Reader, Rows, load_rows, open_rows
from cpt.data_spec import DataSpec
from cpt.errors import DataError
from cpt.inline import expand
from cpt.rows import fault, format_of
from cpt.settings import validate

TEXTS = [{"text": f"t{n}"} for n in range(10)]
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"prompt": "q", "chosen": "y", "rejected": "n"}


def turns(*said: str) -> list[dict[str, str]]:
    """`u...` of the user, `a...` of the assistant."""
    roles = {"u": "user", "a": "assistant"}
    return [{"role": roles[words[0]], "content": words} for words in said]


def lines(rows: list[Any]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def read(
    path: Path | str | list[str], part: Any = "train", formats: Any = ("text",), **more: Any
) -> Rows:
    name = path if isinstance(path, list) else str(path)
    return load_rows(validate(DataSpec, {"path": name, **more}, "d.yaml"), formats, part)


def refusal(*arguments: Any, **more: Any) -> str:
    with pytest.raises(DataError) as failed:
        read(*arguments, **more)
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(TEXTS))
    return path


# File types.


def test_json_lines_lists_and_packed_files_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(TEXTS).replace("\n", "\n\n"))
    (tmp_path / "b.json").write_text("\n  " + json.dumps(TEXTS, indent=1))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS).encode()))
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(TEXTS).encode()))
    (tmp_path / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(TEXTS).encode())
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert (found.rows, found.format, found.num_bad) == (TEXTS, "text", 0)


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([CHAT] * 3), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", formats=("messages",)).rows == [CHAT] * 3
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    assert refusal(tmp_path / "b.parquet").startswith(
        f"data: {tmp_path / 'b.parquet'}: cannot be read"
    )


def test_text_files_give_a_row_per_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\nmore\r\n\r\n\r\n  two \u00e9 \n".encode())
    assert read(tmp_path / "a.txt").rows == [{"text": "one\nmore"}, {"text": "two \u00e9"}]
    (tmp_path / "notes.md").write_text("a\n\nb")
    assert len(read(tmp_path / "notes.md", format="text").rows) == 2
    assert "unknown file type; name it with format: " in refusal(tmp_path / "notes.md")


def test_folders_globs_and_lists_are_read_in_order_of_name(tmp_path: Path) -> None:
    for number, name in enumerate(("x/b.jsonl", "x/a.jsonl", "y/z/c.json")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(lines([{"text": str(number)}]))
    (tmp_path / "x" / "README.md").write_text("no data")

    def texts(path: Any) -> str:
        return "".join(row["text"] for row in read(path).rows)

    assert texts(tmp_path) == "102"
    assert texts(tmp_path / "x") == "10"
    assert texts(tmp_path / "x" / "*.jsonl") == "10"
    assert texts(tmp_path / "*" / "?.jsonl") == "10"
    assert texts(tmp_path / "**" / "*.json*") == "102"
    assert texts([str(tmp_path / "x/b.jsonl"), str(tmp_path / "y")]) == "02"


def test_signs_of_globs_in_a_files_own_name_are_letters(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text(lines(TEXTS))
    assert read(tmp_path / "a[1].jsonl").rows == TEXTS


def test_missing_files_are_named_each(tmp_path: Path, file: Path) -> None:
    near = str(file)
    assert refusal(tmp_path / "b.jsonl") == (
        f"data: {tmp_path / 'b.jsonl'}: no such file; did you mean {near!r}?"
    )
    assert str(tmp_path / "zzz") in refusal([str(file), str(tmp_path / "zzz")])
    assert "no such file" in refusal(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    assert "no data files in this folder" in refusal(tmp_path / "empty")


def test_variables_in_paths(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", str(file.parent))
    tree = expand({"data": {"path": "$DATA/a.jsonl"}}, Path("/elsewhere"), "d.yaml")["data"]
    assert read(tree["path"]).rows == TEXTS
    missing = expand({"data": "$NOWHERE/a.jsonl"}, file.parent, "d.yaml")["data"]
    assert "$NOWHERE" in refusal(missing["path"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "caf\xe9"}\n'),
        ("a.txt", b"caf\xe9"),
        ("a.jsonl.gz", b"not gzip"),
        ("b.jsonl.gz", gzip.compress(lines(TEXTS).encode(), mtime=0)[:-12]),
        ("a.json", b'[{"text": "a"}, {'),
    ],
)
def test_what_cannot_be_read_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(f"data: {tmp_path / name}: cannot be read: ")


# Rows.


def test_columns_are_renamed_and_ours_win(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines([{"body": "wanted", "text": "not this", "answer": 3}]))
    assert read(path, columns={"text": "body"}).rows == [{"text": "wanted", "answer": 3}]


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines([{"body": "a", "title": "b"}] * 3))
    for columns in ({}, {"text": "content"}):
        message = refusal(path, columns=columns)
        assert message.startswith("data a.jsonl: no usable row of 3; row 1: ")
        assert "'body', 'title'" in message or "'title', 'body'" in message


def test_a_limit_counts_good_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(["{broken", *TEXTS]))
    found = read(path, limit=4, max_bad=0.5)
    assert (found.rows, found.num_bad) == (TEXTS[:4], 1)
    found = read(path, limit=4, max_bad=0.5, validation={"fraction": 0.25})
    assert (len(found.rows), found.num_bad) == (4, 1)


def test_bad_rows_are_counted_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = [
        "{broken",
        {"text": ""},
        {"text": None},
        {"text": 3},
        {"other": "x"},
        "3",
        {"text": "  "},
    ]
    path.write_text(lines([*TEXTS[:2], *bad, *TEXTS[2:]]))
    found = read(path, max_bad=0.5)
    assert (found.rows, found.num_bad) == (TEXTS, 7)
    assert [example.partition(":")[0] for example in found.examples_of_bad] == [
        "row 3",
        "row 4",
        "row 5",
    ]
    assert found.examples_of_bad[0].startswith("row 3: not JSON (")
    message = refusal(path, max_bad=0.4)
    assert message.startswith(
        "data a.jsonl: 7 of 17 rows are bad, more than max_bad 0.4 allows; row 3: "
    )


def test_one_in_a_hundred_may_be_bad_and_not_two(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = [{"text": "x"}] * 99
    path.write_text(lines([*good, {}]))
    assert read(path).num_bad == 1
    path.write_text(lines([*good[:-1], {}, {}]))
    assert "2 of 100 rows are bad" in refusal(path)


@pytest.mark.parametrize(
    ("row", "good", "reason"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, CHAT, "no turn of the assistant"),
        ({"messages": [{"content": "q"}]}, CHAT, "a turn has no role"),
        ({"messages": [{"role": "assistant"}]}, CHAT, "a turn has no content"),
        ({"messages": ["q"]}, CHAT, "a turn has no role"),
        ({"messages": "q"}, CHAT, "messages: "),
        ({"messages": []}, CHAT, "messages is missing or empty"),
        ({"prompt": "q", "chosen": "y"}, PAIR, "rejected is missing or empty"),
        (
            {"prompt": "q", "chosen": CHAT["messages"][1:], "rejected": CHAT["messages"][1:]},
            PAIR,
            "prompt and chosen are not both text or both chats",
        ),
    ],
)
def test_a_bad_row_says_what_it_lacks(tmp_path: Path, row: Any, good: Any, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines([good, row]))
    found = read(path, formats=("messages", "preference"), max_bad=0.5)
    assert found.num_bad == 1
    assert reason in found.examples_of_bad[0]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"text": "a\ud83d"}, "text"),
        ({"messages": [*CHAT["messages"], {"role": "user", "content": "\ude00"}]}, "messages"),
        ({**PAIR, "rejected": "\ud83d"}, "rejected"),
        ({"prompt": "q", "answer": {"is": ["\ud83d"]}}, "answer"),  # rewards get it
    ],
)
def test_half_a_character_is_a_fault(row: Any, column: str) -> None:
    assert fault(row, format_of(row)) == f"{column} holds half a character (a lone surrogate)"
    whole = json.loads(json.dumps(row).replace("\\ud83d", "\\ud83d\\ude00"))
    if whole != row:
        assert fault(whole, format_of(row)) is None
    assert fault({"text": "a", "title": "\ud83d"}, "text") is None  # nobody trains on it


def test_a_json_list_may_hold_odd_items(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, 3, None]))
    found = read(path, max_bad=0.7)
    assert (len(found.rows), found.num_bad) == (1, 2)
    assert found.examples_of_bad[0] == "row 2: not a JSON object"


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_empty_data_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert refusal(tmp_path / "a.json") == "data a.json: has no rows (train)"


def test_a_format_that_the_stage_does_not_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([PAIR]))
    assert refusal(tmp_path / "a.jsonl", formats=("messages", "text")) == (
        "data a.jsonl: rows have the format 'preference' (prompt, chosen, rejected); "
        "this stage takes messages or text"
    )


def test_the_format_is_the_richest_that_the_columns_allow() -> None:
    assert format_of(PAIR) == "preference"
    assert format_of({"prompt": "q", "answer": 3}) == "prompt"
    assert format_of({**CHAT, "text": "x"}) == "messages"
    assert format_of({"text": "x"}) == "text"
    assert format_of({"x": 1}) is None
    assert format_of({"prompt": "q", "completion": "a", "text": "x"}) == "completion"


def test_of_several_formats_a_row_has_the_one_that_the_stage_takes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([{**PAIR, **CHAT, "completion": "a"}]))
    for name in ("preference", "messages", "completion", "prompt"):
        assert read(tmp_path / "a.jsonl", formats=(name,)).format == name
    assert read(tmp_path / "a.jsonl", formats=("text", "prompt", "messages")).format == "messages"


ASKED, OTHER = turns("uq"), turns("uq", "ahm", "uand?")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # No prompt: what both begin with.
        (
            {"chosen": ASKED + turns("ay"), "rejected": ASKED + turns("an")},
            (ASKED, turns("ay"), turns("an")),
        ),
        (
            {"chosen": OTHER + turns("ay"), "rejected": OTHER + turns("an", "uw", "ax")},
            (OTHER, turns("ay"), turns("an", "uw", "ax")),
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            ("The sky is", " blue.", " green."),
        ),
        ({"chosen": "2+2=4", "rejected": "2+2=5"}, ("2+2=", "4", "5")),
        ({"chosen": "ab", "rejected": "abc"}, ("a", "b", "bc")),
        # As UltraFeedback has them: the prompt as text besides.
        (
            {"prompt": "q", "chosen": ASKED + turns("ay"), "rejected": ASKED + turns("an")},
            (ASKED, turns("ay"), turns("an")),
        ),
        # Apart, and in the answers too.
        (
            {"prompt": ASKED, "chosen": ASKED + turns("ay"), "rejected": ASKED + turns("an")},
            (ASKED, turns("ay"), turns("an")),
        ),
        # Explicit: what the answers share is theirs.
        (
            {"prompt": ASKED, "chosen": turns("a", "u", "ay"), "rejected": turns("a", "u", "an")},
            (ASKED, turns("a", "u", "ay"), turns("a", "u", "an")),
        ),
        (
            {"prompt": OTHER, "chosen": ASKED + turns("ay"), "rejected": ASKED + turns("an")},
            (OTHER, ASKED + turns("ay"), ASKED + turns("an")),
        ),
        (
            {"prompt": "q", "chosen": "yes", "rejected": "yet"},
            ("q", "yes", "yet"),
        ),
    ],
)
def test_preferences_become_explicit(tmp_path: Path, row: Any, expected: Any) -> None:
    (tmp_path / "a.jsonl").write_text(lines([row]))
    (found,) = read(tmp_path / "a.jsonl", formats=("preference",)).rows
    assert (found["prompt"], found["chosen"], found["rejected"]) == expected


@pytest.mark.parametrize("answers", [("yes", "no"), (turns("ay"), turns("an"))])
def test_preferences_that_share_nothing_have_no_prompt(tmp_path: Path, answers: Any) -> None:
    row = {"chosen": answers[0], "rejected": answers[1]}
    (tmp_path / "a.jsonl").write_text(lines([row]))
    message = refusal(tmp_path / "a.jsonl", formats=("preference",))
    assert "prompt is missing or empty, and chosen and rejected begin differently" in message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": ""}, "completion is missing or empty"),
        ({"prompt": "q", "completion": turns("a")}, "prompt and completion are not both text"),
        ({"prompt": ASKED, "completion": turns("uq")}, "completion: no turn of the assistant"),
        ({"prompt": ASKED, "completion": turns("ay")}, None),
        ({"prompt": "q", "completion": "a"}, None),
    ],
)
def test_a_completion_answers_its_prompt(row: Any, reason: str | None) -> None:
    found = fault(row, "completion")
    assert found is None if reason is None else reason in str(found)


def test_a_text_prompt_can_become_the_users_turn(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([PAIR]))
    (row,) = read(tmp_path / "a.jsonl", formats=("preference",), as_chat=True).rows
    assert row["prompt"] == [{"role": "user", "content": "q"}]
    assert row["rejected"] == [{"role": "assistant", "content": "n"}]
    (tmp_path / "b.jsonl").write_text(lines([{"prompt": "q", "completion": "y"}]))
    (row,) = read(tmp_path / "b.jsonl", formats=("completion",), as_chat=True).rows
    assert row["prompt"] == [{"role": "user", "content": "q"}]
    assert row["completion"] == [{"role": "assistant", "content": "y"}]


# Held-out rows.


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_fraction_is_held_out_and_never_trained_on(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": str(n)} for n in range(100)]
    path.write_text(lines(rows))
    held = {"fraction": fraction, "limit": 1000}
    train = {row["text"] for row in read(path, validation=held).rows}
    out = {row["text"] for row in read(path, "validation", validation=held).rows}
    assert not train & out
    assert len(train | out) == 100
    assert len(out) == 100 // max(2, round(1 / fraction))
    path.write_text(lines([*rows, *rows]))
    assert train <= {row["text"] for row in read(path, validation=held).rows}


def test_held_out_rows_keep_their_number_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines([{"text": "a"}, {"text": ""}] * 5))
    held = {"fraction": 0.5, "limit": 2}
    assert "row 2: " in refusal(path, "validation", validation=held)
    path.write_text(lines(TEXTS))
    assert read(path, "validation", validation=held).rows == [TEXTS[1], TEXTS[3]]


def test_views_are_held_out_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cpt import corpora

    (tmp_path / "documents.jsonl").write_text(lines(TEXTS))
    (tmp_path / "documents_validation.jsonl").write_text(lines(TEXTS[:3]))
    monkeypatch.setattr(corpora, "views", lambda builder, source: tmp_path)
    tree = {"builder": "general", "view": "documents", "limit": 5}
    tree["validation"] = {"view": "documents_validation", "limit": 2}
    spec = validate(DataSpec, tree, "d.yaml")
    assert load_rows(spec, ("text",)).rows == TEXTS[:5]
    assert load_rows(spec, ("text",), "validation").rows == TEXTS[:2]
    assert spec.label == "general.documents"


def test_a_hub_that_does_not_answer_is_told() -> None:
    # The tests run offline: HF_HUB_OFFLINE is set in conftest.py.
    message = refusal("nobody/no-such-set", revision="0" * 40)
    assert message.startswith("data nobody/no-such-set: cannot be read from the hub: ")


class Hub:
    """Stands in for `datasets.load_dataset`: splits of rows, what was asked for, and how much was read."""

    def __init__(self, **splits: Iterable[Any]) -> None:
        self.splits = splits
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.num_read = 0

    def __call__(self, *arguments: Any, **settings: Any) -> Iterator[Any]:
        self.asked.append((arguments, settings))
        if settings["split"] not in self.splits:
            raise ValueError(f"Unknown split {settings['split']!r}.\nShould be one of ['train'].")
        return self._rows(self.splits[settings["split"]])

    def _rows(self, rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            self.num_read += 1
            yield row


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import datasets

    stand_in = Hub(train=TEXTS, test=TEXTS[:4])
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    return stand_in


HUB = {"path": "org/set", "revision": "a" * 40}


def test_the_hub_is_asked_for_the_split_and_the_revision_that_were_named(hub: Hub) -> None:
    spec = validate(DataSpec, {**HUB, "name": "small", "validation": {"split": "test"}}, "d.yaml")
    assert load_rows(spec, ("text",)).rows == TEXTS
    assert load_rows(spec, ("text",), "validation").rows == TEXTS[:4]
    asked = {"revision": "a" * 40, "streaming": False}
    assert hub.asked == [
        (("org/set", "small"), {**asked, "split": "train"}),
        (("org/set", "small"), {**asked, "split": "test"}),
    ]


def test_a_split_that_the_hub_does_not_have_is_told(hub: Hub) -> None:
    assert refusal("org/set", revision="a" * 40, split="trian") == (
        "data org/set: cannot be read from the hub: Unknown split 'trian'."
    )


def test_a_connection_lost_on_the_way_is_told(hub: Hub) -> None:
    def broken() -> Iterator[Any]:
        yield TEXTS[0]
        raise ConnectionError("reset by peer")

    hub.splits["train"] = broken()
    rows = Reader(validate(DataSpec, {**HUB, "streaming": True}, "d.yaml"), ("text",))
    with pytest.raises(DataError, match="data org/set: cannot be read from the hub: reset by peer"):
        list(rows)


def test_a_streamed_set_is_read_as_far_as_it_is_wanted(hub: Hub) -> None:
    spec = validate(DataSpec, {**HUB, "streaming": True}, "d.yaml")
    rows = open_rows(spec, ("text",))
    assert isinstance(rows, Reader)
    assert hub.asked == []
    assert list(islice(rows, 3)) == [(n + 1, TEXTS[n]) for n in range(3)]
    assert hub.num_read == 3
    assert hub.asked[0][1]["streaming"] is True
    limited = validate(DataSpec, {**HUB, "streaming": True, "limit": 2}, "d.yaml")
    assert len(list(Reader(limited, ("text",)))) == 2
    assert hub.num_read == 5
    assert isinstance(open_rows(validate(DataSpec, HUB, "d.yaml"), ("text",)), Rows)


def test_an_endless_stream_that_is_mostly_bad_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_BETWEEN_CHECKS", 50)
    spec = validate(DataSpec, {**HUB, "streaming": True}, "d.yaml")
    hub.splits["train"] = ({"text": "a" if n == 1 else ""} for n in count())
    rows = Reader(spec, ("text",))
    with pytest.raises(DataError, match=r"49 of 50 rows are bad, more than max_bad 0\.01 allows"):
        list(rows)
    assert (rows.num_good, rows.num_bad, hub.num_read) == (1, 49, 50)
    hub.splits["train"] = ({"body": "a"} for n in count())
    with pytest.raises(DataError, match=r"no usable row of 50; row 1: .* its columns are 'body'"):
        list(Reader(spec, ("text",)))
