"""Rehearsal: exact shares, each source under its own format, nothing without rows."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpt import manifest
from cpt.checkpoint import digests_of_stage
from cpt.data import open_rows
from cpt.data_spec import DataSpec
from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import Mixture, StageContext
from cpt.hooks.replay import Replay
from cpt.hooks.stack import HookStack
from cpt.past import of_folder
from cpt.replay import selection
from cpt.replay.buffers import reservoir_parts
from cpt.replay.settings import BufferSpec
from cpt.world import World
from stages import kind_of
from stages.context import context, examples
from stages.material import supply
from tests.tiny_stages import TinyStages

OLD = [{"text": "old"}]


def ctx(kind: str) -> StageContext:
    return StageContext(kind, kind, kind_of(kind, "").formats, 5, World(), "")


def supplied(stages: TinyStages, job: Any, tokenizer: Any) -> Any:
    """What a job would train on."""
    hooks = [table.build(hook.name, dict(hook.settings), "") for hook in job.spec.hooks]
    stack = HookStack(hooks, ctx(job.spec.kind))
    stack.recall(of_folder(stages.sft.output))
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays until it is let go
        kind = kind_of(job.spec.kind, "")
        return supply(kind, job.spec, job.seed, stack, tokenizer, Path(folder))


def decoded(row: dict[str, Any], tokenizer: Any, only_labels: bool = False) -> str:
    ids = [
        token
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
        if label != -100 or not only_labels
    ]
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("unit", ["tokens", "samples"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_share_is_of_the_final_stream_to_one_row(
    share: float, unit: str, stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"of": "pretrain", "share": share, "unit": unit}}
    job = stages.job("sft", hook, max_steps=40)
    rows = supplied(stages, job, tiny_tokenizer).train
    old = [decoded(row, tiny_tokenizer).find("<|im_start|>") < 0 for row in rows]
    amounts = [len(row["input_ids"]) if unit == "tokens" else 1 for row in rows]
    given = sum(amount for amount, is_old in zip(amounts, old, strict=True) if is_old)
    assert abs(given - share * sum(amounts)) <= max(amounts)
    # Also of every part of the stream from its start, so that a stage that ends early kept its share.
    for end in (8, 40, 160):
        part = sum(a for a, is_old in zip(amounts[:end], old[:end], strict=True) if is_old)
        assert abs(part - share * sum(amounts[:end])) <= max(amounts)


def test_shares_of_several_entries_are_exact_too(stages: TinyStages, tiny_tokenizer: Any) -> None:
    hooks = [
        {"replay": {"of": "pretrain", "share": 0.2}},
        {"replay": {"source": stages.data("talks"), "share": 0.3}},
    ]
    supply = supplied(stages, stages.job("sft", hooks, max_steps=40), tiny_tokenizer)
    entries = {entry["name"]: entry for entry in supply.description}
    assert entries["chats.jsonl"]["share"] == pytest.approx(0.5, abs=0.01)
    assert entries["replay of pretrain"]["share"] == pytest.approx(0.2, abs=0.01)
    assert entries["replay of talks.jsonl"]["share"] == pytest.approx(0.3, abs=0.01)


def test_every_old_row_is_seen_once_before_any_is_seen_again(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"source": stages.data("talks"), "share": 0.5, "unit": "samples"}}
    supply = supplied(stages, stages.job("sft", hook, max_steps=12), tiny_tokenizer)
    talks = [text for row in supply.train if "Hello" in (text := decoded(row, tiny_tokenizer))]
    assert len(talks) == 48
    assert len(set(talks[:24])) == len(set(talks[24:])) == 24
    assert talks[:24] != talks[24:]


def test_each_source_is_tokenised_under_its_own_format(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    """Documents keep all their labels and end with EOS; chats only what the assistant says."""
    job = stages.job("sft", {"replay": {"of": "pretrain", "share": 0.5}}, max_steps=4)
    rows = supplied(stages, job, tiny_tokenizer).train
    texts = [row for row in rows if "make" in decoded(row, tiny_tokenizer)]
    chats = [row for row in rows if "make" not in decoded(row, tiny_tokenizer)]
    assert texts
    assert chats
    for row in texts:
        assert row["labels"] == row["input_ids"]
        assert len(row["input_ids"]) == 96 or row["input_ids"][-1] == tiny_tokenizer.eos_token_id
    for row in chats:
        answer = decoded(row, tiny_tokenizer, only_labels=True)
        assert answer.endswith("<|im_end|>")
        assert "user" not in answer


def test_new_rows_come_in_the_order_they_have_without_replay(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    plain = supplied(stages, stages.job("sft"), tiny_tokenizer).train
    mixed = supplied(
        stages, stages.job("sft", {"replay": {"of": "pretrain", "share": 0.25}}), tiny_tokenizer
    ).train
    new = [row["input_ids"] for row in mixed if "make" not in decoded(row, tiny_tokenizer)]
    assert new == [row["input_ids"] for row in plain][: len(new)]


def test_no_new_row_is_lost_for_the_sake_of_old_ones(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    hook = {"replay": {"of": "pretrain", "share": 0.4}}
    job = stages.job("sft", hook, max_steps=-1, num_train_epochs=1)
    supply = supplied(stages, job, tiny_tokenizer)
    chats = {decoded(row, tiny_tokenizer) for row in supply.train} - {
        decoded(row, tiny_tokenizer)
        for row in supply.train
        if "make" in decoded(row, tiny_tokenizer)
    }
    assert len(chats) == 24


def test_exemplars_are_new_rows_only(stages: TinyStages) -> None:
    trained = stages.train(stages.job("sft", {"replay": {"of": "pretrain", "share": 0.5}}))
    lines = (trained.job.output / "exemplars.jsonl").read_text().splitlines()
    assert lines
    assert all("messages" in json.loads(line) for line in lines)


def test_preference_pairs_are_replayed_in_a_dpo_stage(
    stages: TinyStages, tiny_tokenizer: Any
) -> None:
    job = stages.job("dpo", {"replay": {"source": stages.data("duels"), "share": 0.5}})
    rows = supplied(stages, job, tiny_tokenizer).train
    old = sum(row["prompt"][0]["content"].startswith("Name") for row in rows)
    assert 0 < old < len(rows)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"share": 1.0}, "share: input should be less than 1"),
            ({"share": -0.1}, "share: input should be greater than or equal to 0"),
            ({"share": float("nan")}, "share: input should be less than 1"),
            ({"unit": "rows"}, "unit: input should be 'tokens' or 'samples'"),
            ({"of": "sft", "source": {"path": "./x.jsonl"}}, "name either `of`"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            table.build("replay", settings, "sft.yaml")

    def test_the_base_model_has_nothing_to_rehearse(self, stages: TinyStages) -> None:
        with pytest.raises(HookError, match="replay: base left no rows"):
            Replay(of="base").recall(of_folder(stages.sft.output), ctx("sft"))

    def test_share_0_asks_for_nothing(self, stages: TinyStages) -> None:
        hook = Replay(of="base", share=0)
        hook.recall(of_folder(stages.sft.output), ctx("sft"))
        assert hook.mix(Mixture([]), ctx("sft")).old == []

    @pytest.mark.parametrize(
        ("kind", "of", "format_"), [("dpo", "sft", "messages"), ("grpo", "pretrain", "text")]
    )
    def test_rows_that_the_stage_cannot_train_on(
        self, kind: str, of: str, format_: str, stages: TinyStages
    ) -> None:
        with pytest.raises(HookError, match=f"cannot mix in {format_} rows; name a `source:`"):
            Replay(of=of).recall(of_folder(stages.sft.output), ctx(kind))

    def test_a_source_of_another_format(self, stages: TinyStages) -> None:
        source = DataSpec.model_validate(stages.data("texts"))
        with pytest.raises(Exception, match=r"rows have the format 'text'.*this stage takes pref"):
            Replay(source=source).mix(Mixture([]), ctx("dpo"))

    def test_a_stage_that_is_not_there(self, stages: TinyStages) -> None:
        with pytest.raises(HookError, match=r"no earlier stage 'sftt'; did you mean 'sft'"):
            Replay(of="sftt").recall(of_folder(stages.sft.output), ctx("sft"))

    def test_shares_that_leave_nothing(self, stages: TinyStages) -> None:
        hooks = [
            {"replay": {"of": "pretrain", "share": 0.5}},
            {"replay": {"of": "sft", "share": 0.5}},
        ]
        with pytest.raises(Exception, match=r"replay shares sum to 1; they must leave something"):
            stages.train(stages.job("sft", hooks))

    def test_two_units(self, stages: TinyStages) -> None:
        hooks = [
            {"replay": {"of": "pretrain", "share": 0.2, "unit": "samples"}},
            {"replay": {"of": "sft", "share": 0.2}},
        ]
        with pytest.raises(Exception, match=r"count in one unit"):
            stages.train(stages.job("sft", hooks))


def full_ctx(stages: TinyStages, tokenizer: Any, kind: str = "sft") -> StageContext:
    """What a stage on top of the sft stage gives its hooks."""
    job = stages.job(kind)
    start = str(stages.sft.output / "checkpoint")
    return context(job, kind_of(kind, ""), tokenizer, start, World(), lambda line: None)


def mixed(hook: Replay, stages: TinyStages, ctx: StageContext) -> tuple[list[Any], list[str]]:
    """The rows that a hook mixes in, and its notes."""
    data = Mixture([])
    hook.recall(of_folder(stages.sft.output), ctx)
    hook.mix(data, ctx)
    ((rows,),) = [[old.rows] for old in data.old]
    own: Any = rows
    return own if isinstance(own, list) else own.rows, data.notes


def of_model(folder: Path, rows: list[Any], tokenizer: Any, job: Any) -> tuple[Any, list[float]]:
    """[N, H] mean last hidden states of length 1, and mean token losses, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()
    phi, losses = [], []
    for example in examples(rows, tokenizer, job.spec):
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        with torch.no_grad():
            seen = model(input_ids=ids, labels=labels, output_hidden_states=True)
        phi.append(torch.nn.functional.normalize(seen.hidden_states[-1][0].mean(0), dim=0))
        losses.append(float(seen.loss))
    return torch.stack(phi).numpy(), losses


