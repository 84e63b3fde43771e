"""Old rows: whose they are, which of them, and that every hook that asks gets the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cpt.data import Rows
from cpt.data_spec import DataSpec
from cpt.errors import DataError, HookError
from cpt.hooks.context import StageContext
from cpt.hooks.der import DER
from cpt.hooks.ewc import EWC, OnlineEWC
from cpt.hooks.lwf import LwF
from cpt.hooks.mas import MAS
from cpt.hooks.old_gradient import old_examples
from cpt.hooks.replay import Replay
from cpt.manifest import Ancestor, Manifest
from cpt.old_rows import encoded, named, open_source, rows_left, rows_of_source, rows_of_stages
from cpt.past import Past, PastStage
from cpt.rehearsal import Example
from cpt.replay.pool import parts_of
from cpt.rows import RICHEST, Row
from tests.toy_model import ToyPast, rows


def texts(number: int, word: str) -> list[Row]:
    return [{"text": f"{word} {n}"} for n in range(number)]


def with_merge(past: ToyPast, folder: Path, *merged: str, left: Sequence[Row]) -> Past:
    """The same stages, and one that merged some of them."""
    place = folder / "both"
    place.mkdir()
    (place / "exemplars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
    ids = {stage.name: stage.id for stage in past.past} | {"elsewhere": "elsewhere-1"}
    roles = {"parent" if n == 1 else f"parent.{n}": ids[name] for n, name in enumerate(merged, 1)}
    ancestors = tuple(Ancestor(s.name, s.id, s.kind, ".") for s in past.past)
    Manifest(id="both-1", kind="merge", name="both", parents=roles, past=ancestors).write(place)
    stage = PastStage("both", "both-1", "merge", place, str(place / "checkpoint"))
    return Past((*past.past, stage))


@pytest.fixture
def past(tmp_path: Path) -> ToyPast:
    return ToyPast(tmp_path, {"old": (3, texts(20, "old")), "new": (4, texts(20, "new"))})


def names(found: Any) -> list[str]:
    return [stage.name for stage in found]


def test_of() -> None:
    assert named(None) == ()
    assert named("all") == ("all",)
    assert named(["a", "b"]) == ("a", "b")


class TestBehindAMerge:
    """`of: all` has the experts' rows once, though the merge left copies of them."""

    def test_copies_do_not_count(self, past: ToyPast, tmp_path: Path) -> None:
        copies = texts(20, "old") + texts(20, "new")
        both = with_merge(past, tmp_path, "old", "new", left=copies)
        assert names(rows_left(both, "all", "agem")) == ["old", "new"]
        ctx = past.context()
        ctx.encode = lambda given: [Example([1, 2], [1, 2]) for _ in given]
        assert list(old_examples("gem", both, "all", None, ctx)) == ["old", "new"]
        hook = Replay(of="all", mode="loss")
        hook.recall(both, ctx)
        assert [part.stage.name for part in hook.old.parts] == ["old", "new"]
        der = DER("all", size=10)
        der.recall(both, ctx)
        assert [(stage.name, len(part)) for stage, part in der.rows] == [("old", 5), ("new", 5)]
        # Who names it, means it.
        assert names(rows_left(both, ["old", "both"], "agem")) == ["old", "both"]

    def test_a_base_model_that_was_merged_too_left_none(
        self, past: ToyPast, tmp_path: Path
    ) -> None:
        both = with_merge(past, tmp_path, "base", "old", left=texts(20, "old"))
        assert names(rows_left(both, "all", "agem")) == ["old", "new"]

    def test_rows_of_stages_that_are_not_there_count(self, past: ToyPast, tmp_path: Path) -> None:
        both = with_merge(past, tmp_path, "old", "elsewhere", left=texts(30, "else"))
        assert names(rows_left(both, "all", "agem")) == ["old", "new", "both"]

    def test_it_is_an_anchor_with_the_rows_it_has(self, past: ToyPast, tmp_path: Path) -> None:
        both = with_merge(past, tmp_path, "old", "new", left=texts(3, "old"))
        hook = EWC("all")
        hook.recall(both, past.context())
        assert hook.old.by_stage["both-1"] == texts(3, "old")


