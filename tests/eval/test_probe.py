"""Probing in memory: lm-eval's own numbers, and a process that stays as it was."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from cpt import yaml12
from cpt.errors import ProbeError
from eval import harness, measuring
from eval.compare import changes
from eval.harness import Model
from eval.known import known_results
from eval.matrix import read_matrix, read_row
from eval.probe import probe_checkpoint, probe_model, result_path, write_result
from eval.progress import Meter
from eval.split import only
from eval.suite import Suite, load_suite, materialise
from eval.template import any_template, hashed

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCE = "the red cat counts {} apples and {} pears beside the old river"
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}} Question: which?",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    "writes": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}} then",
        "doc_to_target": "{{text}}",
        "process_results": "!function scoring.vowels",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
        "metric_list": [{"metric": "vowels", **MEAN}],
    },
    "reads": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}
SCORING = """
def vowels(doc, results):
    return {"vowels": sum(letter in "aeiou" for letter in results[0]) / 40}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([SENTENCE.format(i, i + 7) for i in range(50)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=1, initializer_range=0.4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_suite(folder: Path, probes: dict[str, Any], name: str = "small") -> Suite:
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    rows = [
        {
            "text": " ".join([SENTENCE.format(i, i * i)] * (1 + i % 3)),
            "options": ["red", "green river", str(i), "apples"],
            "answer": i % 4,
        }
        for i in range(11)
    ]
    rows.append(rows[0])
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "scoring.py").write_text(SCORING)
    for task, config in TASKS.items():
        common = {
            "task": task, "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "metadata": {"version": 1.0},
        }  # fmt: skip
        text = yaml.safe_dump(common | config, sort_keys=False)
        text = text.replace("'!function scoring.vowels'", "!function scoring.vowels")
        (tasks / f"{task}.yaml").write_text(text)
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": name, "include": "tasks", "batch_size": 4, "probes": probes}, sort_keys=False
        )
    )
    return load_suite(path)


PROBES: dict[str, Any] = {
    "choices": {"group": "knowledge", "metric": "acc", "shots": 2},
    "choices_chat": {
        "task": "choices", "group": "knowledge", "metric": "acc_norm", "shots": 2, "chat": True,
    },
    "writes": {"group": "instruction", "shots": 0},
    "writes_chat": {"task": "writes", "group": "instruction", "shots": 0, "chat": True},
    "reads": {"group": "language", "shots": 0, "margin": 0.1},
}  # fmt: skip


@pytest.fixture
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    return (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoTokenizer.from_pretrained(checkpoint),
    )


