"""The merge stage on stages that were really trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpt import past
from cpt.checkpoint import load_model, verify_stage
from cpt.errors import EdgeError, StoreError
from cpt.merging.spec import Layerwise
from cpt.past import NUM_EXEMPLARS, PastStage
from cpt.read_recipe import check_stage
from stages import kind_of
from stages.base import Job
from stages.greedy import greedy
from stages.merge import exemplars, make
from stages.tilts import search
from tests.tiny_stages import equal, weights_of


@pytest.fixture(scope="module")
def experts(stages: Any) -> dict[str, Path]:
    """Two stages from one parent, and that parent."""
    found = {"base": stages.base, "pretrain": stages.pretrain.output}
    for name, data in (("chats", "chats"), ("talks", "talks")):
        job = stages.job("sft", parent=stages.pretrain.output, data=stages.data(data))
        found[name] = stages.train(job).job.output
    return found


@pytest.fixture
def merge_of(experts: dict[str, Path], tmp_path: Path) -> Any:
    """A job that merges some of the experts."""

    def job(*names: str, places: dict[str, str] | None = None, **merge: Any) -> Job:
        tree = {"kind": "merge", "from": [*names], "merge": merge}
        roles = {f"parent.{n}": str(experts[name]) for n, name in enumerate(names[1:], start=2)}
        roles |= {role: str(experts[name]) for role, name in (places or {}).items()}
        spec = check_stage(tree, str(tmp_path / "merge.yaml"))
        kind_of("merge", "").check(spec, "merge.yaml")
        folders = {"parent": str(experts[names[0]]), **roles}
        return Job(
            name="both",
            id="merge-1",
            spec=spec,
            seed=5,
            parent=folders["parent"],
            roles=roles,
            output=tmp_path / "stages" / "merge-1",
            inputs={"merge": spec.merge.content() if spec.merge else None},
            parents={role: Path(folder).name for role, folder in folders.items()},
        )

    return job


def made(job: Job, **more: Any) -> dict[str, Any]:
    said: list[str] = []
    make(job, said.append, **more)
    assert said
    return dict(json.loads((job.output / "manifest.json").read_text()))


def test_a_merge_leaves_what_any_stage_leaves(merge_of: Any, experts: dict[str, Path]) -> None:
    job = merge_of("chats", "talks", method="soup")
    entry = made(job)
    names = ["checkpoint", "exemplars.jsonl", "log.txt", "manifest.json"]
    assert sorted(path.name for path in job.output.iterdir()) == names
    verify_stage(job.output)
    model = load_model(str(job.output / "checkpoint"))
    one, other = (weights_of(experts[name] / "checkpoint") for name in ("chats", "talks"))
    for name, tensor in model.state_dict().items():
        assert (tensor - (one[name] + other[name]) / 2).abs().max() < 1e-7
    assert not equal(one, other)
    assert (entry["kind"], entry["num_steps"], entry["start"]) == ("merge", 0, "checkpoint")
    assert entry["checks"]["tokenizer"]
    assert set(entry["seconds"]) == {"load", "merge", "save"}
    # Oldest first, each once, the merged ones among them.
    found = [ancestor["id"] for ancestor in entry["past"]]
    stages = [experts[name].name for name in ("base", "pretrain", "chats", "talks")]
    assert found == stages
    before = past.of_folder(job.output)
    assert [stage.id for stage in before] == [*stages, "merge-1"]
    assert all(stage.folder and stage.folder.is_dir() for stage in before)
    assert "both: soup of" in (job.output / "log.txt").read_text()


def test_later_stages_train_on_what_was_merged(stages: Any, merge_of: Any) -> None:
    job = merge_of("chats", "talks", method="soup")
    made(job)
    hooks = [{"replay": {"of": "both", "share": 0.5}}, {"kl": {"of": "pretrain"}}]
    after = stages.train(stages.job("sft", hooks, parent=job.output))
    assert [ancestor["name"] for ancestor in after.manifest["past"]][-1] == "both"
    assert not equal(after.weights, weights_of(job.output / "checkpoint"))


def test_its_exemplars_are_those_of_the_merged(merge_of: Any, experts: dict[str, Path]) -> None:
    job = merge_of("chats", "talks", method="soup")
    made(job)
    lines = [
        {*(experts[name] / "exemplars.jsonl").read_text().splitlines()}
        for name in ("chats", "talks")
    ]
    assert {*(job.output / "exemplars.jsonl").read_text().splitlines()} == lines[0] | lines[1]


def test_too_many_exemplars_are_sampled(tmp_path: Path) -> None:
    stages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [{"text": f"{name} {number}"} for number in range(NUM_EXEMPLARS)]
        shared = [{"text": "both"}]
        text = "".join(json.dumps(row) + "\n" for row in [*shared, *rows[1:]])
        (tmp_path / name / "exemplars.jsonl").write_text(text)
        stages.append(PastStage(name, name, "sft", tmp_path / name, ""))
    kept = exemplars(stages, 5)
    assert len(kept) == NUM_EXEMPLARS
    assert kept == exemplars(stages, 5) != exemplars(stages, 6)
    share = sum(row["text"].startswith("a") for row in kept) / NUM_EXEMPLARS
    assert share == pytest.approx(0.5, abs=0.06)
    assert len(exemplars(stages[:1], 5)) == NUM_EXEMPLARS


def test_a_change_is_taken_from_its_base_and_put_onto_another(
    merge_of: Any, experts: dict[str, Path]
) -> None:
    places = {"base": "pretrain", "onto": "talks"}
    settings = {"method": "task_arithmetic", "base": "pretrain", "onto": "talks", "weights": [0.5]}
    job = merge_of("chats", places=places, **settings)
    entry = made(job)
    assert [ancestor["id"] for ancestor in entry["past"]].count(experts["talks"].name) == 1
    assert len(entry["checks"]["task_vectors"]["norms"]) == 1
    found, chats, talks, before = (
        weights_of(folder / "checkpoint")
        for folder in (job.output, experts["chats"], experts["talks"], experts["pretrain"])
    )
    for name, tensor in found.items():
        expected = talks[name] + 0.5 * (chats[name] - before[name])
        assert (tensor - expected).abs().max() < 1e-6


def test_an_interrupted_merge_ends_as_one_that_was_not(
    merge_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import stages.merge as module

    job = merge_of("chats", "talks", method="soup")
    made(job)
    whole = weights_of(job.output / "checkpoint")
    left = {path.name for path in job.output.iterdir()}
    for place in ("merge", "write_lines", "describe", "publish"):
        job.output.rename(tmp_path / f"before-{place}")

        def dies(*arguments: Any, **more: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, place, dies)
            with pytest.raises(KeyboardInterrupt):
                made(job)
        assert not job.output.exists()
        assert (job.partial / "checkpoint").is_dir() == (place != "merge")
        if place != "merge":  # and is not merged again
            with monkeypatch.context() as patch:
                patch.setattr(module, "merge", dies)
                make(job, lambda line: None)
        else:
            make(job, lambda line: None)
        assert equal(weights_of(job.output / "checkpoint"), whole)
        assert {path.name for path in job.output.iterdir()} == left
        assert not job.partial.exists()


def test_damaged_models_and_other_tokenizers_are_refused(
    merge_of: Any, experts: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    job = merge_of("chats", "talks", method="soup")
    copies = {name: tmp_path / name for name in ("damaged", "other")}
    for copy in copies.values():
        shutil.copytree(experts["talks"], copy)
    weights = copies["damaged"] / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    job = replace(job, roles={"parent.2": str(copies["damaged"])})
    with pytest.raises(StoreError, match="is damaged"):
        make(job, lambda line: None)
    other = copies["other"]
    entry = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**entry, "files": {}, "id": "sft-other"}))
    (other / "checkpoint" / "chat_template.jinja").write_text("{{ messages }}")
    job = replace(job, roles={"parent.2": str(other)})
    with pytest.raises(EdgeError, match="both: sft and sft: chat template: it differs"):
        make(job, lambda line: None)
    assert not (job.partial / "checkpoint").exists()


def test_a_greedy_soup_keeps_what_helps() -> None:
    asked = []
    # Of the single models the second is best; with the first it is better, with the third worse.
    scores = {(0,): 0.5, (1,): 0.7, (2,): 0.6, (1, 2): 0.65, (0, 1): 0.7}

    def score(places: tuple[int, ...]) -> float:
        asked.append(places)
        return scores[places]

    found = greedy(3, score)
    assert asked == [(0,), (1,), (2,), (1, 2), (0, 1)]  # best first; as good as before is kept
    assert found.places == (0, 1)


def test_a_greedy_soup_is_measured_and_remembered(merge_of: Any, experts: dict[str, Path]) -> None:
    job = merge_of("chats", "pretrain", "talks", method="greedy_soup", suite="dev", probe="x")
    asked: list[Path] = []
    wanted = [0.3, 0.1, 0.2, 0.5, 0.4]

    class Killed(Exception):  # noqa: N818
        pass

    def score(folder: Path) -> float:
        if len(asked) == 4:
            asked.clear()
            raise Killed
        asked.append(folder)
        load_model(str(folder))
        return wanted[len(asked) - 1]

    with pytest.raises(Killed):
        made(job, score=score)
    assert not (job.partial / "checkpoint").exists()
    entry = made(job, score=lambda folder: wanted[4])  # only what was not measured yet
    told = entry["checks"]["greedy_soup"]
    assert told["chosen"] == ["sft", "sft"]
    assert [value for _, value in told["scores"]] == wanted
    one, other = (weights_of(experts[name] / "checkpoint") for name in ("chats", "talks"))
    for name, tensor in weights_of(job.output / "checkpoint").items():
        assert (tensor - (one[name] + other[name]) / 2).abs().max() < 1e-7
    left = ["checkpoint", "exemplars.jsonl", "log.txt", "manifest.json"]
    assert sorted(path.name for path in job.output.iterdir()) == left


def layerwise(**settings: Any) -> Layerwise:
    return Layerwise(method="layerwise", suite="dev", probe="x", blocks=2, **settings)


def test_a_search_finds_the_shares_that_score_best() -> None:
    tried: list[list[float]] = []

    def score(candidate: Layerwise) -> float:
        tried.append(candidate.alphas())
        return candidate.alphas()[1] - abs(candidate.alphas()[2] - 0.2) / 2

    found, value = search(layerwise(penalty=0.0), score)
    assert len(tried) == 1 + 2 * 3
    assert all(sum(alphas) / 3 == pytest.approx(0.2) for alphas in tried)
    assert value == max(a[1] - abs(a[2] - 0.2) / 2 for a in tried)
    assert found.alphas()[1] > 0.2
    _, higher = search(layerwise(penalty=0.0, rounds=5), score)
    assert higher > value
    # Held to the mean by so much, nothing moves, and the second round is not begun.
    tried.clear()
    still, _ = search(layerwise(penalty=100.0, rounds=5), score)
    assert still.alphas() == pytest.approx([0.2] * 3)
    assert len(tried) == 1 + 2 * 3


def test_no_block_gets_more_than_the_whole_earlier_model() -> None:
    def score(candidate: Layerwise) -> float:
        assert max(candidate.alphas()) <= 1
        return candidate.alphas()[0]

    search(layerwise(alpha=0.9, rounds=3, step=3.0), score)


def test_adaptive_shares_are_measured_and_told(merge_of: Any) -> None:
    settings = {"method": "layerwise", "blocks": 2, "suite": "dev", "probe": "x", "penalty": 0.0}
    job = merge_of("pretrain", "chats", **settings)
    asked: list[float] = []

    def score(folder: Path) -> float:
        load_model(str(folder))
        asked.append(len(asked) % 3)
        return asked[-1]

    checks = made(job, score=score)["checks"]
    assert len(asked) == 7
    assert checks["search"]["value"] == 2
    assert checks["search"]["tilts"] == [-1, 0, 0]  # the third that was tried, and the first of 2
    assert sum(checks["alphas"]) / 3 == pytest.approx(0.2)
    assert checks["alphas"][0] < checks["alphas"][1]


def test_a_soup_of_adapter_stages_is_one_of_dense_weights(
    stages: Any, merge_of: Any, experts: dict[str, Path]
) -> None:
    """B08's failure "LoRA factors averaged": `checkpoint/` has what the factors make, merged."""
    for name in ("chats", "talks"):
        job = stages.job(
            "sft", [{"lora": {"rank": 2}}], parent=experts["pretrain"], data=stages.data(name)
        )
        experts[f"lora {name}"] = stages.train(job).job.output
    job = merge_of("lora chats", "lora talks", method="soup")
    made(job)
    found = weights_of(job.output / "checkpoint")
    assert not any("lora" in name for name in found)
    one, other = (weights_of(experts[f"lora {name}"] / "checkpoint") for name in ("chats", "talks"))
    changed = [name for name in found if not one[name].equal(other[name])]
    assert changed
    for name in changed:
        assert (found[name] - (one[name] + other[name]) / 2).abs().max() < 1e-7
