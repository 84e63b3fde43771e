"""`cpt gc`: what anything needs stays, whatever the store looks like; what it lists is what it removes."""

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from cpt import reachable as reachables
from cpt import retention
from cpt.checkpoint import digests_of_stage, verify_stage
from cpt.lock_owner import Owner
from cpt.manifest import Ancestor, Manifest, read
from cpt.reachable import PINS, chains, pin, pinned, reachable
from cpt.store import Store, complete_checkpoints, mark_complete
from cpt.verified import damages
from launch import cli, gc
from launch.care_options import seconds
from launch.opening import open_chain
from launch.record import link

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke" / "chain.yaml"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], store: Store, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["gc", "--runs", str(store.root), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def make(store: Store, stage_id: str, *parents: str) -> Path:
    """A finished stage; its past is all that its parents came from."""
    partial = store.partial(stage_id)
    (partial / "checkpoint").mkdir(parents=True)
    (partial / "checkpoint" / "model.safetensors").write_text(f"weights of {stage_id}" * 50)
    (partial / "exemplars.jsonl").write_text("{}\n")
    past: dict[str, Ancestor] = {}
    for parent in parents:
        for name in [*[a.id for a in manifest_of(store, parent).past], parent]:
            past[name] = Ancestor(name, name, name.partition("-")[0], f"../{name}")
    roles = {
        f"parent.{number}" if number > 1 else "parent": p for number, p in enumerate(parents, 1)
    }
    Manifest(
        id=stage_id,
        kind=stage_id.partition("-")[0],
        name=stage_id,
        parents=roles,
        past=tuple(past.values()),
        files=digests_of_stage(partial),
    ).write(partial)
    return store.publish(stage_id)


def manifest_of(store: Store, stage_id: str) -> Manifest:
    return read(store.stage(stage_id))


def chain(store: Store, name: str, *ids: str) -> None:
    nodes = [{"name": stage_id, "id": stage_id, "hooks": []} for stage_id in ids]
    store.link_chain(name, nodes, {"name": name, "seed": 1, "recipe_path": "r.yaml"})


def checkpoint(store: Store, stage_id: str, step: int, is_whole: bool = True) -> Path:
    folder = store.partial(stage_id) / "trainer" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_text("states" * 100)
    if is_whole:
        mark_complete(folder)
    return folder


def files(store: Store) -> set[str]:
    """All but locks, which say who was here."""
    found = (path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))
    return {name for name in found if not name.startswith("locks")}


def listed(out: str) -> list[str]:
    return [
        line.split("  ")[-1].partition(":")[0].strip()
        for line in out.splitlines()
        if line.startswith("remove")
    ]


def test_what_training_left_goes_and_what_continues_stays(store: Store, call: Call) -> None:
    make(store, "base-1")
    chain(store, "a", "base-1", "sft-1", "dpo-1")
    whole = [checkpoint(store, "sft-1", step) for step in (4, 8, 12)]
    half = checkpoint(store, "sft-1", 16, is_whole=False)
    over = checkpoint(store, "dpo-1", 4)
    (store.partial("dpo-1") / "trained").mkdir()
    code, out, _ = call()
    assert code == 0
    assert all(folder.is_dir() for folder in whole)  # how many stay, the recipe says
    assert not half.exists()
    assert not over.parent.exists()
    assert (store.partial("dpo-1") / "trained").is_dir()
    assert "sft-1.partial/trainer/checkpoint-16: it is not whole" in out
    assert "dpo-1.partial/trainer: its training is over" in out
    assert out.splitlines()[-1].startswith("2 removed, ")
    assert call()[1] == "0 removed, 0 B\n"


def test_a_finished_stage_keeps_what_it_is_made_of(store: Store, call: Call) -> None:
    make(store, "base-1")
    stage = make(store, "sft-1", "base-1")
    chain(store, "a", "base-1", "sft-1")
    before = files(store)
    for name in ("trainer/checkpoint-4", "data", "checkpoint.partial", "candidates.removed-1"):
        (stage / name).mkdir(parents=True)
    (stage / "probes").mkdir()
    assert call()[1].splitlines()[-1].startswith("4 removed")
    assert files(store) == before | {"stages/sft-1/probes"}
    verify_stage(stage)


