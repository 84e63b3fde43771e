"""The stream that a stage trains on, from rows on disk to the trainer's table."""

import json
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import stages.tokenise as tokenising
from cpt import past
from cpt.errors import DataError
from cpt.hooks import table
from cpt.hooks.context import Mixture, OldRows, StageContext
from cpt.hooks.stack import HookStack
from cpt.recipe import StageSpec
from cpt.replay.schedule import Schedule
from cpt.settings import validate
from cpt.world import World
from stages import kind_of
from stages.base import Job
from stages.interruption import remove_leftovers
from stages.material import stage_supply, supply
from stages.supply import Supply


def text(number: int, length: int) -> str:
    """A text that says which one it is; one token per byte."""
    return f"{number:04d}" + "x" * length


def texts(folder: Path, number: int, length: int = 6, name: str = "new") -> str:
    """Texts of `length` + 4 tokens and EOS, no two alike."""
    rows = [{"text": text(n, length)} for n in range(number)]
    return write(folder / f"{name}.jsonl", rows)


def write(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


class Old:
    """A hook that adds rows, without a past."""

    def __init__(self, rows: list[Any], share: float, unit: Any = "tokens", **more: Any) -> None:
        self.added = OldRows("replay of old", rows, share, unit, **more)


def stack(kind: str, *olds: Old) -> HookStack:
    ctx = StageContext(kind, kind, kind_of(kind, "x").formats, 17, World(), "start")
    hooks = HookStack([], ctx)

    def mix(data: Mixture) -> Mixture:
        data.old += [old.added for old in olds]
        return data

    hooks.mix = mix  # type: ignore[method-assign]
    return hooks


def make(kind: str, tokenizer: Any, data: Any, *olds: Old, seed: int = 17, **train: Any) -> Supply:
    items = data if isinstance(data, list) else [data]
    tree = {
        "kind": kind,
        "data": [{"path": item} if isinstance(item, str) else item for item in items],
        "train": train,
    }
    spec = validate(StageSpec, tree, "s.yaml")
    return supplied(kind_of(kind, "s.yaml"), spec, seed, stack(kind, *olds), tokenizer)


def supplied(kind: Any, spec: StageSpec, seed: int, hooks: HookStack, tokenizer: Any) -> Supply:
    """In a folder that goes again: what is mapped stays until it is let go."""
    with tempfile.TemporaryDirectory() as folder:
        return supply(kind, spec, seed, hooks, tokenizer, Path(folder))


def said(tokenizer: Any, done: Supply) -> list[str]:
    return [tokenizer.decode(row["input_ids"]) for row in done.train]


def test_rows_and_steps_of_epochs_fill_the_last_batch(tmp_path: Path, tiny_tokenizer: Any) -> None:
    done = make("sft", tiny_tokenizer, texts(tmp_path, 10), batch_size=4, num_train_epochs=2)
    assert (done.num_steps, len(done.train)) == (5, 20)
    assert Counter(said(tiny_tokenizer, done)) == {f"{text(n, 6)}<|im_end|>": 2 for n in range(10)}
    done = make("sft", tiny_tokenizer, texts(tmp_path, 10), batch_size=4)
    assert (done.num_steps, len(done.train)) == (3, 12)
    assert len(set(said(tiny_tokenizer, done)[:10])) == 10


def test_max_steps_count_whole_batches(tmp_path: Path, tiny_tokenizer: Any) -> None:
    done = make("sft", tiny_tokenizer, texts(tmp_path, 10), batch_size=4, max_steps=7)
    assert (done.num_steps, len(done.train)) == (7, 28)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_replay_has_its_share_of_tokens_within_one_row(
    tmp_path: Path, tiny_tokenizer: Any, share: float
) -> None:
    old = [{"text": "old" + "y" * (n % 40)} for n in range(50)]
    done = make("sft", tiny_tokenizer, texts(tmp_path, 200), Old(old, share), batch_size=8)
    lengths = [
        (line.startswith("old"), len(row["input_ids"]))
        for line, row in zip(said(tiny_tokenizer, done), done.train, strict=True)
    ]
    tokens = sum(length for _, length in lengths)
    replayed = sum(length for is_old, length in lengths if is_old)
    assert abs(replayed - share * tokens) <= 44
    assert done.description[1]["share"] == pytest.approx(replayed / tokens, abs=1e-6)
    assert done.description[1]["replayed"] is True
    assert {line[:4] for line in said(tiny_tokenizer, done)} >= {f"{n:04d}" for n in range(200)}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("settings", [{"max_steps": 5}, {"num_train_epochs": 1}], ids=str)
def test_in_packed_rows_too(
    tmp_path: Path, tiny_tokenizer: Any, share: float, settings: dict[str, Any]
) -> None:
    old = [{"text": "y" * (3 + n % 40)} for n in range(50)]
    data = texts(tmp_path, 200)
    done = make(
        "pretrain", tiny_tokenizer, data, Old(old, share), batch_size=4, max_length=64, **settings
    )
    assert len(done.train) == 4 * done.num_steps
    everything = "".join(said(tiny_tokenizer, done))
    assert {len(row["input_ids"]) for row in done.train} == {64}
    documents = everything.split("<|im_end|>")
    tokens = len(done.train) * 64
    replayed = sum(len(document) + 1 for document in documents if document.startswith("y"))
    assert abs(replayed - share * tokens) <= 44 + 44  # one row of the stream, one cut at the end
    if settings == {"num_train_epochs": 1}:
        assert {document[:4] for document in documents} >= {f"{n:04d}" for n in range(200)}
        # 200 texts of 11 tokens are 1 - share of the stream; the last step is filled up.
        needed = 200 * 11 / (1 - share) / 64 / 4
        assert needed <= done.num_steps <= needed + 1.2


@pytest.mark.parametrize(("number", "epochs"), [(8, 1), (32, 1), (33, 1), (5, 3.0), (1, 1)])
def test_all_packed_rows_of_pretraining_are_full(
    tmp_path: Path, tiny_tokenizer: Any, number: int, epochs: float
) -> None:
    data = texts(tmp_path, number, length=11)  # 16 tokens each
    done = make(
        "pretrain", tiny_tokenizer, data, batch_size=2, max_length=32, num_train_epochs=epochs
    )
    assert done.num_steps == -(-number * epochs * 16 // 64)
    assert len(done.train) == 2 * done.num_steps
    for row in done.train:
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) == 32
        assert row["labels"] == row["input_ids"]  # no padding, and every token is learnt
    seen = Counter("".join(said(tiny_tokenizer, done)).split("<|im_end|>"))
    assert all(seen[text(n, 11)] >= int(epochs) for n in range(number))


def test_packed_chats_stay_whole_and_teach_the_assistant_only(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": f"{n:02d}" + "a" * (n % 7)},
            ]
        }
        for n in range(30)
    ]
    data = write(tmp_path / "chats.jsonl", chats)
    done = make("sft", tiny_tokenizer, data, batch_size=2, max_length=80, packing=True)
    assert len(done.train) == 2 * done.num_steps
    for row in done.train:
        assert len(row["input_ids"]) == sum(row["seq_lengths"]) <= 80
        parts = tiny_tokenizer.decode(row["input_ids"]).split("<|im_start|>user\nq<|im_end|>\n")
        assert parts[0] == ""
        assert len(parts) == len(row["seq_lengths"]) + 1
        learnt = tiny_tokenizer.decode([label for label in row["labels"] if label != -100])
        heads = [part.removeprefix("<|im_start|>assistant\n").strip() for part in parts[1:]]
        assert learnt == "".join(heads)