class TestBuffers:
    def test_quota_gives_stages_equal_parts(self, stages: TinyStages, tiny_tokenizer: Any) -> None:
        hook = Replay(of="all", share=0.2, buffer=BufferSpec(size=11))
        rows, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        assert sum("text" in row for row in rows) == 6  # the oldest has the odd one
        assert sum("messages" in row for row in rows) == 5
        again, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        assert again == rows

    def test_reservoir_is_a_sample_of_all_rows_seen(
        self, stages: TinyStages, tiny_tokenizer: Any
    ) -> None:
        past = of_folder(stages.sft.output)
        seen = [stage.num_seen for stage in past.stages[1:]]
        assert seen == [24, 24]
        hook = Replay(of="all", share=0.2, buffer=BufferSpec(size=10, policy="reservoir"))
        rows, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        expected = reservoir_parts(10, seen, seed=5)
        assert sum("text" in row for row in rows) == expected[0]
        assert len(rows) == 10

    def test_a_data_set_has_one_too(self, stages: TinyStages, tiny_tokenizer: Any) -> None:
        source = DataSpec.model_validate(stages.data("talks"))
        hook = Replay(source=source, buffer=BufferSpec(size=6))
        rows, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        assert len(rows) == 6
        everything = open_rows(source, ("messages",))
        assert all(row in everything.rows for row in rows)  # type: ignore[union-attr]

    def test_less_room_than_stages_is_refused(self, stages: TinyStages) -> None:
        hook = Replay(of="all", buffer=BufferSpec(size=1))
        with pytest.raises(HookError, match="a buffer of 1 rows has none for some of 2 stages"):
            hook.recall(of_folder(stages.sft.output), ctx("sft"))

    def test_more_than_a_stage_left_is_refused_where_it_saw_more(
        self, stages: TinyStages, tmp_path: Path
    ) -> None:
        folder = tmp_path / "sft"
        shutil.copytree(stages.sft.output, folder)
        lines = (folder / "exemplars.jsonl").read_text().splitlines(keepends=True)
        (folder / "exemplars.jsonl").write_text("".join(lines[:10]))
        entry = manifest.read(folder)
        replace(entry, files=digests_of_stage(folder)).write(folder)
        hook = Replay(buffer=BufferSpec(size=20))
        with pytest.raises(
            HookError, match=r"left 10 of the 24 that it saw; set `exemplars: 20` in"
        ):
            hook.recall(of_folder(folder), ctx("sft"))
        # All that there ever was is no less than was asked for.
        Replay(buffer=BufferSpec(size=200)).recall(of_folder(stages.sft.output), ctx("sft"))