@pytest.mark.parametrize("later", ["nothing", "a stage", "a repair"])
def test_candidates_stay_until_the_verdict(store: Store, call: Call, later: str) -> None:
    """Behind a stage that the gate has judged the chain went on; it stands still at one that it stopped."""
    make(store, "base-1")
    stage = make(store, "sft-1", "base-1")
    (stage / "candidates" / "step-4").mkdir(parents=True)
    following = {"nothing": "dpo-1", "a stage": "dpo-1", "a repair": "repair-1"}[later]
    chain(store, "a", "base-1", "sft-1", following)
    if later != "nothing":
        make(store, following, "sft-1")
    assert call("--pin", "sft-1")[1] == "pinned: sft-1\n"
    assert call()[1] == "0 removed, 0 B\n"
    assert call("--unpin", "sft-1")[1] == "pinned: nothing\n"
    call()
    assert (stage / "candidates").is_dir() is (later == "nothing")


def test_stages_in_no_chain_go_when_a_person_says_so(store: Store, call: Call) -> None:
    for stage_id, *parents in (
        ["base-1"],
        ["sft-1", "base-1"],
        ["sft-2", "base-1"],
        ["dpo-2", "sft-2"],
    ):
        make(store, stage_id, *parents)
    chain(store, "a", "base-1", "sft-1")
    code, out, _ = call("--older", "0s")
    assert code == 0
    assert out.splitlines()[-1].startswith("2 finished stages in no chain hold ")
    assert store.is_done("dpo-2")
    assert call("--stages")[1].splitlines()[-1] == "0 removed, 0 B"  # they are younger than 7 days
    call("--pin", "dpo-2")
    assert call("--stages", "--older", "0s")[1] == "0 removed, 0 B\n"  # with all that it came from
    assert pinned(store) == ["dpo-2"]
    (store.root / PINS).write_text("sft-2  # the first good one\n\n")
    assert listed(call("--stages", "--older", "0s")[1]) == ["stages/dpo-2"]
    assert store.is_done("sft-2")


def test_a_reference_is_needed_as_a_parent_is(store: Store, call: Call) -> None:
    make(store, "base-1")
    make(store, "sft-9")
    stage = make(store, "dpo-1", "base-1")
    entry = manifest_of(store, "dpo-1")
    entry.parents["reference"] = "sft-9"
    entry.write(stage)
    chain(store, "a", "base-1", "dpo-1")
    assert call("--stages", "--older", "0s")[1] == "0 removed, 0 B\n"


def test_an_interrupted_stage_that_no_chain_names_yet_has_time(store: Store, call: Call) -> None:
    """A chain names a stage once the first of its run is made: until then hours of training lie there."""
    make(store, "base-1")
    chain(store, "a", "base-1")
    folder = checkpoint(store, "sft-1", 4)
    broken = store.stages / "sft-3.broken-1"
    broken.mkdir()
    assert call()[1] == "0 removed, 0 B\n"
    week = time.time() - 8 * 86400
    for path in [broken, *store.partial("sft-1").rglob("*"), store.partial("sft-1")]:
        os.utime(path, (week, week))
    assert listed(call("--dry-run")[1]) == ["stages/sft-1.partial", "stages/sft-3.broken-1"]
    os.utime(folder / "optimizer.pt")
    assert listed(call()[1]) == ["stages/sft-3.broken-1"]
    assert folder.is_dir()


def test_what_is_being_made_is_left_alone(store: Store, call: Call) -> None:
    make(store, "base-1")
    chain(store, "a", "base-1", "sft-1")
    folder = checkpoint(store, "sft-1", 4, is_whole=False)
    with store.lock("sft-1", pytest.fail):
        for more in ([], ["--dry-run"]):
            code, out, _ = call(*more)
            assert code == 0
            assert (
                "kept    stages/sft-1.partial/trainer/checkpoint-4: is being made by process" in out
            )
    assert folder.is_dir()


def far_away(store: Store, stage_id: str) -> Path:
    """What a process of another machine writes beside the lock that it holds."""
    owner = Owner("abc", "far", "another boot", 12, "", time.time())
    file = store.root / "locks" / f"{stage_id}.owner"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(owner)))
    return file


def test_what_a_run_may_be_built_on_stays_until_its_chain_names_it(
    store: Store, call: Call
) -> None:
    """The first new stage of a run is made before any chain names its parents."""
    make(store, "base-1")
    make(store, "base-2")
    chain(store, "a", "base-2", "sft-2")
    chain(store, "b", "base-2", "dpo-2")
    file = far_away(store, "sft-1")
    for more in ([], ["--dry-run"]):
        code, out, _ = call("--stages", "--older", "0d", *more)
        assert code == 0
        assert "kept    stages/base-1: sft-1 may need it, which process 12 on far" in out
        assert store.is_done("base-1")
    # A stage that a chain names is built on stages that this chain names too.
    file.rename(far_away(store, "sft-2"))
    assert listed(call("--stages", "--older", "0d")[1]) == ["stages/base-1"]


