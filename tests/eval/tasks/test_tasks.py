"""The local tasks are ordinary lm-eval tasks, and the suites name them all."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpt import corpora, yaml12
from eval import taskfile
from eval.suite import load_suite, materialise
from eval.taskfile import read_task, write_task

ROOT = Path(__file__).parents[3]
TASKS = sorted((ROOT / "eval" / "tasks").rglob("*.yaml"))
MANNERS = ("manners", "refusal", "over_refusal")  # their data lie beside them
SUITES = sorted((ROOT / "configs" / "probes").glob("*.yaml"))


def config(path: Path) -> dict[str, Any]:
    return read_task(path.stem, path).config


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_has_a_version_and_its_metric_a_direction(path: Path) -> None:
    task = config(path)
    assert task["task"] == path.stem
    assert task["metadata"]["version"] == 1.0
    if path.stem not in MANNERS:
        (metric,) = task["metric_list"]
        assert metric["higher_is_better"] is (metric["metric"] == "acc")
    assert task["dataset_path"] == "json"
    assert ("dataset_kwargs" in task) is (path.stem in MANNERS)


def test_lm_eval_lists_and_builds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("CPT_CACHE", str(tmp_path))
    manager = TaskManager(include_path=str(ROOT / "eval" / "tasks"), include_defaults=False)
    assert set(manager.all_tasks) == {path.stem for path in TASKS}
    task = read_task("format", ROOT / "eval" / "tasks" / "format.yaml")
    write_task(task, tmp_path / "tasks", corpora.views("general") / "probe_format.jsonl", None)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    loaded = manager.load(["format"])["tasks"]["format"]
    assert len(loaded.dataset["test"]) >= 100
    doc = loaded.dataset["test"][0]
    assert loaded.process_results(doc, ["no such reply"]) == {"acc": 0.0}


RUN_ALONE = """
import sys
from lm_eval.tasks import TaskManager
loaded = TaskManager(include_path=sys.argv[1], include_defaults=False).load(sys.argv[2:])["tasks"]
for name, words in {"manners": "No no no", "refusal": "I can't help with that."}.items():
    task = loaded[name]
    found = task.process_results(task.dataset["test"][0], [words])
    number = found.get("words", found.get("refused"))
    print(name, len(task.dataset["test"]), task.higher_is_better(), sorted(found), number)
