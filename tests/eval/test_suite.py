"""Suites: what is refused, what the hash covers, and tasks that lm-eval can run alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt import corpora
from cpt.errors import DataError, ProbeError
from eval.suite import load_suite, materialise

SUMS = """
include: base.yml
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: rows.jsonl}
doc_to_text: "{{question}}\\n  it's: "
process_results: !function helpers.scoring.count
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
BASE = """
output_type: generate_until
test_split: test
doc_to_text: overridden
target_delimiter: ' '
"""
FACTS = """
task: facts
dataset_path: json
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
DATA = {"builder": "general", "view": "probe_facts"}
FACTS_PROBE: dict[str, Any] = {"group": "knowledge", "metric": "acc", "data": DATA}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tasks; `general` has a view without building one."""
    tasks = tmp_path / "tasks"
    (tasks / "helpers").mkdir(parents=True)
    (tasks / "sums.yaml").write_text(SUMS)
    (tasks / "base.yml").write_text(BASE)
    (tasks / "facts.yaml").write_text(FACTS)
    (tasks / "rows.jsonl").write_text(json.dumps({"question": "2 + 2", "answer": "4"}) + "\n")
    (tasks / "helpers" / "scoring.py").write_text("def count(doc, results):\n    return {}\n")
    (tmp_path / "views").mkdir()
    monkeypatch.setattr(corpora, "BUILDERS", {"general": "m:C"})
    monkeypatch.setattr(corpora, "view_names", lambda builder: ["probe_facts", "probe_sums"])
    monkeypatch.setattr(corpora, "fingerprint_of", lambda builder, source: "v1")
    monkeypatch.setattr(corpora, "views", lambda builder, source: tmp_path / "views")
    return tmp_path


def write(folder: Path, probes: Any, **other: Any) -> Path:
    path = folder / "small.yaml"
    tree = {"name": "small", "include": "tasks", "probes": probes, **other}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ProbeError) as caught:
        load_suite(path)
    return str(caught.value)


def test_a_suite_with_defaults(folder: Path) -> None:
    suite = load_suite(write(folder, {"sums": {"group": "reasoning"}, "facts": FACTS_PROBE}))
    assert (suite.name, suite.batch_size, suite.max_length) == ("small", 16, None)
    sums = suite.probes["sums"]
    assert (sums.task, sums.metric, sums.shots, sums.chat) == ("sums", "acc", None, False)
    assert sums.local is not None
    assert sums.local.config["target_delimiter"] == " "
    assert [*suite.probes] == ["sums", "facts"]


def test_a_task_that_is_not_included_is_lm_eval_s_own(folder: Path) -> None:
    probe = load_suite(write(folder, {"arc_easy": {"group": "reasoning", "shots": 5}})).probes
    assert probe["arc_easy"].local is None
    assert load_suite(write(folder, {"arc": {"group": "code"}}, include=None)).probes["arc"]