@pytest.mark.parametrize("meanwhile", ["named", "gone", "finished"])
def test_what_changes_while_it_looks_is_left_alone(
    store: Store, call: Call, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """Between the look at the store and the lock, a run names a stage, or goes on with it."""
    make(store, "base-1")
    make(store, "sft-2", "base-1")
    chain(store, "a", "base-1", "sft-1")
    half = checkpoint(store, "sft-1", 4, is_whole=False)

    @contextmanager
    def late(held: Store, stage_id: str) -> Iterator[None]:
        if meanwhile == "named":
            chain(store, "b", "base-1", "sft-2")
        elif meanwhile == "finished":
            mark_complete(half)
        elif half.is_dir():
            shutil.rmtree(half)
        with held.lock(stage_id, pytest.fail):
            yield

    monkeypatch.setattr(gc, "lock_if_free", late)
    code, out, err = call("--stages", "--older", "0d")
    assert (code, err) == (0, "")
    kept = {"named": "stages/sft-2"}.get(meanwhile, "stages/sft-1.partial/trainer/checkpoint-4")
    assert f"kept    {kept}: changed while this looked at the rest" in out
    assert store.is_done("sft-2") is (meanwhile == "named")
    assert half.is_dir() is (meanwhile == "finished")


def test_what_a_killed_group_was_writing_goes(store: Store, call: Call) -> None:
    chain(store, "a", "sft-1")
    left = store.root / "jobs" / ".sft-1.beat-0.12-ab.partial"
    left.parent.mkdir()
    left.touch()
    with store.lock("sft-1", pytest.fail):
        assert "kept    jobs/.sft-1.beat-0.12-ab.partial" in call("--older", "0d")[1]
    assert listed(call("--older", "0d")[1]) == ["jobs/.sft-1.beat-0.12-ab.partial"]
    assert not left.exists()


def test_a_group_at_work_removes_files_while_it_looks(
    store: Store, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(store, "a", "sft-1")
    (store.root / "jobs").mkdir()
    for name in ("sft-1.beat-0", "sft-1.json"):
        (store.root / "jobs" / name).touch()
    stat = Path.stat

    def gone(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.suffix == ".beat-0":
            path.unlink(missing_ok=True)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", gone)
    assert listed(call("--older", "0d")[1]) == ["jobs/sft-1.json"]


def test_nothing_goes_where_a_chain_cannot_be_read(store: Store, call: Call) -> None:
    make(store, "base-1")
    make(store, "sft-1", "base-1")
    chain(store, "a", "base-1")
    for file in (
        store.root / "chains" / "a" / "chain.json",
        store.stage("base-1") / "manifest.json",
    ):
        text = file.read_text()
        file.write_text("{")
        before = files(store)
        code, _, err = call("--stages", "--older", "0s")
        assert code == 1
        assert str(file) in err
        assert files(store) == before
        file.write_text(text)


def test_a_kill_leaves_an_item_whole_or_gone(
    store: Store, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "base-1")
    make(store, "sft-1", "base-1")
    chain(store, "a", "base-1")

    def killed(path: Path) -> None:
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        assert call("--stages", "--older", "0s")[0] == 4
    assert not store.stage("sft-1").exists()
    assert listed(call("--older", "9d")[1])[0].startswith("stages/sft-1.removed-")
    assert [path.name for path in store.stages.iterdir()] == ["base-1"]


def test_bytes_with_another_name_are_not_freed(store: Store) -> None:
    make(store, "base-1")
    one, other = make(store, "sft-1", "base-1"), make(store, "repair-1", "base-1")
    chain(store, "a", "base-1", "repair-1")
    name = "checkpoint/model.safetensors"
    (other / name).unlink()
    os.link(one / name, other / name)
    trees = chains(store)
    (item,) = retention.leftovers(store, trees, reachable(store, trees, []), [], 0)
    assert item.path == one
    assert 0 < item.num_bytes < 50 * len("weights of sft-1") + 2000
    assert item.num_bytes == sum(
        path.stat().st_size
        for path in one.rglob("*")
        if path.is_file() and path.stat().st_nlink == 1
    )


@pytest.mark.parametrize("text", ["7", "d", "-1d", "1w", "", "nan d", "infd"])
def test_ages_have_a_unit(text: str) -> None:
    with pytest.raises(Exception, match="write an age as"):
        seconds(text)
    assert [seconds(age) for age in ("2d", "1.5h", "0s")] == [172_800, 5400, 0]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_store_holds_all_that_is_needed_stays(
    store: Store, call: Call, seed: int
) -> None:
    """Random graphs of stages, chains over them, pins, and everything that may lie about beside them."""
    draw = random.Random(seed)
    ids = ["base-0"]
    make(store, "base-0")
    for number in range(1, draw.randint(4, 14)):
        kind = draw.choice(["sft", "dpo", "merge", "repair"])
        parents = draw.sample(ids, min(len(ids), draw.randint(1, 3)))
        ids.append(f"{kind}-{number}")
        make(store, ids[-1], *parents)
    named: set[str] = set()
    for number in range(draw.randint(0, 4)):
        chosen = sorted(draw.sample(ids, draw.randint(1, len(ids))), key=ids.index)
        unfinished = [f"grpo-{seed}{number}"] if draw.random() < 0.5 else []
        chain(store, f"c{number}", *chosen, *unfinished)
        named |= {*chosen}
        for stage_id in unfinished:
            for step in range(4, 4 * draw.randint(1, 5), 4):
                checkpoint(store, stage_id, step, is_whole=draw.random() < 0.7)
    pins = draw.sample(ids, draw.randint(0, 2))
    if pins:
        call("--pin", *pins)
    for stage_id in draw.sample(ids, len(ids) // 2):
        (store.stage(stage_id) / draw.choice(["trainer", "candidates", "data", "probes"])).mkdir()
    checkpoint(store, "sft-loose", 4)
    (store.stages / "sft-1.broken-3").mkdir()
    needed = set[str]()
    waiting = [*named, *pins]
    while waiting:
        entry = manifest_of(store, waiting.pop())
        needed.add(entry.id)
        waiting += [*entry.parents.values()]
    newest = {
        path: complete_checkpoints(path / "trainer")[-1:]
        for path in store.stages.glob("grpo-*.partial")
    }
    before = files(store)
    rehearsed = call("--dry-run", "--stages", "--older", "0s")[1]
    assert files(store) == before
    done = call("--stages", "--older", "0s")[1]
    assert listed(rehearsed) == listed(done)
    assert not any((store.root / path).exists() for path in listed(done))
    assert {path.name for path in store.stages.iterdir() if "." not in path.name} == needed
    for stage_id in needed:
        assert (
            damages(store.stage(stage_id), manifest_of(store, stage_id).files, in_full=True) == []
        )
    for path, kept in newest.items():
        assert complete_checkpoints(path / "trainer")[-1:] == kept
    assert not (store.stages / "sft-loose.partial").exists()
    assert call("--stages", "--older", "0s")[1] == "0 removed, 0 B\n"


def test_after_it_every_chain_plans_nothing_to_do(
    store: Store, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Real plans: the smoke chain, changed and run again under its own name and others."""
    monkeypatch.chdir(tmp_path)
    variants = [
        ["seed=1"],
        ["name=other", "seed=1", "stages.dpo.train.learning_rate=2e-3"],
        ["name=third", "stages.sft.train.learning_rate=2e-3"],
        ["baseline=naive"],
        ["stages.grpo.train.learning_rate=2e-3"],
        [],
    ]
    for changes in variants:
        opened = open_chain(SMOKE, changes, store.root)
        for node in opened.plan.nodes:
            if not store.is_done(node.id):
                folder = make(store, node.id, *dict.fromkeys(node.parents.values()))
                assert opened.suite is not None
                probes = folder / "probes"
                probes.mkdir()
                (probes / f"{opened.suite.name}-{opened.suite.hash}.json").write_text("{}")
        link(opened)
    every = len(list(store.stages.iterdir()))
    assert call("--stages", "--older", "0s")[0] == 0
    assert len(list(store.stages.iterdir())) < every
    for changes in variants[1:4] + variants[-1:]:  # the others were written over under their name
        opened = open_chain(SMOKE, changes, store.root)
        assert all(opened.is_finished(node) for node in opened.plan.nodes), changes
    gone = open_chain(SMOKE, variants[0], store.root)
    assert not all(gone.is_finished(node) for node in gone.plan.nodes)


def test_two_that_pin_at_once_pin_both(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sft-1", "sft-2"):
        make(store, name)
    both, read_pins = threading.Barrier(2), reachables.pinned

    def slowly(held: Store) -> list[str]:
        found = read_pins(held)
        with suppress(threading.BrokenBarrierError):  # the other one waits for the lock
            both.wait(1)
        return found

    monkeypatch.setattr(reachables, "pinned", slowly)
    threads = [
        threading.Thread(target=pin, args=(store, [name], [])) for name in ("sft-1", "sft-2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_pins(store)) == ["sft-1", "sft-2"]


def test_a_typing_mistake_makes_no_store(store: Store, call: Call) -> None:
    assert call("--pin", "sft-1")[0] == 2
    assert not store.root.exists()