def test_weights_are_shares_of_the_new_data_and_none_is_truncated(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    data = [
        {"path": texts(tmp_path, 40, name="a"), "weight": 3},
        {"path": texts(tmp_path, 40, length=17, name="b"), "weight": 1},
    ]
    for kind, more in (("sft", {}), ("pretrain", {"max_length": 32})):
        done = make(kind, tiny_tokenizer, data, batch_size=2, **more)
        one, other = done.description
        assert one["share"] == pytest.approx(0.75, abs=0.02)
        assert one["epochs"] >= 0.99
        assert other["epochs"] >= 0.99


def test_units_count_rows_in_packed_streams_too(tmp_path: Path, tiny_tokenizer: Any) -> None:
    old = Old([{"text": "y" * 39}] * 5, 0.5, "samples")
    data = texts(tmp_path, 100)
    for kind, more in (("sft", {}), ("pretrain", {"max_length": 64})):
        done = make(kind, tiny_tokenizer, data, old, batch_size=2, **more)
        assert [entry["share"] for entry in done.description] == pytest.approx([0.5, 0.5], abs=0.01)
        assert done.description[0]["unit"] == "samples"


def test_a_replay_does_not_reorder_new_data(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = texts(tmp_path, 40)
    alone = said(tiny_tokenizer, make("sft", tiny_tokenizer, data, batch_size=1))
    old = Old([{"text": "y"}], 0.3)
    mixed = said(tiny_tokenizer, make("sft", tiny_tokenizer, data, old, batch_size=1))
    assert [line for line in mixed if line.startswith("0")] == alone
    other = make("sft", tiny_tokenizer, data, batch_size=1, seed=18)
    assert said(tiny_tokenizer, other) != alone


def test_the_order_does_not_depend_on_where_the_files_lie(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    (tmp_path / "else").mkdir()
    one = make("sft", tiny_tokenizer, texts(tmp_path, 20, name="a"), batch_size=1)
    other = make("sft", tiny_tokenizer, texts(tmp_path / "else", 20, name="b"), batch_size=1)
    assert said(tiny_tokenizer, one) == said(tiny_tokenizer, other)


def test_the_replay_hook_brings_rows_of_the_past(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data, old = texts(tmp_path, 40), write(tmp_path / "old.jsonl", [{"text": "old"}] * 3)
    hook = table.build("replay", {"source": {"path": old}, "share": 0.25, "unit": "samples"}, "x")
    hooks = stack("sft")
    real = HookStack([hook], hooks.ctx)
    real.recall(past.of_checkpoint("org/base"))
    tree = {"kind": "sft", "data": {"path": data}, "train": {"batch_size": 4}}
    spec = validate(StageSpec, tree, "s.yaml")
    done = supplied(kind_of("sft", "x"), spec, 17, real, tiny_tokenizer)
    assert Counter(line.startswith("old") for line in said(tiny_tokenizer, done))[
        True
    ] == pytest.approx(len(done.train) / 4, abs=1)
    assert done.description[1]["name"] == "replay of old.jsonl"


# Exemplars.


def test_few_rows_are_all_exemplars(tmp_path: Path, tiny_tokenizer: Any) -> None:
    done = make(
        "sft", tiny_tokenizer, texts(tmp_path, 10), Old([{"text": "old"}], 0.3), batch_size=2
    )
    assert sorted(row["text"] for row in done.exemplars) == [text(n, 6) for n in range(10)]


def test_exemplars_are_what_was_trained_on_and_no_dropped_row(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    rows = []
    for number in range(20):
        question = "q" * (200 if number % 2 else 1)
        answer = {"role": "assistant", "content": str(number)}
        rows.append({"messages": [{"role": "user", "content": question}, answer]})
    path = write(tmp_path / "chats.jsonl", rows)
    with pytest.raises(DataError, match="10 of 20 rows have no label"):
        make("sft", tiny_tokenizer, path, batch_size=1, max_length=60)
    data = {"path": str(path), "max_bad": 0.5}
    done = make("sft", tiny_tokenizer, data, batch_size=1, max_length=60)
    kept = {row["messages"][1]["content"] for row in done.exemplars}
    assert kept == {str(number) for number in range(0, 20, 2)}
    assert done.description[0]["dropped_rows"] == 10
    assert any("left out 10 rows" in note for note in done.notes)


def test_a_row_seen_often_is_one_exemplar(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data, old = texts(tmp_path, 10), Old([{"text": "old"}], 0.3)
    done = make("sft", tiny_tokenizer, data, old, batch_size=2, num_train_epochs=3)
    once = make("sft", tiny_tokenizer, data, old, batch_size=2)
    assert done.exemplars == once.exemplars
    assert len(done.exemplars) == 10


def test_a_stream_cut_short_leaves_only_what_was_seen(tmp_path: Path, tiny_tokenizer: Any) -> None:
    for kind, more in (("sft", {}), ("pretrain", {"max_length": 22})):
        done = make(kind, tiny_tokenizer, texts(tmp_path, 100), batch_size=2, max_steps=3, **more)
        seen = "".join(said(tiny_tokenizer, done))
        assert 6 <= len(done.exemplars) <= 13
        assert all(row["text"][:4] in seen for row in done.exemplars)


def test_many_rows_are_sampled_uniformly_and_always_alike(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    data = texts(tmp_path, 3000, length=0)
    one = make("sft", tiny_tokenizer, data, batch_size=8)
    other = make("sft", tiny_tokenizer, data, batch_size=8)
    assert one.exemplars == other.exemplars
    numbers = [int(row["text"]) for row in one.exemplars]
    assert len(set(numbers)) == 1000 == past.NUM_EXEMPLARS
    # The mean of a uniform sample of 1000 of 3000 has a standard error of 22; five of them.
    assert abs(sum(numbers) / 1000 - 1499.5) < 112
    first = said(tiny_tokenizer, one)
    places = [first.index(f"{number:04d}<|im_end|>") for number in numbers]
    assert places == sorted(places)


def test_exemplars_may_hold_what_json_cannot(tmp_path: Path, tiny_tokenizer: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    day = datetime(2024, 2, 3)
    rows = [{"text": text(n, 6), "day": day, "raw": b"\xff"} for n in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    done = make("sft", tiny_tokenizer, str(tmp_path / "a.parquet"), batch_size=2)
    assert {(row["day"], row["raw"]) for row in done.exemplars} == {(str(day), "b'\\xff'")}
    data = write(tmp_path / "b.jsonl", [{"text": "caf\u00e9", "title": "\ud83d"}])
    (row,) = make("sft", tiny_tokenizer, data, batch_size=1).exemplars
    assert row == {"text": "caf\u00e9", "title": "\ud83d"}


# Notes and refusals.


def test_many_epochs_are_noted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = texts(tmp_path, 10)
    assert make("sft", tiny_tokenizer, data, batch_size=8, max_steps=10).notes == []
    (note,) = make("sft", tiny_tokenizer, data, batch_size=9, max_steps=9).notes
    assert note == "new.jsonl: each row is seen 8.1 times; it may be learnt by heart"


def test_bad_rows_are_noted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}])
    done = make("sft", tiny_tokenizer, {"path": file, "max_bad": 0.5}, batch_size=1)
    assert done.description[0]["bad_rows"] == 1
    assert done.notes[0].startswith("a.jsonl: left out 1 bad rows: row 2: ")


def test_half_a_character_is_a_bad_row(tmp_path: Path, tiny_tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "a"}]
    file = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "\ude00"}, {"text": "b"}])
    done = make("sft", tiny_tokenizer, {"path": file, "max_bad": 0.5}, batch_size=1)
    assert done.notes == [
        "a.jsonl: left out 1 bad rows: row 2: text holds half a character (a lone surrogate)"
    ]
    file = write(tmp_path / "b.jsonl", [{"messages": chat}])
    with pytest.raises(DataError, match="messages holds half a character"):
        make("sft", tiny_tokenizer, file, batch_size=1)


def test_held_out_rows_are_made_likewise(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = {"path": texts(tmp_path, 40, length=11), "validation": {"fraction": 0.25, "limit": 6}}
    done = make("sft", tiny_tokenizer, data, batch_size=2)
    assert done.held_out is not None
    assert len(done.held_out) == 6
    assert not {*said(tiny_tokenizer, done)} & {
        tiny_tokenizer.decode(row["input_ids"]) for row in done.held_out
    }
    done = make("pretrain", tiny_tokenizer, data, batch_size=2, max_length=32)
    assert done.held_out is not None
    assert sum(len(row["input_ids"]) for row in done.held_out) == 6 * 16
    assert make("sft", tiny_tokenizer, texts(tmp_path, 4), batch_size=2).held_out is None


def test_what_leaves_nothing_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = texts(tmp_path, 4)
    with pytest.raises(DataError, match="replay shares sum to 1"):
        make("sft", tiny_tokenizer, data, Old([{"text": "y"}], 0.5), Old([{"text": "y"}], 0.5))
    with pytest.raises(DataError, match="one unit"):
        make(
            "sft",
            tiny_tokenizer,
            data,
            Old([{"text": "y"}], 0.1),
            Old([{"text": "y"}], 0.1, "samples"),
        )
    chats = [
        {"messages": [{"role": "user", "content": "q" * 99}, {"role": "assistant", "content": "a"}]}
    ]
    with pytest.raises(DataError, match=r"chats\.jsonl: no row is left once tokenised \(1 "):
        make("sft", tiny_tokenizer, write(tmp_path / "chats.jsonl", chats), max_length=50)


# Rows that the chat template refuses.


def chats(folder: Path, number: int, every: int) -> str:
    """Chats of which each `every`-th row repeats a role."""
    rows = []
    for n in range(1, number + 1):
        asked = [{"role": "user", "content": str(n)}] * (2 if n % every == 0 else 1)
        rows.append({"messages": [*asked, {"role": "assistant", "content": "a"}]})
    return write(folder / "chats.jsonl", rows)


@pytest.fixture
def strict(tiny_tokenizer: Any) -> Iterator[Any]:
    before = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = (
        "{% if messages | length > 1 and messages[1]['role'] == 'user' %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}" + before
    )
    yield tiny_tokenizer
    tiny_tokenizer.chat_template = before


def test_refused_chats_are_bad_rows_up_to_a_limit(tmp_path: Path, strict: Any) -> None:
    data = {"path": chats(tmp_path, 20, every=5), "max_bad": 0.2}
    done = make("sft", strict, data, batch_size=1)
    assert (done.description[0]["rows"], done.description[0]["bad_rows"]) == (16, 4)
    assert done.notes == [
        "chats.jsonl: left out 4 bad rows: row 5: the chat template refuses turns of "
        "user, user, assistant: roles must alternate"
    ]
    assert sorted(int(row["messages"][0]["content"]) for row in done.exemplars) == [
        n for n in range(1, 21) if n % 5
    ]
    with pytest.raises(DataError, match=r"4 of 20 rows are bad, more than max_bad 0\.19.*row 5: "):
        make("sft", strict, {**data, "max_bad": 0.19}, batch_size=1)
    with pytest.raises(DataError, match=r"no row is left .*20 the chat template refuses\)"):
        make("sft", strict, {"path": chats(tmp_path, 20, every=1), "max_bad": 1.0}, batch_size=1)


def test_they_add_to_the_rows_that_could_not_be_read(tmp_path: Path, strict: Any) -> None:
    path = chats(tmp_path, 20, every=20)
    Path(path).write_text("{broken\n" + Path(path).read_text())
    done = make("sft", strict, {"path": path, "max_bad": 0.1}, batch_size=1)
    assert done.description[0]["bad_rows"] == 2
    assert "left out 2 bad rows: row 1: not JSON" in done.notes[0]
    assert "row 21: the chat template refuses" in done.notes[0]
    with pytest.raises(DataError, match="2 of 21 rows are bad"):
        make("sft", strict, {"path": path, "max_bad": 0.06}, batch_size=1)


def test_held_out_and_replayed_chats_too(tmp_path: Path, strict: Any) -> None:
    data = {"path": chats(tmp_path, 20, every=10), "validation": {"fraction": 0.2}, "max_bad": 0.5}
    done = make("sft", strict, data, batch_size=1)
    assert done.held_out is not None
    assert len(done.held_out) == 2
    assert "chats.jsonl (held out): left out 2 bad rows: row 10: " in done.notes[0]
    with pytest.raises(DataError, match=r"\(held out\): 2 of 4 rows are bad"):
        make("sft", strict, {**data, "max_bad": 0.4}, batch_size=1)
    old = [json.loads(line) for line in Path(str(data["path"])).read_text().splitlines()]
    new = texts(tmp_path, 40)
    with pytest.raises(DataError, match=r"replay of old: 2 of 20 rows are bad"):
        make("sft", strict, new, Old(old, 0.2), batch_size=1)
    done = make("sft", strict, new, Old(old[:9] * 12 + old[9:10], 0.2), batch_size=1)
    assert done.description[1]["bad_rows"] == 1


# Streams.


class Text(str):
    """A text whose end can be watched."""


class Hub:
    """Stands in for `datasets.load_dataset`: an endless set, how much was read, and what of it is alive."""

    def __init__(self, length: int = 6, bad: int = 0) -> None:
        self.length, self.bad, self.num_read, self.most_alive = length, bad, 0, 0
        self.texts: list[weakref.ref[Text]] = []

    def __call__(self, path: str, name: Any, streaming: bool, **settings: Any) -> Iterator[Any]:
        for number in count() if streaming else range(100):
            self.num_read += 1
            if self.bad and number % self.bad == self.bad - 1:
                yield {"text": ""}
                continue
            whole = Text(text(number, self.length))
            self.texts = [known for known in self.texts if known() is not None]
            self.texts.append(weakref.ref(whole))
            self.most_alive = max(self.most_alive, len(self.texts))
            yield {"text": whole}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import datasets

    stand_in = Hub()
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    monkeypatch.setattr(tokenising, "BATCH", 10)
    return stand_in


STREAM = {"path": "org/set", "revision": "a" * 40, "streaming": True}


@pytest.mark.parametrize(
    ("kind", "train", "needed"),
    [
        ("sft", {"batch_size": 4, "max_steps": 40}, 160),
        # 40 rows of 66 tokens hold 240 texts of 11; two more are spare.
        ("pretrain", {"batch_size": 4, "max_steps": 10, "max_length": 66}, 242),
    ],
)
def test_no_more_of_a_stream_is_read_than_is_needed_nor_kept_in_memory(
    hub: Hub, tiny_tokenizer: Any, kind: str, train: dict[str, Any], needed: int
) -> None:
    done = make(kind, tiny_tokenizer, STREAM, **train)
    assert needed <= hub.num_read < needed + 10  # whole batches
    assert hub.most_alive <= 2 * 10 + 1
    assert done.num_steps == train["max_steps"]
    assert len(done.train) == done.num_steps * train["batch_size"]
    seen = "".join(said(tiny_tokenizer, done)).split("<|im_end|>")
    assert len({*seen}) >= needed - 2
    assert done.description[0]["epochs"] <= 1  # no row twice
    assert done.description[0]["rows"] == hub.num_read
    assert len(done.exemplars) >= needed - 2
    assert {row["text"] for row in done.exemplars} <= {text(n, 6) for n in range(hub.num_read)}


def test_the_same_rows_come_of_the_same_stream_and_of_the_same_rows_on_disk(
    hub: Hub, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    train = {"batch_size": 4, "max_steps": 10, "max_length": 66}
    one, other = (make("pretrain", tiny_tokenizer, STREAM, **train) for _ in range(2))
    assert one.train.to_list() == other.train.to_list()
    assert one.exemplars == other.exemplars
    number = one.description[0]["rows"]
    local = make("pretrain", tiny_tokenizer, texts(tmp_path, number), **train)
    assert local.train.to_list() == one.train.to_list()
    assert local.exemplars == one.exemplars


def test_a_stream_beside_others_gives_its_share(
    hub: Hub, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    train = {"batch_size": 4, "max_steps": 10, "max_length": 66}
    data = [{**STREAM, "weight": 1}, {"path": texts(tmp_path, 300, length=9), "weight": 3}]
    old = Old([{"text": "y" * 20}], 0.2)
    done = make("pretrain", tiny_tokenizer, data, old, **train)
    # 2640 tokens, of which 0.2 are 48 texts of 11.
    assert 48 + 2 <= hub.num_read < 48 + 2 + 10
    assert [entry["share"] for entry in done.description] == pytest.approx(
        [0.2, 0.6, 0.2], abs=0.02
    )
    assert done.description[0]["epochs"] <= 1


@pytest.mark.parametrize("streaming", [True, False])
def test_bad_rows_of_what_is_replayed_are_told(
    hub: Hub, tmp_path: Path, tiny_tokenizer: Any, streaming: bool
) -> None:
    hub.bad = 10
    source = {**STREAM, "streaming": streaming, "max_bad": 0.15}
    hook = table.build("replay", {"source": source, "share": 0.5, "unit": "samples"}, "x")
    tree = {"kind": "sft", "data": {"path": texts(tmp_path, 40)}, "train": {"max_steps": 5}}
    spec = validate(StageSpec, tree, "s.yaml")
    hooks = HookStack([hook], stack("sft").ctx)
    hooks.recall(past.of_checkpoint("org/base"))
    done = supplied(kind_of("sft", "x"), spec, 17, hooks, tiny_tokenizer)
    num_bad = 10 if not streaming else (hub.num_read // 10)
    assert done.description[1]["bad_rows"] == num_bad > 0
    assert "content" not in done.description[1]
    assert done.notes == [
        f"replay of org/set: left out {num_bad} bad rows: row 10: text is missing or empty"
    ]
    if streaming:
        assert hub.num_read < 60
        assert all(row["text"].endswith("xxxxxx") for row in done.exemplars)


def test_bad_rows_of_a_stream_count_as_far_as_it_is_read(hub: Hub, tiny_tokenizer: Any) -> None:
    hub.bad = 10
    data = {**STREAM, "max_bad": 0.15}
    done = make("sft", tiny_tokenizer, data, batch_size=4, max_steps=10)
    assert done.description[0]["bad_rows"] == hub.num_read // 10 == 4
    with pytest.raises(DataError, match=r"4 of 44 rows are bad, more than max_bad 0\.05 allows"):
        make("sft", tiny_tokenizer, {**data, "max_bad": 0.05}, batch_size=4, max_steps=10)


def test_epochs_of_a_stream_take_all_of_it(hub: Hub, tiny_tokenizer: Any) -> None:
    data = {**STREAM, "limit": 37}
    done = make("sft", tiny_tokenizer, data, batch_size=4, num_train_epochs=2)
    assert done.description[0]["rows"] == hub.num_read == 37
    assert done.num_steps == 19


# On disk.


def job(folder: Path, spec: StageSpec, job_id: str = "sft-0") -> Job:
    output = folder / job_id
    return Job("sft", job_id, spec, 17, "start", {}, output, {}, {})


def stage(folder: Path, tokenizer: Any, job_id: str = "sft-0", **data: Any) -> Supply:
    tree = {"kind": "sft", "data": {"path": str(folder / "new.jsonl"), **data}}
    spec = validate(StageSpec, tree, "s.yaml")
    one = job(folder, spec, job_id)
    return stage_supply(one, kind_of("sft", "x"), stack("sft"), tokenizer, World(), print)


def test_a_resumed_stage_tokenises_nothing(tmp_path: Path, tiny_tokenizer: Any) -> None:
    texts(tmp_path, 10)
    first = stage(tmp_path, tiny_tokenizer, validation={"fraction": 0.2})
    (tmp_path / "new.jsonl").unlink()  # even the data need not be there
    again = stage(tmp_path, tiny_tokenizer, validation={"fraction": 0.2})
    assert first.held_out is not None
    assert again.held_out is not None
    assert again.train.to_list() == first.train.to_list()
    assert again.held_out.to_list() == first.held_out.to_list()
    for name in ("num_steps", "exemplars", "description", "notes"):
        assert getattr(again, name) == getattr(first, name)
    assert (tmp_path / "sft-0.partial" / "data" / "train.arrow").is_file()


def test_another_id_or_another_held_out_part_is_made_anew(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    texts(tmp_path, 10)
    one = stage(tmp_path, tiny_tokenizer, validation={"fraction": 0.5, "limit": 2})
    other = stage(tmp_path, tiny_tokenizer, validation={"fraction": 0.5, "limit": 3})
    assert one.held_out is not None
    assert other.held_out is not None
    assert (len(one.held_out), len(other.held_out)) == (2, 3)
    texts(tmp_path, 20)
    (tmp_path / "sft-0.partial").rename(tmp_path / "sft-1.partial")  # as by hand
    assert len(stage(tmp_path, tiny_tokenizer, "sft-1").train) != len(one.train)


def test_a_finished_stage_keeps_no_tokens(tmp_path: Path, tiny_tokenizer: Any) -> None:
    texts(tmp_path, 10)
    done = stage(tmp_path, tiny_tokenizer)
    partial = tmp_path / "sft-0.partial"
    (partial / "data.json").write_text("{}")  # what the main process told the others
    remove_leftovers(partial)
    assert list(partial.iterdir()) == []
    assert len(done.train) == 16  # what is mapped can still be read


@pytest.mark.parametrize(("share", "size"), [(0.25, 8), (0.3, 8), (0.5, 2)])
def test_every_batch_holds_its_share_of_old_rows(
    tmp_path: Path, tiny_tokenizer: Any, share: float, size: int
) -> None:
    old = Old([{"text": "y" * (n % 9 + 1)} for n in range(11)], share, "samples", in_batches=True)
    done = make("sft", tiny_tokenizer, texts(tmp_path, 50), old, batch_size=size)
    lines = said(tiny_tokenizer, done)
    counts = [
        sum(line.startswith("y") for line in lines[start : start + size])
        for start in range(0, len(lines), size)
    ]
    assert set(counts) == {int(share * size + 0.5)}
    assert {line[:4] for line in lines} >= {f"{n:04d}" for n in range(50)}


def test_batches_that_are_packed_have_no_rows_to_count(tmp_path: Path, tiny_tokenizer: Any) -> None:
    old = Old([{"text": "y"}], 0.25, "samples", in_batches=True)
    with pytest.raises(DataError, match="packed rows hold pieces of several sources; use mode: st"):
        make("pretrain", tiny_tokenizer, texts(tmp_path, 9), old, batch_size=4, max_length=64)


@pytest.mark.parametrize("unit", ["tokens", "samples"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sft", {"max_steps": 60}),
        ("sft", {"num_train_epochs": 2}),
        ("pretrain", {"max_length": 64, "max_steps": 40}),
        ("pretrain", {"max_length": 64, "num_train_epochs": 2}),
    ],
    ids=str,
)
def test_a_share_that_changes_follows_its_schedule(
    tmp_path: Path, tiny_tokenizer: Any, kind: str, settings: dict[str, Any], unit: str
) -> None:
    """Old texts of 40 tokens, new ones of 11: 0.5 at first, 0.1 in the end, with the schedule's own mean."""
    schedule = Schedule(start=0.5, end=0.1, tau=0.1)
    old = Old([{"text": "y" * 39}] * 30, 0.1, unit, schedule=schedule)
    done = make(kind, tiny_tokenizer, texts(tmp_path, 150), old, batch_size=8, **settings)
    everything = "".join(said(tiny_tokenizer, done)).split("<|im_end|>")[:-1]
    amounts = [len(line) + 1 if unit == "tokens" else 1 for line in everything]
    is_old = [line.startswith("y") for line in everything]

    def share(start: float, end: float) -> float:
        first, last = int(start * len(everything)), int(end * len(everything))
        part = list(zip(amounts, is_old, strict=True))[first:last]
        return sum(amount for amount, old in part if old) / sum(amount for amount, _ in part)

    assert share(0, 1) == pytest.approx(schedule.mean, abs=0.02)
    assert share(0, 0.05) > 0.3
    assert share(0.6, 1) == pytest.approx(0.1, abs=0.03)
    assert done.description[1]["share"] == pytest.approx(schedule.mean, abs=0.02)


def test_schedules_and_modes_that_do_not_go_together(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows: list[Any] = [{"text": "y"}]
    data = texts(tmp_path, 9)
    high = Old(rows, 0.2, schedule=Schedule(start=0.8, end=0.2))
    with pytest.raises(DataError, match="replay shares sum to 1; they must leave something"):
        make("sft", tiny_tokenizer, data, high, Old(rows, 0.2))
    both = [Old(rows, 0.2, "samples", in_batches=True), Old(rows, 0.2, "samples")]
    with pytest.raises(DataError, match="have one mode: stream or batch"):
        make("sft", tiny_tokenizer, data, *both)
