import json
import os
from pathlib import Path
from typing import Any

import pytest

from cpt import ids

ORDER = ("base", "pretrain", "sft", "dpo", "grpo")


def test_equal_numbers_and_any_order_of_keys_are_one_text() -> None:
    one = {"a": 1e-5, "b": [1.0, {"d": 1e3, "c": None}], "p": Path("x")}
    other = {"p": "x", "b": [1, {"c": None, "d": 1000}], "a": 0.00001}
    assert ids.canonical(one) == ids.canonical(other)
    assert ids.canonical({"x": 1.0}) == '{"x":1}'
    assert ids.canonical((1, 2)) == ids.canonical([1, 2])
    assert ids.canonical({2, 1}) == "[1,2]"


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, "1"), (1, 1.5), (None, 0), ([1, 2], [2, 1])]
)
def test_different_values_are_different_texts(one: Any, other: Any) -> None:
    assert ids.canonical(one) != ids.canonical(other)


def test_a_short_hash_is_the_start_of_the_sha256() -> None:
    # printf '{"a":1}' | sha256sum
    assert ids.short_hash({"a": 1.0}) == "015abd7f"
    assert ids.short_hash({"a": 1}, 12) == "015abd7f5cc5"


def test_a_fingerprint_is_of_names_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "a.txt").write_text("x")
    first = ids.fingerprint([tmp_path / "one" / "a.txt"])
    assert first == ids.fingerprint([tmp_path / "two" / "a.txt"])
    (tmp_path / "two" / "a.txt").write_text("y")
    assert first != ids.fingerprint([tmp_path / "two" / "a.txt"])
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "b.txt")
    assert first != ids.fingerprint([tmp_path / "one" / "b.txt"])


def test_a_second_fingerprint_reads_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.txt"
    file.write_text("x")
    first = ids.fingerprint([file])

    def reads(path: Path) -> str:
        raise AssertionError(path)

    monkeypatch.setattr(ids, "sha256_file", reads)
    assert ids.fingerprint([file]) == first


@pytest.mark.parametrize("is_new", [False, True])
def test_a_file_that_was_given_its_old_time_back_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """As rsync -t and cp -p do: size and time are those of before, and the bytes are not."""
    monkeypatch.setenv("CPT_CACHE", str(tmp_path / "cache"))
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("x")
    first, before = ids.fingerprint([file]), file.stat()
    if is_new:
        other.write_text("y")
        other.replace(file)
    else:
        while file.stat().st_ctime_ns == before.st_ctime_ns:  # one tick of the file system's clock
            file.write_text("y")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert ids.fingerprint([file]) != first


def test_processes_of_one_number_on_two_machines_write_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, replace, seen = tmp_path / "a.json", Path.replace, list[Path]()

    def late(partial: Path, target: Path) -> Path:
        seen.append(partial)
        if len(seen) == 1:
            ids.atomic_write(file, "theirs")
        return replace(partial, target)

    monkeypatch.setattr(Path, "replace", late)
    ids.atomic_write(file, "ours")
    assert file.read_text() == "ours"
    assert len({*seen}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    ids.atomic_write(file, "old")
    with pytest.raises(UnicodeEncodeError):
        ids.atomic_write(file, "new\ud800")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# Ids of stages.


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if before[name] != after[name]]


def test_ids_are_kind_and_eight_hex_digits(chain: Any) -> None:
    for name, stage_id in chain.ids().items():
        kind, _, digits = stage_id.partition("-")
        assert kind == name
        assert len(digits) == 8
        assert int(digits, 16) >= 0


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("seed=18", "pretrain"),
        ("model.dtype=bfloat16", "base"),
        ("model.random.seed=1", "base"),
        ("stages.pretrain.train.learning_rate=2e-4", "pretrain"),
        ("stages.sft.train.learning_rate=2e-5", "sft"),
        ("stages.sft.train.batch_size=8", "sft"),
        ("stages.sft.hooks.kl.beta=0.2", "sft"),
        ("stages.sft.hooks=[]", "sft"),
        ("stages.sft.data.limit=3", "sft"),
        ("stages.sft.data.validation={fraction: 0.5}", "sft"),
        ("stages.sft.data.format=json", "sft"),
        ("stages.sft.seed=3", "sft"),
        ("stages.pretrain.model={add_tokens: [<a>]}", "pretrain"),
        ("stages.dpo.reference=base", "dpo"),
        ("stages.dpo.from=base", "dpo"),
        ("stages.grpo.rewards=[brevity]", "grpo"),
        ("stages.grpo.train.max_steps=3", "grpo"),
    ],
)
def test_a_change_gives_new_ids_to_its_stage_and_later_ones_only(
    chain: Any, change: str, first: str
) -> None:
    assert changed(chain.ids(), chain.ids(change)) == list(ORDER[ORDER.index(first) :])