def command_line(checkpoint: Path, tasks: Path, output: Path) -> dict[bool, dict[str, Any]]:
    """lm-eval's own command line, without and with the chat template, in one process.

    Left out because they only cost time: the index of lm-eval's 14,000 own tasks, and `pip list`.
    """
    code = """
import sys
import lm_eval.evaluator
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks._index import TaskIndex
build = TaskIndex.build
own = lm_eval.__path__[0]
TaskIndex.build = staticmethod(
    lambda paths, **settings: build([p for p in paths if own not in str(p)], **settings)
)
lm_eval.evaluator.add_env_info = lambda results: None
for chat in (False, True):
    sys.argv = ["lm_eval", *sys.argv[1:]] if not chat else [*sys.argv, "--apply_chat_template"]
    sys.argv[sys.argv.index("--output_path") + 1] += f"-{chat}"
    cli_evaluate()
"""
    arguments = [
        "run", "--model", "hf", "--model_args", f"pretrained={checkpoint}", "--device", "cpu",
        "--tasks", ",".join(TASKS), "--include_path", str(tasks), "--batch_size", "4",
        "--output_path", str(output / "o"),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = sorted(output.rglob("results*.json"))
    assert len(found) == 2, found
    return {"-True" in str(path): json.loads(path.read_text())["results"] for path in found}


@pytest.mark.chain
def test_numbers_are_those_of_lm_eval_s_command_line(
    checkpoint: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    suite = write_suite(tmp_path, PROBES)
    result = probe_model(*loaded, suite, cache=tmp_path / "cache", stage_id="base-0")
    folder = materialise(suite, tmp_path / "alone")
    theirs = command_line(checkpoint, folder, tmp_path)
    for name, cell in result["probes"].items():
        scores = theirs[cell["chat"]][cell["task"]]
        assert cell["value"] == pytest.approx(scores[f"{cell['metric']},none"], rel=1e-6), name
        if cell["metric"] != "bits_per_byte":
            stderr = scores[f"{cell['metric']}_stderr,none"]
            assert cell["stderr"] == pytest.approx(stderr, rel=1e-6), name
    values = {name: cell["value"] for name, cell in result["probes"].items()}
    assert 0 < values["choices"] < 1
    assert values["writes"] > 0
    assert values["writes"] != values["writes_chat"]


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    cells = {
        name: {key: value for key, value in cell.items() if key != "seconds"}
        for name, cell in result["probes"].items()
    }
    return {**result, "probes": cells, "seconds": 0, "stage": ""}


def random_states() -> tuple[Any, ...]:
    numbers: Any = numpy.random.get_state()
    return random.getstate(), numbers[1].tolist(), torch.get_rng_state().tolist()


def test_the_same_checkpoint_gives_the_same_row_and_leaves_the_process_as_it_was(
    checkpoint: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    suite = write_suite(tmp_path, PROBES)
    model, tokenizer = loaded
    model.train()
    model.model.layers[0].eval()
    model.config.use_cache = False
    tokenizer.padding_side = "right"
    random.seed(1)
    numpy.random.seed(2)
    torch.manual_seed(3)
    states = random_states()
    lines: list[str] = []
    first = probe_model(
        model, tokenizer, suite, cache=tmp_path, stage_id="a", progress=lines.append
    )
    assert states == random_states()
    assert model.training
    assert not model.model.layers[0].training
    assert not model.config.use_cache
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert torch.is_grad_enabled()
    random.seed(99)
    again = probe_checkpoint(str(checkpoint), suite, cache=tmp_path)
    assert without_seconds(first) == without_seconds(again)
    assert [line for line in lines if "probe 5/5 reads: bits_per_byte" in line]


def test_a_result_becomes_a_row_and_equals_itself(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    suite = write_suite(tmp_path, PROBES)
    result = probe_model(*loaded, suite, cache=tmp_path, stage_id="sft-1")
    path = write_result(tmp_path / "stage", result)
    assert path == result_path(tmp_path / "stage", suite)
    matrix = read_matrix([("base", "base-0", path), ("sft", "sft-1", path)], "small", suite.hash)
    found = changes(matrix.rows[0], matrix.rows[1], 0.0)
    assert [change.probe for change in found] == [*PROBES]
    assert all(change.num_changed == 0 and change.p_value >= 0.5 for change in found)
    score = matrix.row("sft").scores["reads"]
    assert (score.margin, score.higher_is_better) == (0.1, False)
    assert score.items[0].weight == len(SENTENCE.format(0, 0))
    assert score.items[-1].id == f"{score.items[0].id}-2"  # the last document repeats the first
    choice = matrix.row("sft").scores["choices"].items[2]
    assert choice.text.endswith("Question: which?")
    assert choice.answer in ("red", "green river", "2", "apples")


def test_another_model_gives_another_row(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    suite = write_suite(tmp_path, {"reads": PROBES["reads"]})
    model, tokenizer = loaded
    before = write_result(
        tmp_path / "a", probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="a")
    )
    model.lm_head.weight.data.mul_(10)
    after = write_result(
        tmp_path / "b", probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="b")
    )
    rows = [read_row(path.parts[-3], "x", path, suite.hash) for path in (before, after)]
    (change,) = changes(rows[0], rows[1], 0.0)
    assert change.verdict == "regressed"


def test_logits_only_where_needed_change_no_likelihood(loaded: tuple[Any, Any]) -> None:
    model = Model(
        *loaded, batch_size=3, max_length=12, accelerator=None, sharded=False, meter=Meter(None)
    )
    assert model.takes_logits_to_keep
    model.packed = None
    context = [5, 6, 7, 0, 0]
    pairs = [(context, [9]), (context, [0]), (context, [9, 8, 7]), ([5], [0, 0]), ([5], [0])]
    pairs += [([*range(2, 20)], [30, 0, 31]), ([4], [*range(3, 14)])]
    requests = [((str(i), ""), *pair) for i, pair in enumerate(pairs)]
    short = model._loglikelihood_tokens(requests)
    model.takes_logits_to_keep = False
    whole = model._loglikelihood_tokens(requests)
    assert [s[0] for s in short] == pytest.approx([w[0] for w in whole], rel=1e-5)
    assert [s[1] for s in short] == [w[1] for w in whole]


def test_a_task_that_lm_eval_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "_task_manager", lambda folder: TaskManager(None, tmp_path, False))
    (tmp_path / "arc.yaml").write_text("task: arc_easy\ndataset_path: none\n")
    with pytest.raises(ProbeError, match="lm-eval has no task 'arc_esy'; did you mean 'arc_easy'"):
        harness.load_tasks("arc", "arc_esy", None)


def test_a_limit_is_honoured_and_changes_the_hash(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    whole = write_suite(tmp_path, {"reads": PROBES["reads"]})
    part = write_suite(tmp_path, {"reads": PROBES["reads"] | {"limit": 5}})
    assert whole.hash != part.hash
    result = probe_model(*loaded, part, cache=tmp_path, stage_id="a")
    assert result["probes"]["reads"]["num_items"] == 5


def test_probes_on_other_metrics_of_a_task_share_its_run(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []
    scored = Model.loglikelihood

    def count(self: Model, requests: list[Any], disable_tqdm: bool = False) -> Any:
        ran.append((requests[0].task_name, len(requests)))
        return scored(self, requests, disable_tqdm)

    monkeypatch.setattr(Model, "loglikelihood", count)
    first = PROBES["choices"] | {"shots": 0}
    probes = {
        "a": first | {"task": "choices"},
        "reads": PROBES["reads"],
        "b": first | {"task": "choices", "metric": "acc_norm"},
        "c": first | {"task": "choices", "metric": "acc_norm", "limit": 5},
    }
    together = probe_model(*loaded, write_suite(tmp_path, probes), cache=tmp_path, stage_id="a")[
        "probes"
    ]
    assert ran == [("choices", 48), ("choices", 20)]
    alone = probe_model(
        *loaded, write_suite(tmp_path, {"b": probes["b"]}), cache=tmp_path, stage_id="a"
    )["probes"]
    ran.clear()
    assert together["b"] | {"seconds": 0} == alone["b"] | {"seconds": 0}
    assert together["a"]["value"] != together["b"]["value"]
    assert together["a"]["parts"]["dtype"] == "float32"


def test_an_answer_says_how_it_ended(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    harness = Model(
        model, tokenizer, batch_size=2, max_length=None, accelerator=None, sharded=False,
        meter=Meter(None),
    )  # fmt: skip
    settings = {"until": [], "max_gen_toks": 6, "do_sample": False}
    prompts = ["the red cat", "the red cat counts 3 apples", "beside the old river", "cat"]
    requests = [
        Instance("generate_until", {}, (prompt, settings), number)
        for number, prompt in enumerate([*prompts, prompts[0]])
    ]
    cut: Any = harness.generate_until(requests)
    assert [(reply.num_tokens, reply.has_ended) for reply in cut] == [(6, False)] * 5
    assert cut[0] == cut[4]
    # A word of the answer becomes the end-of-sequence token: now the first answer ends before it.
    tokens = tokenizer.encode(prompts[0], return_tensors="pt")
    written = model.generate(tokens, max_new_tokens=6, do_sample=False)[0, tokens.shape[1] :]
    place = 1 + written[1:].tolist().index(written[2])
    model.generation_config.eos_token_id = [1, int(written[place])]
    ended: Any = harness.generate_until(requests[:1])[0]
    assert (ended.num_tokens, ended.has_ended) == (written.tolist().index(written[place]), True)
    stopped: Any = harness.generate_until(
        [Instance("generate_until", {}, (prompts[1], settings | {"until": [cut[1][:3]]}), 0)]
    )[0]
    assert (stopped, stopped.num_tokens, stopped.has_ended) == ("", None, True)


def test_the_behaviour_suite_runs_on_any_model_with_a_template(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    tree = yaml12.load(ROOT / "configs" / "probes" / "behaviour.yaml")
    tree["include"] = str(ROOT / "eval" / "tasks")
    assert 0 < tree.pop("dev") < 0.5  # of so few items none might be for choosing
    tree["max_length"] = None  # of the tiny model: 256
    for settings in tree["probes"].values():
        settings["limit"] = 7
    copied = tmp_path / "tasks"
    shutil.copytree(ROOT / "eval" / "tasks" / "behaviour", copied)
    for file in copied.glob("*.yaml"):
        file.write_text(re.sub(r"max_gen_toks: \d+", "max_gen_toks: 12", file.read_text()))
    tree["include"] = "tasks"
    (tmp_path / "behaviour.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    suite = load_suite(tmp_path / "behaviour.yaml")
    result = probe_model(*loaded, suite, cache=tmp_path, stage_id="a")
    cells = result["probes"]
    assert [*cells] == [*tree["probes"]]
    assert {cell["num_items"] for name, cell in cells.items() if name != "form"} == {7}
    assert 0 < cells["form"]["num_items"] < 7
    assert [name for name, cell in cells.items() if cell["is_drift"]] == [
        "length", "tokens", "variety",
    ]  # fmt: skip
    assert not cells["over_refusal"]["higher_is_better"]
    assert cells["refusal"]["higher_is_better"]
    assert 0 < cells["tokens"]["value"] <= 12
    assert {item["cluster"] for item in cells["loops"]["items"]} >= {"bread"}
    path = write_result(tmp_path / "stage", result)
    row = read_row("a", "a", path, suite.hash)
    assert row.scores["length"].is_drift
    assert only(row, "test") == row  # no split, so whole


def test_nan_in_the_weights_is_a_failure(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    model.lm_head.weight.data[:] = float("nan")
    for name in ("choices", "reads"):
        suite = write_suite(tmp_path, {name: PROBES[name]})
        with pytest.raises(ProbeError, match=rf"probe {name}: .*(nan|NaN)"):
            probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="a")


def test_chat_without_a_template_is_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    tokenizer.chat_template = None
    suite = write_suite(tmp_path, {"writes_chat": PROBES["writes_chat"]})
    with pytest.raises(ProbeError, match=r"writes_chat has `chat: true`.*no chat template"):
        probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="a")


def test_all_tasks_are_loaded_before_the_first_is_measured(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set that the hub hands to nobody is found before anything is measured, and a template too."""
    measured: list[str] = []
    monkeypatch.setattr(measuring, "measure", lambda harness, probe, tasks: measured.append("x"))
    write_suite(tmp_path, PROBES)
    task = tmp_path / "tasks" / "reads.yaml"
    task.write_text(task.read_text().replace("rows.jsonl", "gone.jsonl"))
    (tmp_path / "tasks" / "gone.jsonl").write_text("no JSON\n")
    suite = load_suite(tmp_path / "small.yaml")
    with pytest.raises(ProbeError, match="probe reads: task reads cannot be loaded"):
        probe_model(*loaded, suite, cache=tmp_path, stage_id="a")
    model, tokenizer = loaded
    tokenizer.chat_template = None
    suite = write_suite(tmp_path, {name: PROBES[name] for name in ("writes", "writes_chat")})
    with pytest.raises(ProbeError, match="writes_chat has `chat: true`"):
        probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="a")
    assert measured == []


def test_the_chat_template_is_part_of_what_is_compared(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    suite = write_suite(tmp_path, {name: PROBES[name] for name in ("writes", "writes_chat")})
    first = probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="a")
    tokenizer.chat_template = TEMPLATE.replace("<|", "<")
    second = probe_model(model, tokenizer, suite, cache=tmp_path, stage_id="b")
    files = [write_result(tmp_path / found["stage"], found) for found in (first, second)]
    rows = [read_row(file.parts[-3], "x", file, suite.hash) for file in files]
    assert "template" not in rows[0].scores["writes"].parts
    asked = [row.scores["writes_chat"].parts["template"] for row in rows]
    assert asked == [hashed(TEMPLATE), hashed(TEMPLATE.replace("<|", "<"))]
    with pytest.raises(ProbeError, match=rf"template: {asked[0]}, not {asked[1]}.*--any-template"):
        changes(rows[0], rows[1], 0.0)
    before, after = any_template(rows)
    assert len(changes(before, after, 0.0)) == 2


def test_a_metric_that_is_no_mean_over_items_is_refused(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    write_suite(tmp_path, PROBES)
    task = tmp_path / "tasks" / "reads.yaml"
    task.write_text(task.read_text().replace("bits_per_byte", "word_perplexity"))
    suite = load_suite(tmp_path / "small.yaml")
    with pytest.raises(ProbeError, match="reads: word_perplexity has no number per item"):
        probe_model(*loaded, suite, cache=tmp_path, stage_id="a")


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, {"reads": PROBES["reads"]})
    with pytest.raises(ProbeError, match="none: cannot be loaded"):
        probe_checkpoint(str(tmp_path / "none"), suite, cache=tmp_path)


def test_a_suite_that_grew_measures_its_new_probe_alone(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_suite(tmp_path, {"reads": PROBES["reads"]})
    file = write_result(
        tmp_path / "stage", probe_model(*loaded, suite, cache=tmp_path, stage_id="a")
    )
    grown = write_suite(tmp_path, {name: PROBES[name] for name in ("choices", "reads")}, "grown")
    known = known_results(file.parent.glob("*.json"), grown)
    whole = probe_model(*loaded, grown, cache=tmp_path, stage_id="a")
    measured: list[str] = []
    measure = measuring.measure

    def watched(harness: Any, probe: Any, tasks: Any) -> Any:
        measured.append(probe.name)
        return measure(harness, probe, tasks)

    monkeypatch.setattr(measuring, "measure", watched)
    part = probe_model(*loaded, grown, cache=tmp_path, stage_id="a", known=known)
    assert measured == ["choices"]
    assert [*part["probes"]] == ["choices", "reads"]
    assert without_seconds(part) == without_seconds(whole)


@pytest.mark.chain
def test_two_processes_give_the_row_of_one(
    checkpoint: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    suite = write_suite(tmp_path, PROBES)
    alone = probe_model(*loaded, suite, cache=tmp_path / "one", stage_id="a")
    code = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer
from cpt.world import leave
from eval.probe import probe_model
from eval.suite import load_suite
def main():
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    model = accelerator.prepare(AutoModelForCausalLM.from_pretrained(sys.argv[1]))
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    folder = Path(sys.argv[2])
    result = probe_model(model, tokenizer, load_suite(folder / "small.yaml"), cache=folder / "two",
                         stage_id="a", accelerator=accelerator)
    (folder / f"rank{accelerator.process_index}.json").write_text(json.dumps(result))
    import eval.harness
    from cpt.errors import ProbeError
    refuse = eval.harness.refuse_unscorable
    def refused(*given):
        if accelerator.process_index == 1:
            raise ProbeError("one choice has no tokens")
        refuse(*given)
    eval.harness.refuse_unscorable = refused
    try:
        probe_model(model, tokenizer, load_suite(folder / "small.yaml"), cache=folder / "two",
                    stage_id="a", accelerator=accelerator)
    except ProbeError as error:
        (folder / f"error{accelerator.process_index}").write_text(str(error))
    accelerator.free_memory()
main()  # in a function, so that the model is gone when the group is
leave()
"""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    common = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    command = [sys.executable, "-c", code, str(checkpoint), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["probes"] == second["probes"]
    assert (
        "process 1 failed" in (tmp_path / "error0").read_text()
    )  # and does not wait for the other
    assert (tmp_path / "error1").read_text() == "one choice has no tokens"
    for name, cell in alone["probes"].items():
        assert first["probes"][name]["value"] == pytest.approx(cell["value"], rel=1e-6), name
        ids = [item["id"] for item in first["probes"][name]["items"]]
        assert ids == [item["id"] for item in cell["items"]]