class TestSelection:
    def test_by_embeddings_of_the_stage_that_left_the_rows(
        self, stages: TinyStages, tiny_tokenizer: Any
    ) -> None:
        rows = of_folder(stages.sft.output).select("pretrain")[0].rows()
        phi, _ = of_model(stages.pretrain.output, rows, tiny_tokenizer, stages.job("sft"))
        found = {
            "herding": selection.herding(phi, 7),
            "kcenter": selection.kcenter(phi, 7),
            "kmeans": selection.kmeans(phi, 7, np.random.default_rng(5)),
        }
        for select, places in found.items():
            hook = Replay(of="pretrain", buffer=BufferSpec(size=7), select=select)  # type: ignore[arg-type]
            chosen, notes = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
            assert chosen == [rows[place] for place in places]
            assert notes == [
                f"replay of pretrain: 7 of 24 rows, by {select} on embeddings of pretrain "
                f"({stages.pretrain.output.name})"
            ]

    def test_the_hardest_of_the_model_that_the_stage_starts_from(
        self, stages: TinyStages, tiny_tokenizer: Any
    ) -> None:
        rows = of_folder(stages.sft.output).select("pretrain")[0].rows()
        _, losses = of_model(stages.sft.output, rows, tiny_tokenizer, stages.job("sft"))
        hook = Replay(of="pretrain", buffer=BufferSpec(size=5), select="difficult")
        chosen, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        assert chosen == [rows[place] for place in selection.difficult(np.array(losses), 5)]

    def test_by_a_score_of_somebody_elses(
        self, stages: TinyStages, tiny_tokenizer: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "rated.jsonl"
        scores = [3, 9.5, 1, 7]
        rows = [{"text": f"text {n}", "rating": score} for n, score in enumerate(scores)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = DataSpec.model_validate({"path": str(file)})
        hook = Replay(source=source, buffer=BufferSpec(size=2), select="quality", score="rating")
        chosen, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        assert [row["rating"] for row in chosen] == [9.5, 7]
        hook = Replay(source=source, buffer=BufferSpec(size=2), select="quality", score="stars")
        with pytest.raises(HookError, match="row 1 has no number in the column 'stars'"):
            mixed(hook, stages, full_ctx(stages, tiny_tokenizer))

    def test_in_a_stage_and_its_manifest(self, stages: TinyStages) -> None:
        hook = {"of": "all", "share": 0.5, "select": "herding", "buffer": {"size": 6}}
        trained = stages.train(stages.job("sft", {"replay": hook}, max_steps=1))
        notes = [note for note in trained.manifest["notes"] if "by herding" in note]
        assert len(notes) == 2
        (entry,) = [entry for entry in trained.manifest["data"] if entry["replayed"]]
        assert entry["rows"] == 6

    def test_what_was_measured_is_kept(self, stages: TinyStages, tiny_tokenizer: Any) -> None:
        hook = Replay(of="pretrain", buffer=BufferSpec(size=4), select="kcenter")
        first, _ = mixed(hook, stages, full_ctx(stages, tiny_tokenizer))
        ctx = full_ctx(stages, tiny_tokenizer)
        ctx.load = None
        again, _ = mixed(hook, stages, ctx)
        assert again == first