class TestStagesWithoutRows:
    """Named, they are an error for every hook, in the same words; `all` goes past them."""

    @pytest.mark.parametrize(
        "recall",
        [
            lambda past, of, ctx: Replay(of=of).recall(past, ctx),
            lambda past, of, ctx: Replay(of=of, mode="loss").recall(past, ctx),
            lambda past, of, ctx: DER(of).recall(past, ctx),
            lambda past, of, ctx: LwF(rows_of=of).recall(past, ctx),
            lambda past, of, ctx: old_examples("gem", past, of, None, ctx),
        ],
        ids=["replay", "replay loss", "der", "lwf", "gem"],
    )
    def test_one_rule(self, recall: Any, tmp_path: Path) -> None:
        past = ToyPast(tmp_path, {"old": (3, texts(20, "old")), "void": (4, [])})
        ctx = past.context()
        ctx.formats = ("text",)
        ctx.encode = lambda given: [Example([1, 2], [1, 2]) for _ in given]
        for of, first in ((["base", "old"], "base"), (["old", "void"], "void"), ("void", "void")):
            with pytest.raises(HookError, match=rf"{first} left no rows \(the base model has none"):
                recall(past.past, of, ctx)
        recall(past.past, "all", ctx)
        with pytest.raises(HookError, match="base left no rows"):
            recall(Past(past.past.stages[:1]), "all", ctx)


class TestDraws:
    def test_fewer_rows_are_some_of_the_more(self, past: ToyPast) -> None:
        ctx = past.context()
        (_, many), _ = rows_of_stages(past.past, ["old", "new"], 24, "der", ctx)
        (_, few), _ = rows_of_stages(past.past, ["old", "new"], 10, "der", ctx)
        assert (len(many), len(few)) == (12, 5)
        assert all(row in many for row in few)
        places = [texts(20, "old").index(row) for row in many]
        assert places == sorted(places) != list(range(12))
        ((_, alone),) = rows_of_stages(past.past, "old", 12, "der", ctx)
        assert alone == many
        ((_, others),) = rows_of_stages(past.past, "old", 12, "lwf", ctx)
        assert others != many

    def test_importance_is_measured_on_the_same_rows_by_every_hook(self, past: ToyPast) -> None:
        """So a Fisher that was made for one of them is there for the others."""
        found = []
        for kind in (EWC, OnlineEWC, MAS):
            for of in ("all", "old"):
                hook = kind(of, samples=6)
                hook.recall(past.past, past.context())
                found.append(hook.old.by_stage["old-1"])
        assert len(found[0]) == 6
        assert found == [found[0]] * 6
        other = past.context()
        other.seed = 6
        hook.recall(past.past, other)
        assert hook.old.by_stage["old-1"] != found[0]

    def test_of_a_source_too(self, past: ToyPast, tmp_path: Path) -> None:
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts(30, "x")))
        source = DataSpec(path=str(tmp_path / "x.jsonl"))
        hooks = [kind("old", source=source, samples=6) for kind in (EWC, MAS)]
        for hook in hooks:
            hook.recall(past.past, past.context())
        one, other = (hook.old.by_stage["old-1"] for hook in hooks)
        assert one == other
        assert len(one) == 6

    def test_all_rows_where_no_number_is_said(self, past: ToyPast) -> None:
        ((_, found),) = rows_of_stages(past.past, "old", None, "gem", past.context())
        assert found == texts(20, "old")

    def test_the_hygiene_looks_at_what_was_drawn(self, past: ToyPast) -> None:
        seen: list[tuple[str, int]] = []

        def clean(name: str, given: Sequence[Row]) -> Sequence[Row]:
            seen.append((name, len(given)))
            return given[:2]

        ctx = replace(past.context(), clean=clean)
        ((_, found),) = rows_of_stages(past.past, "old", 5, "der", ctx)
        assert (seen, len(found)) == ([("der of old", 5)], 2)


