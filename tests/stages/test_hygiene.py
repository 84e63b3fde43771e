"""A stage's hygiene: what it leaves out, refuses, counts, and what of it enters an id."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cpt.errors import DataError
from cpt.hooks.context import Mixture, OldRows, StageContext
from cpt.hooks.stack import HookStack
from cpt.recipe import HygieneSpec, StageSpec
from cpt.replay.hygiene import ProbeItems
from cpt.settings import validate
from cpt.world import World
from stages import kind_of
from stages.hygiene import SourceHygiene, clean_rows
from stages.material import supply
from stages.supply import Supply

ITEM = "one two three four five six seven eight nine ten eleven twelve thirteen"


def text(number: int) -> dict[str, str]:
    return {"text": f"row number {number} of them"}


def write(file: Path, rows: list[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def made(
    folder: Path,
    tokenizer: Any,
    new: list[Any],
    old: list[Any],
    hygiene: dict[str, str],
    items: list[str] | None = None,
    **train: Any,
) -> Supply:
    """The supply of an sft stage of `new` rows, of which a fifth are `old`."""
    data = {"path": write(folder / "new.jsonl", new), "max_bad": 0.5}
    spec = validate(
        StageSpec,
        {"kind": "sft", "data": [data], "hygiene": hygiene, "train": {"batch_size": 1, **train}},
        "s",
    )
    kind = kind_of("sft", "s")
    hooks = HookStack([], StageContext("sft", "sft", kind.formats, 17, World(), ""))

    def mix(data: Mixture) -> Mixture:
        data.old += [OldRows("replay of old", old, 0.2, "samples")] if old else []
        return data

    hooks.mix = mix  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        return supply(
            kind,
            spec,
            17,
            hooks,
            tokenizer,
            Path(place),
            probe_items=None if items is None else lambda: ProbeItems(items),
        )


def said(done: Supply, tokenizer: Any) -> set[str]:
    return {tokenizer.decode(row["input_ids"]).removesuffix("<|im_end|>") for row in done.train}


def test_the_share_is_of_what_is_left(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """30 new rows of which 10 come twice, 20 old ones of which 5 are new ones too: 20 and 15 are left."""
    new = [text(n) for n in [*range(20), *range(10)]]
    old = [text(n) for n in range(15, 35)]
    done = made(tmp_path, tiny_tokenizer, new, old, {"duplicates": "exact"}, num_train_epochs=5)
    assert [entry["rows"] for entry in done.description] == [20, 15]
    assert [entry["exact_duplicates"] for entry in done.description] == [10, 5]
    assert done.description[1]["share"] == pytest.approx(0.2, abs=0.01)
    assert len(done.train) == pytest.approx(5 * 20 / 0.8, abs=1)
    assert "new.jsonl: left out 10 duplicates" in done.notes
    assert said(done, tiny_tokenizer) >= {f"row number {n} of them" for n in range(20)}


def test_without_a_word_duplicates_stay(tmp_path: Path, tiny_tokenizer: Any) -> None:
    done = made(tmp_path, tiny_tokenizer, [text(1)] * 4, [text(1)] * 2, {})
    assert [entry["rows"] for entry in done.description] == [4, 2]
    assert "exact_duplicates" not in done.description[0]
    assert not [note for note in done.notes if "left out" in note]


def test_near_duplicates(tmp_path: Path, tiny_tokenizer: Any) -> None:
    long = " ".join(f"word{n}" for n in range(60))
    rows = [{"text": long}, {"text": long + " more"}, text(1)]
    done = made(tmp_path, tiny_tokenizer, rows, [], {"duplicates": "near"})
    assert done.description[0]["rows"] == 2
    assert done.description[0]["near_duplicates"] == 1
    assert "new.jsonl: left out 1 duplicates, 1 of them near ones" in done.notes


def test_old_rows_that_a_probe_asks_are_refused_unless_one_says_otherwise(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    new, old = [text(n) for n in range(8)], [text(9), {"text": f"see: {ITEM}"}]
    with pytest.raises(DataError, match=r"replay of old: 1 of 2 rows hold items .*probes: drop"):
        made(tmp_path, tiny_tokenizer, new, old, {}, [ITEM])
    kept = made(tmp_path, tiny_tokenizer, new, old, {"probes": "keep"}, [ITEM])
    assert kept.description[1]["rows"] == 2
    dropped = made(tmp_path, tiny_tokenizer, new, old, {"probes": "drop"}, [ITEM])
    assert dropped.description[1]["rows"] == 1
    assert dropped.description[1]["probe_items"] == 1
    assert "replay of old: left out 1 rows with items of probes" in dropped.notes
    assert not any("three" in line for line in said(dropped, tiny_tokenizer))


def test_new_rows_are_looked_at_only_on_request(tmp_path: Path, tiny_tokenizer: Any) -> None:
    new = [text(1), {"text": ITEM}]
    assert made(tmp_path, tiny_tokenizer, new, [], {}, [ITEM]).description[0]["rows"] == 2
    dropped = made(tmp_path, tiny_tokenizer, new, [], {"probes": "drop"}, [ITEM])
    assert dropped.description[0]["rows"] == 1
    with pytest.raises(DataError, match=r"new\.jsonl: 1 of 2 rows hold items"):
        made(tmp_path, tiny_tokenizer, new, [], {"probes": "refuse"}, [ITEM])


def test_the_items_are_read_only_where_rows_are_compared(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    def never() -> ProbeItems:
        raise AssertionError("the suite was read")

    looks: list[SourceHygiene] = []
    keep = HygieneSpec(probes="keep")
    assert clean_rows(keep, never, looks.append, "old", [text(1)]) == [text(1)]
    with pytest.raises(AssertionError, match="the suite was read"):
        clean_rows(HygieneSpec(), never, looks.append, "old", [text(1)])
    assert clean_rows(HygieneSpec(), None, looks.append, "old", [text(1)]) == [text(1)]
    assert not looks


def test_what_is_left_out_of_rows_beside_the_stream_is_told() -> None:
    looks: list[SourceHygiene] = []
    spec, rows = HygieneSpec(duplicates="exact", probes="drop"), [text(1), text(1), {"text": ITEM}]
    assert clean_rows(spec, lambda: ProbeItems([ITEM]), looks.append, "old", rows) == [text(1)]
    assert (looks[0].name, looks[0].num_kept) == ("old", 1)
    assert looks[0].told() == "left out 1 duplicates and 1 rows with items of probes"


def test_a_source_of_which_nothing_is_left(tmp_path: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="left out 2 duplicates, and no row is left"):
        made(tmp_path, tiny_tokenizer, [text(1)], [text(1)] * 2, {"duplicates": "exact"})


def test_probes_without_a_suite_are_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="hygiene: probes: drop, and there is no suite"):
        made(tmp_path, tiny_tokenizer, [text(1)], [], {"probes": "drop"})


def test_rows_that_arrive_one_by_one_are_looked_at_as_they_do(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cpt.data

    rows = [text(n % 6) for n in range(12)] + [{"text": ITEM}]
    monkeypatch.setattr(cpt.data, "_hub", lambda spec, split: iter(rows))
    source = {"path": "a/b", "revision": "v1", "streaming": True}
    spec = validate(
        StageSpec,
        {
            "kind": "sft",
            "data": [source],
            "hygiene": {"duplicates": "exact", "probes": "drop"},
            "train": {"batch_size": 1, "max_steps": 6},
        },
        "s",
    )
    kind = kind_of("sft", "s")
    hooks = HookStack([], StageContext("sft", "sft", kind.formats, 17, World(), ""))
    with tempfile.TemporaryDirectory() as place:
        done = supply(
            kind,
            spec,
            1,
            hooks,
            tiny_tokenizer,
            Path(place),
            probe_items=lambda: ProbeItems([ITEM]),
        )
    entry = done.description[0]
    assert (entry["rows"], entry["exact_duplicates"], entry["probe_items"]) == (6, 6, 1)


def test_only_what_leaves_rows_out_enters_the_id() -> None:
    assert HygieneSpec().content("suite") == {}
    assert HygieneSpec(probes="refuse").content("suite") == {}
    assert HygieneSpec(probes="drop").content("suite") == {"probes": "suite"}
    assert HygieneSpec(duplicates="near").content("suite") == {"duplicates": "near"}


@pytest.mark.parametrize("number", [1, 5, 24])
def test_a_stage_leaves_as_many_rows_as_it_is_told(
    number: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    data = write(tmp_path / "rows.jsonl", [text(n) for n in range(20)])
    tree = {"kind": "sft", "data": [{"path": data}], "exemplars": number, "train": {}}
    kind, spec = kind_of("sft", "s"), validate(StageSpec, tree, "s")
    hooks = HookStack([], StageContext("sft", "sft", kind.formats, 17, World(), ""))
    with tempfile.TemporaryDirectory() as place:
        done = supply(kind, spec, 17, hooks, tiny_tokenizer, Path(place))
    assert len(done.exemplars) == min(number, 20)
    assert len({row["text"] for row in done.exemplars}) == min(number, 20)