def facts(**changed: Any) -> dict[str, Any]:
    return {"facts": FACTS_PROBE | changed}


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (
            {"fact": {"group": "knowledge"}},
            "probes.fact: no task 'fact' in `include`; did you mean 'facts'?",
        ),
        (
            {"a": {"task": "fcts", "group": "code"}},
            "probes.a.task: no task 'fcts' in `include`; did you mean 'facts'?",
        ),
        (
            {"arc_easy": FACTS_PROBE},
            "probes.arc_easy: no task 'arc_easy' in `include`; known: facts, sums",
        ),
        (
            facts(group="knowlege"),
            "probes.facts.group: no group 'knowlege'; did you mean 'knowledge'?",
        ),
        (
            facts(metric="acc_nrm"),
            "probes.facts.metric: task facts has no 'acc_nrm'; did you mean 'acc_norm'?",
        ),
        (facts(metric=None), "probes.facts.metric is missing; task facts has acc, acc_norm"),
        (facts(shot=2), "probes.facts has no 'shot'; did you mean 'shots'?"),
        (facts(shots=-1), "probes.facts.shots: input should be greater than or equal to 0, not -1"),
        (facts(limit=0), "probes.facts.limit: input should be greater than or equal to 1, not 0"),
        (facts(task=""), "probes.facts.task: string should have at least 1 character, not ''"),
        (
            facts(data=DATA | {"view": "probe_fact"}),
            "probes.facts.data.view: general has no view 'probe_fact'; did you mean 'probe_facts'?",
        ),
        (
            facts(data=DATA | {"builder": "genral"}),
            "probes.facts.data.builder: no builder 'genral'; did you mean 'general'?",
        ),
        (
            {**facts(), "b": {"task": "facts", "group": "code", "metric": "acc"}},
            "probes facts and b give task 'facts' different data",
        ),
        ({}, "probes: dictionary should have at least 1 item"),
    ],
)
def test_mistakes_name_file_path_value_and_the_nearest_word(
    folder: Path, probes: Any, message: str
) -> None:
    path = write(folder, probes)
    found = refusal(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_mistakes_outside_the_probes(folder: Path) -> None:
    probes = {"sums": {"group": "reasoning"}}
    assert "there is no 'batchsize'; did you mean 'batch_size'?" in refusal(
        write(folder, probes, batchsize=4)
    )
    assert "include: 'taks' is no folder" in refusal(write(folder, probes, include="taks"))
    assert "no such file; did you mean" in refusal(folder / "smal.yaml")
    (folder / "tasks" / "twin.yaml").write_text("task: sums\n")
    assert "task 'sums' already stands in" in refusal(write(folder, probes))
    (folder / "tasks" / "twin.yaml").write_text("task: [\n")
    assert "twin.yaml" in refusal(write(folder, probes))


def test_a_source_that_cannot_be_read_is_a_mistake_in_the_suite(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(builder: str, source: str | None) -> str:
        raise DataError("no package 'nunpy'")

    monkeypatch.setattr(corpora, "fingerprint_of", refuse)
    assert "probes.facts.data: no package 'nunpy'" in refusal(write(folder, {"facts": FACTS_PROBE}))


def test_the_hash_covers_what_changes_a_number_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums: dict[str, Any] = {"group": "reasoning", "shots": 0}

    def hashed(probe: dict[str, Any] | None = None, **other: Any) -> str:
        return load_suite(
            write(folder, {"sums": probe or sums, "facts": FACTS_PROBE}, **other)
        ).hash

    first = hashed()
    same = [
        hashed(),
        hashed(sums | {"margin": 0.5}),
        hashed(sums | {"group": "code"}),
        hashed(batch_size=2),
        hashed(name="renamed"),
    ]
    assert {*same} == {first}
    text = (folder / "tasks" / "sums.yaml").read_text()
    (folder / "tasks" / "sums.yaml").write_text("# a remark\n" + text)
    assert hashed() == first
    others = [
        hashed(sums | {"shots": 1}),
        hashed(sums | {"chat": True}),
        hashed(sums | {"limit": 7}),
        hashed(max_length=512),
    ]
    (folder / "tasks" / "sums.yaml").write_text(text.replace("question", "answer"))
    others.append(hashed())
    (folder / "tasks" / "base.yml").write_text(BASE.replace("' '", "''"))
    others.append(hashed())
    (folder / "tasks" / "rows.jsonl").write_text("{}\n")
    others.append(hashed())
    (folder / "tasks" / "helpers" / "scoring.py").write_text("def count(doc, results): ...\n")
    others.append(hashed())
    monkeypatch.setattr(corpora, "fingerprint_of", lambda builder, source: "v2")
    others.append(hashed())
    assert len({first, *others}) == 1 + len(others)


def test_materialised_tasks_stand_alone(folder: Path) -> None:
    probes = {"sums": {"group": "reasoning", "shots": 3}, "facts": FACTS_PROBE}
    target = materialise(load_suite(write(folder, probes)), folder / "out")
    text = (target / "sums" / "sums.yaml").read_text()
    assert "process_results: !function helpers.scoring.count" in text.replace("'", "")
    assert "!function 'helpers" in text or "!function helpers" in text
    assert (target / "sums" / "helpers" / "scoring.py").read_text().startswith("def count")
    sums = yaml.load(text, _Untagged)
    assert "include" not in sums
    assert sums["doc_to_text"] == "{{question}}\n  it's: "
    assert sums["target_delimiter"] == " "
    assert sums["num_fewshot"] == 3
    assert sums["dataset_kwargs"]["data_files"]["test"] == str(folder / "tasks" / "rows.jsonl")
    facts = yaml.safe_load((target / "facts" / "facts.yaml").read_text())
    assert facts["dataset_kwargs"]["data_files"] == {
        "test": str(folder / "views/probe_facts.jsonl")
    }
    assert "num_fewshot" not in facts
    before = (target / "sums" / "helpers" / "scoring.py").stat().st_mtime_ns
    materialise(load_suite(write(folder, probes)), folder / "out")
    assert (target / "sums" / "helpers" / "scoring.py").stat().st_mtime_ns == before


def probe(folder: Path, settings: dict[str, Any], **other: Any) -> Any:
    return load_suite(write(folder, {"facts": FACTS_PROBE | settings}, **other)).probes["facts"]


def test_facets_come_from_the_group_where_it_has_one(folder: Path) -> None:
    assert probe(folder, {}).facet == "can"
    assert probe(folder, {"facet": "will"}).facet == "will"
    assert probe(folder, {"group": "instruction"}).facet == "how"
    assert probe(folder, {"group": "safety"}).facet is None
    message = "probes.facts.facet: input should be 'can', 'will' or 'how', not 'cann'"
    assert message in refusal(write(folder, facts(facet="cann")))


def test_a_direction_must_not_contradict_the_task(folder: Path) -> None:
    sums: dict[str, Any] = {"group": "reasoning"}
    assert load_suite(write(folder, {"sums": sums})).probes["sums"].direction is None
    for direction in ("higher", "none"):  # none: whatever the task says
        found = load_suite(write(folder, {"sums": sums | {"direction": direction}}))
        assert found.probes["sums"].direction == direction
    path = write(folder, {"sums": sums | {"direction": "lower"}})
    assert "probes.sums.direction: 'lower', but the task says that higher is better" in refusal(
        path
    )
    assert probe(folder, {"direction": "lower"}).direction == "lower"  # the task does not say
    path = write(folder, facts(direction="none", owner="sft"))
    assert "probes.facts.owner: nothing is learnt by a probe with `direction: none`" in refusal(
        path
    )


def test_the_dev_share_is_the_suite_s_unless_the_probe_has_one(folder: Path) -> None:
    assert probe(folder, {}).dev == 0
    assert probe(folder, {}, dev=0.3).dev == 0.3
    assert probe(folder, {"dev": 0}, dev=0.3).dev == 0
    assert "dev: input should be less than 1" in refusal(write(folder, facts(dev=1)))


def test_split_and_cluster_are_part_of_the_hash_where_they_are_set(folder: Path) -> None:
    first = probe(folder, {})
    assert probe(folder, {"dev": 0}).fingerprint == first.fingerprint
    others = [
        probe(folder, change)
        for change in ({"dev": 0.3}, {"dev": 0.2}, {"cluster": "topic"}, {"direction": "none"})
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5
    unhashed = {"owner": "sft", "facet": "how", "direction": "higher"}
    same = probe(folder, unhashed)
    assert same.fingerprint == first.fingerprint
    assert same.labels == {
        "group": "knowledge", "facet": "how", "owner": "sft", "margin": None,
        "higher_is_better": True,
    }  # fmt: skip


def test_parts_name_what_the_fingerprint_hashes(folder: Path) -> None:
    parts = probe(folder, {"limit": 7}, max_length=99).parts
    assert parts == json.loads(json.dumps(parts))
    assert {k: v for k, v in parts.items() if k not in ("task", "data")} == {
        "metric": "acc", "shots": "none", "chat": "no", "limit": "7", "max_length": "99",
    }  # fmt: skip
    assert parts["data"].startswith("general probe_facts ")
    before = parts["task"]
    (folder / "tasks" / "facts.yaml").write_text(FACTS.replace("question", "query"))
    assert probe(folder, {}).parts["task"] != before
    own = load_suite(write(folder, {"arc_easy": {"group": "reasoning"}})).probes["arc_easy"]
    assert own.parts["task"].startswith("lm_eval 0.")


def test_probes_of_one_task_at_equal_settings_share_its_run(folder: Path) -> None:
    other = FACTS_PROBE | {"task": "facts", "metric": "acc_norm", "margin": 0.1}
    probes = {"facts": FACTS_PROBE, "b": other, "c": other | {"shots": 1}}
    found = load_suite(write(folder, probes)).probes
    assert found["facts"].run == found["b"].run != found["c"].run


def test_a_task_of_one_s_own_wins_over_lm_eval_s(folder: Path) -> None:
    (folder / "tasks" / "arc_easy.yaml").write_text(SUMS.replace("task: sums", "task: arc_easy"))
    suite = load_suite(write(folder, {"arc_easy": {"group": "reasoning"}}))
    local = suite.probes["arc_easy"].local
    assert local is not None
    assert local.path == folder / "tasks" / "arc_easy.yaml"
    assert (materialise(suite, folder / "out") / "arc_easy" / "arc_easy.yaml").is_file()
    (folder / "more").mkdir()
    (folder / "more" / "arc.yaml").write_text(FACTS.replace("task: facts", "task: arc_easy"))
    path = write(
        folder,
        {"arc_easy": {"group": "reasoning", "metric": "acc"}},
        include=["tasks", "more"],
    )
    later = load_suite(path).probes["arc_easy"].local
    assert later is not None
    assert later.path == folder / "more" / "arc.yaml"


class _Untagged(yaml.SafeLoader):
    """Reads a `!function` tag as its text."""


_Untagged.add_constructor("!function", lambda loader, node: node.value)


def test_reading_a_suite_imports_neither_lm_eval_nor_torch(folder: Path) -> None:
    path = write(folder, {"sums": {"group": "reasoning"}})
    code = (
        "import sys; from pathlib import Path; import eval.probe, eval.gate\n"
        "from eval.suite import load_suite\n"
        "load_suite(Path(sys.argv[1])).hash\n"
        "slow = {'lm_eval', 'torch', 'datasets', 'transformers', 'trl', 'numpy'} & {*sys.modules}\n"
        "assert not slow, slow"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=root)