"""


def test_the_tasks_on_manners_run_alone_where_cpt_is_installed(tmp_path: Path) -> None:
    folder = materialise(load_suite(ROOT / "configs" / "probes" / "behaviour.yaml"), tmp_path / "t")
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALONE, str(folder), *MANNERS],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    manners, refusal = done.stdout.splitlines()
    assert manners.startswith("manners 148 ")
    assert "'words': None" in manners
    assert "'loop': False" in manners
    assert "'form': True" in manners
    assert manners.endswith("'loop', 'rep_4', 'switched', 'words'] 3.0")  # no tokens, nor cut_off
    assert refusal == "refusal 48 {'refused': True} ['refused'] 1.0"


def test_the_code_of_manners_is_part_of_their_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "behaviour"
    shutil.copytree(taskfile.BEHAVIOUR, copy)
    monkeypatch.setattr(taskfile, "BEHAVIOUR", copy)
    suite = ROOT / "configs" / "probes" / "behaviour.yaml"
    before = {name: probe.fingerprint for name, probe in load_suite(suite).probes.items()}
    (copy / "refusals.json").write_text("{}")
    after = {name: probe.fingerprint for name, probe in load_suite(suite).probes.items()}
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suites_name_tasks_and_views_that_exist(path: Path) -> None:
    suite = load_suite(path)
    for probe in suite.probes.values():
        if probe.data is None:
            continue
        assert probe.data.view in corpora.view_names(probe.data.builder)
        assert probe.task in {task.stem for task in TASKS}


#: Where lm-eval keeps those of its own tasks that our suites name.
FOREIGN = {
    "arc_challenge": "arc/arc_challenge.yaml",
    "belebele_deu_Latn": "belebele/belebele_deu_Latn.yaml",
    "belebele_fra_Latn": "belebele/belebele_fra_Latn.yaml",
    "belebele_spa_Latn": "belebele/belebele_spa_Latn.yaml",
    "belebele_zho_Hans": "belebele/belebele_zho_Hans.yaml",
    "crows_pairs_english": "crows_pairs/crows_pairs_english.yaml",
    "ethics_cm": "hendrycks_ethics/commonsense.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "mmlu": "mmlu/default/_mmlu.yaml",
    "piqa": "piqa/piqa.yaml",
    "toxigen": "toxigen/toxigen.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "winogrande": "winogrande/default.yaml",
}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_tasks_of_lm_eval_have_the_metric_that_a_suite_asks_for(path: Path) -> None:
    found = importlib.util.find_spec("lm_eval")
    assert found
    assert found.submodule_search_locations
    tasks = Path(found.submodule_search_locations[0]) / "tasks"
    for probe in load_suite(path).probes.values():
        if probe.local is not None:
            continue
        task = read_task(probe.task, tasks / FOREIGN[probe.task]).config
        raw = (tasks / FOREIGN[probe.task]).read_text("utf-8")
        assert f"task: {probe.task}\n" in raw or f"group: {probe.task}\n" in raw
        metrics = task.get("metric_list") or task["aggregate_metric_list"]
        metric, _, chosen = str(probe.metric).partition(",")
        assert metric in [entry["metric"] for entry in metrics], probe.name
        filters = [entry["name"] for entry in task.get("filter_list", ())]
        assert chosen in filters if len(filters) > 1 else not chosen, probe.name
        if probe.cluster is not None:
            assert probe.cluster in task["doc_to_text"]
        assert not task.get("unsafe_code")


#: Of every probe before suites had splits, clusters and facets: results that are there stay valid. Those of
#: `general` are of its split, which it got later.
FINGERPRINTS = {
    "smoke": {
        "code_skill": "7e549c4adf0cf264",
        "format": "52d14c0d3f853bc7",
        "prose": "9c8cc983918325ec",
    },
    "quickstart": {
        "code_skill": "19be26257198fb47",
        "code_text": "4b2dae3a30757e0e",
        "facts": "22b900a3f1fa79d6",
        "commonsense": "d611381867a3651a",
        "arithmetic": "9296df3bdf19da60",
        "english": "e8a8fd0f66cac098",
        "prose": "f210a9bc812cf76b",
        "format": "b484046a48fb30a4",
    },
    "general": {
        "mmlu": "b0b0a1b5eb429901",
        "hellaswag": "1291be2d7ca4280e",
        "arc_challenge": "4e26eb2bafa5c6f1",
        "winogrande": "5ab6055afa51fce5",
        "truthfulqa_mc2": "282cefe1aff0ecc2",
        "wikitext": "4f99ee494562872f",
    },
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_of_shipped_probes_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "fingerprint_of", lambda builder, source: "v1")
    suite = load_suite(ROOT / "configs" / "probes" / f"{name}.yaml")
    found = {probe: suite.probes[probe].fingerprint for probe in FINGERPRINTS[name]}
    assert found == FINGERPRINTS[name]
    hashes = {"smoke": "42ba2f3c", "quickstart": "620f3109"}
    assert suite.hash == hashes.get(name, suite.hash)


def test_the_quickstart_has_a_new_skill_and_five_general_abilities() -> None:
    probes = yaml12.load(ROOT / "configs" / "probes" / "quickstart.yaml")["probes"]
    groups = [probe["group"] for probe in probes.values()]
    assert "domain" in groups
    assert len([group for group in groups if group != "domain"]) >= 5
    assert all(0 < probe["margin"] <= 0.05 for probe in probes.values())