class TestStreams:
    """A reservoir to the limit that a person sets; the first rows of what has no end."""

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        from cpt import old_rows

        read: list[int] = []

        class Stream:
            def __init__(self, spec: DataSpec, formats: Any) -> None:
                self.spec, self.format, self.num_bad = spec, "text", 0
                self.examples_of_bad: list[str] = []

            def __iter__(self) -> Any:
                for number in range(self.spec.limit or 10_000):
                    read.append(number)
                    yield number, {"text": str(number)}

            def check(self) -> None:
                return

        monkeypatch.setattr(old_rows, "open_rows", Stream)
        monkeypatch.setattr(old_rows, "Reader", Stream)
        return read

    @pytest.mark.parametrize(("limit", "num_read"), [(50, 50), (None, 6)])
    def test_it(self, limit: int | None, num_read: int, read: list[int], past: ToyPast) -> None:
        spec = DataSpec(path="org/name", revision="v1", streaming=True, limit=limit)
        opened = open_source(spec, RICHEST, 6, "seed")
        assert isinstance(opened, Rows)
        assert len(read) == num_read
        assert len(opened.rows) == 6
        assert opened.numbers == sorted(opened.numbers)
        assert (opened.numbers == list(range(6))) == (limit is None)
        assert len(rows_of_source(spec, 6, "lwf", past.context())) == 6


class TestEncoded:
    """One row that the chat template refuses is no end of all, for whichever hook."""

    @staticmethod
    def refusing(*bad: int) -> Any:
        def encode(given: Sequence[Row]) -> list[Example]:
            if any(row["n"] in bad for row in given):
                raise DataError("the template: roles must alternate")
            return [Example([1, 2], [1, 2] if row["n"] else [-100, -100]) for row in given]

        return encode

    def test_places_are_those_of_the_rows(self, past: ToyPast) -> None:
        ctx = past.context()
        given: list[Row] = [{"n": n} for n in range(2000)]
        for bad in ((), (1,)):
            ctx.encode = self.refusing(*bad)
            places, found = encoded(given, "lwf", ctx)
            assert places == [n for n in range(1, 2000) if n not in bad]
            assert len(found) == len(places)
        places, _ = encoded(given, "lwf", ctx, lambda example: example.num_predictions)
        assert places[:3] == [0, 2, 3]

    def test_too_many_are_refused(self, past: ToyPast) -> None:
        ctx = past.context()
        ctx.encode = self.refusing(1, 2)
        with pytest.raises(DataError, match="roles must alternate"):
            encoded([{"n": n} for n in range(4)], "lwf", ctx)
        assert encoded([{"n": n} for n in range(4)], "lwf", ctx, max_bad=0.5)[0] == [3]

    def test_of_every_hook(self, tmp_path: Path) -> None:
        left = [{**row, "n": n} for n, row in enumerate(rows(2000))]
        past = ToyPast(tmp_path, {"old": (3, left)})
        ctx: StageContext = past.context()
        ctx.encode = self.refusing(7)
        lwf, der, mas = LwF("old", rows_of="old", size=3000), DER("old", size=3000, k=2), MAS("old")
        for hook in (lwf, der):
            hook.recall(past.past, ctx)
            hook.measure(_toy(), ctx)
        assert lwf.rehearsal is not None
        assert len(lwf.rehearsal.examples) == 1999
        assert der.labels is not None
        assert len(der.labels.examples) == 1998
        mas.samples = 3000
        mas.recall(past.past, ctx)
        assert len(mas.old.of(past.past[1], ctx)) == 1999
        assert len(old_examples("gem", past.past, "old", None, ctx)["old"]) == 1998


def _toy() -> Any:
    from tests.toy_model import Toy

    torch.manual_seed(0)
    return Toy(0)


def test_parts_of_a_buffer_are_of_whoever_left_rows(past: ToyPast) -> None:
    assert [part.stage.name for part in parts_of(past.past, "all", None, 0, True)] == ["old", "new"]