@pytest.mark.parametrize(
    "change",
    [
        "stages.sft.train.logging_steps=1",
        "stages.sft.train.logging_first_step=true",
        "stages.grpo.train.log_completions=true",
        "stages.sft.train.learning_rate=0.00001",
        "stages.sft.micro_batch=1",
        "stages.sft.checkpoint_every=1",
        "checkpoint_every=2",
        "launch=ddp",
        "num_processes=2",
        "trackers=[wandb]",
        "deterministic=true",
        "gate.margin=0.1",
        "gate.on_regression=stop",
        "name=other",
        "stages.sft.data.licence=MIT",
        "stages.sft.seed=17",
        "stages.sft.from=pretrain",
        "stages.dpo.reference=previous",
        "stages.dpo.reference=sft",
        "model.attention=sdpa",
    ],
)
def test_what_trains_the_same_keeps_the_ids(chain: Any, change: str) -> None:
    assert chain.ids(change) == chain.ids()


def test_the_order_of_hooks_keys_and_files_does_not_matter(chain: Any) -> None:
    before = chain.ids()
    chain.stages["sft"]["hooks"].reverse()
    chain.stages["sft"] = dict(reversed(chain.stages["sft"].items()))
    chain.chain = dict(reversed(chain.chain.items()))
    assert chain.ids() == before
    chain.chain["stages"]["sft"] = chain.stages.pop("sft")
    assert chain.ids() == before


def test_two_replays_in_either_order_are_one_stage(chain: Any) -> None:
    two = [
        {"replay": {"of": "pretrain", "share": 0.1}},
        {"replay": {"source": "./chats.jsonl", "share": 0.2}},
    ]
    chain.stages["sft"]["hooks"] = two
    before = chain.ids()
    chain.stages["sft"]["hooks"] = two[::-1]
    assert chain.ids() == before


def test_data_count_by_content_and_not_by_place(chain: Any) -> None:
    before = chain.ids()
    chain.folder = chain.folder.with_name("elsewhere")
    assert chain.ids() == before
    rows = chain.folder / "chats.jsonl"
    rows.write_text(rows.read_text() + rows.read_text())
    assert changed(before, chain.ids()) == ["sft", "dpo", "grpo"]


def test_a_replays_source_counts_by_content(chain: Any) -> None:
    chain.stages["sft"]["hooks"] = [{"replay": {"source": "./more.jsonl"}}]
    chain.write()
    (chain.folder / "more.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    before = chain.ids()
    (chain.folder / "more.jsonl").write_text(json.dumps({"text": "b"}) + "\n")
    assert changed(before, chain.ids()) == ["sft", "dpo", "grpo"]


def test_the_code_of_a_persons_own_reward_counts(chain: Any) -> None:
    chain.stages["grpo"]["rewards"] = ["mine:good"]
    chain.write()
    (chain.folder / "mine.py").write_text("def good(completions, **_): return [1.0]\n")
    before = chain.ids()
    assert chain.ids() == before
    (chain.folder / "mine.py").write_text("def good(completions, **_): return [2.0]\n")
    assert changed(before, chain.ids()) == ["grpo"]


def test_a_template_counts_by_text(chain: Any) -> None:
    chain.write()
    (chain.folder / "a.jinja").write_text("one")
    chain.chain["model"]["chat_template"] = "./a.jinja"
    before = chain.ids()
    (chain.folder / "b.jinja").write_text("one")
    chain.chain["model"]["chat_template"] = "./b.jinja"
    assert chain.ids() == before
    (chain.folder / "b.jinja").write_text("two")
    assert changed(before, chain.ids()) == list(ORDER)


def test_a_chain_without_hooks_shares_what_comes_before_the_first_hook(chain: Any) -> None:
    assert changed(chain.ids(), chain.ids("baseline=naive")) == ["sft", "dpo", "grpo"]


def test_stages_of_one_recipe_and_parent_are_one_stage(chain: Any) -> None:
    chain.chain["stages"] = {"a": "sft.yaml", "b": "sft.yaml"}
    found = chain.ids("stages.a.hooks=[]", "stages.b.hooks=[]", "stages.b.from=base")
    assert found["a"] == found["b"]
