import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpt import read_recipe, recipe
from cpt.errors import CptError, DataError, PlanError, RecipeError

Refused = Callable[..., str]


def one_line(refused: Refused, function: Callable[..., Any], *arguments: Any) -> str:
    message = refused(function, *arguments)
    assert len(message.splitlines()) == 1, message
    return message


def test_stage_files_configs_and_paths_are_inlined(chain: Any) -> None:
    loaded = chain.load()
    assert list(loaded.stages) == ["pretrain", "sft", "dpo", "grpo"]
    assert loaded.stages["sft"].data[0].path == str(chain.folder / "chats.jsonl")
    assert loaded.stages["sft"].file == str(chain.folder / "sft.yaml")
    assert [hook.name for hook in loaded.stages["sft"].hooks] == ["replay", "kl"]


def test_a_stage_may_stand_in_the_chain_itself(chain: Any) -> None:
    chain.chain["stages"]["sft"] = chain.stages.pop("sft")
    loaded = chain.load()
    assert loaded.stages["sft"].data[0].path == str(chain.folder / "chats.jsonl")
    chain.chain["stages"]["sft"]["hoks"] = []
    with pytest.raises(RecipeError) as failed:
        chain.load()
    assert str(failed.value) == (
        f"{chain.path}: stages.sft: there is no 'hoks'; did you mean 'hooks'?"
    )


def test_a_hook_is_a_name_or_a_name_with_settings(chain: Any) -> None:
    chain.stages["sft"]["hooks"] = ["ema", {"kl": None}, {"replay": {"share": 0.5}}]
    hooks = chain.load().stages["sft"].hooks
    assert [(hook.name, hook.settings) for hook in hooks] == [
        ("ema", {}),
        ("kl", {}),
        ("replay", {"share": 0.5}),
    ]


@pytest.mark.parametrize(
    "hook", [3, {"kl": 0.05}, {"kl": {}, "ema": {}}, {"name": "kl", "beta": 1}]
)
def test_what_is_no_hook_is_shown(chain: Any, refused: Refused, hook: Any) -> None:
    chain.stages["sft"]["hooks"] = [hook]
    message = one_line(refused, chain.load)
    assert message.startswith(f"{chain.folder / 'sft.yaml'}: hooks: {hook!r} is no hook; ")


# Unknown keys at every level.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sed=1", "sed=1: a recipe has no 'sed'; did you mean 'seed'?"),
        ("gate.margn=1", "{chain} with gate.margn=1: gate has no 'margn'; did you mean 'margin'?"),
        (
            "model.dtipe=x",
            "{chain} with model.dtipe=x: model has no 'dtipe'; did you mean 'dtype'?",
        ),
        (
            "model.random.tokenizer.vocabsize=1",
            "{chain} with model.random.tokenizer.vocabsize=1: model.random.tokenizer has no "
            "'vocabsize'; did you mean 'vocab_size'?",
        ),
        (
            "stages.sft.hoks=[]",
            "{sft} with stages.sft.hoks=[]: there is no 'hoks'; did you mean 'hooks'?",
        ),
        (
            "stages.sft.data.limt=1",
            "{sft} with stages.sft.data.limt=1: data.0 has no 'limt'; did you mean 'limit'?",
        ),
        (
            "stages.sft.data.validation={fracton: 0.5}",
            "{sft} with stages.sft.data.validation={{fracton: 0.5}}: data.0.validation has no "
            "'fracton'; did you mean 'fraction'?",
        ),
        (
            "stages.sf.train.learning_rate=3e-6",
            "stages.sf.train.learning_rate=3e-6: stages has no 'sf'; did you mean 'sft'?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(
    chain: Any, refused: Refused, change: str, message: str
) -> None:
    expected = message.format(chain=chain.path, sft=chain.folder / "sft.yaml")
    assert expected in refused(chain.load, change).splitlines()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            "stages.sft.train.learning_rat=1",
            ["SFTConfig has no 'learning_rat'", "'learning_rate'?"],
        ),
        ("stages.sft.hooks.kl.bta=1", ["hooks.kl: there is no 'bta'; did you mean 'beta'?"]),
        ("stages.sft.hooks.0={kk: {}}", ["hooks: no hook 'kk'; ", "kl"]),
        ("stages.sft.hooks.0=replai", ["hooks: no hook 'replai'; did you mean 'replay'?"]),
        ("stages.sft.kind=stf", ["kind: no stage kind 'stf'; did you mean 'sft'?"]),
        (
            "stages.grpo.rewards=[exact_mach]",
            ["no reward 'exact_mach'; did you mean 'exact_match'?"],
        ),
        ("stages.sft.train.output_dir=x", ["train.output_dir: belongs to the runner; "]),
        ("stages.sft.train.seed=1", ["train.seed: belongs to the runner; "]),
        (
            "stages.sft.train.per_device_train_batch_size=1",
            ["belongs to the runner; ", "batch_size"],
        ),
        ("stages.sft.train.report_to=wandb", ["belongs to the runner; ", "trackers"]),
        ("stages.sft.train.learning_rate=fast", ["train.learning_rate: must be ", "'fast'"]),
        ("stages.sft.hooks.replay.share=1.5", ["hooks.replay: share: ", "1.5"]),
        ("stages.sft.rewards=[exact_match]", ["rewards: a sft stage samples nothing to reward"]),
        ("stages.sft.reference=base", ["reference: a sft stage has no reference"]),
    ],
)
def test_planning_refuses_unknown_words_and_what_the_runner_owns(
    chain: Any, refused: Refused, change: str, parts: list[str]
) -> None:
    message = one_line(refused, chain.plan, change)
    stage = change.split(".")[1]
    assert message.startswith(f"{chain.folder / stage}.yaml with {change}: ")
    for part in parts:
        assert part in message


def test_the_documented_message_on_an_unknown_field_of_trl(chain: Any, refused: Refused) -> None:
    chain.stages["sft"]["train"] = {"learning_rat": 1e-5}
    assert refused(chain.plan) == (
        f"{chain.folder / 'sft.yaml'}: train: SFTConfig has no 'learning_rat'; "
        "did you mean 'learning_rate'?"
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("seed=true", "seed: input should be a valid integer, not True"),
        ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
        ("name=a/b", "name: "),
        ("stages=[]", "stages: input should be a valid dictionary, not []"),
        (
            "gate.on_regression=wran",
            "gate.on_regression: input should be 'warn', 'stop', 'rollback' or 'repair', not 'wran'; "
            "did you mean 'warn'?",
        ),
        (
            "baseline=naiv",
            "baseline: input should be 'naive' or 'joint', not 'naiv'; did you mean 'naive'?",
        ),
        ("model.dtype=fp32", "model.dtype: input should be 'float32'"),
        ("model.path=./x", "model: name one of path, gguf, random; here: path, random"),
        ("model.random.tokenizer.vocab_size=3", "model.random.tokenizer.vocab_size: "),
    ],
)
def test_wrong_values_of_a_chain(chain: Any, refused: Refused, change: str, line: str) -> None:
    message = one_line(refused, chain.load, change)
    assert message.startswith(f"{chain.path} with {change}: {line}")


@pytest.mark.parametrize(
    ("stage", "key", "value", "line"),
    [
        ("sft", "kind", 3, "kind: input should be a valid string, not 3"),
        ("sft", "train", [], "train: input should be a valid dictionary, not []"),
        ("sft", "hooks", {"kl": {}}, "hooks: input should be a valid list, not {'kl': {}}"),
        ("sft", "data", [], "data is missing"),
        (
            "sft",
            "data",
            {"path": "./a.jsonl", "limit": "5"},
            "data.0.limit: input should be a valid",
        ),
        (
            "sft",
            "data",
            {"path": "./a.jsonl", "weight": 0},
            "data.0.weight: input should be greater",
        ),
        ("sft", "data", {}, "data.0: name either path or builder"),
        (
            "sft",
            "data",
            {"builder": "pyton_code"},
            "data.0: builder: no 'pyton_code'; did you mean",
        ),
        (
            "sft",
            "data",
            {"builder": "python_code", "view": "question"},
            "data.0: view: python_code has no 'question'; did you mean 'questions'?",
        ),
        ("sft", "data", {"builder": "general"}, "data.0: view is missing; known: "),
        (
            "sft",
            "data",
            "someone/some-data",
            "data.0: path 'someone/some-data' is a hub data set; ",
        ),
        (
            "sft",
            "data",
            {"path": "./a.jsonl", "view": "x"},
            "data.0: view: has no meaning for local",
        ),
        (
            "sft",
            "data",
            {"path": "./a.jsonl", "validation": {"split": "test"}},
            "data.0: validation.split: local files has no splits; name fraction",
        ),
        (
            "sft",
            "data",
            {"path": "./a.jsonl", "validation": {}},
            "data.0.validation: name one of split, view, fraction",
        ),
        ("sft", "micro_batch", 0, "micro_batch: "),
        ("sft", "file", "x", "there is no 'file'; "),
        ("sft", "model", {"chat_template": "./no.jinja"}, "model: chat_template: "),
    ],
)
def test_wrong_values_of_a_stage(
    chain: Any, refused: Refused, stage: str, key: str, value: Any, line: str
) -> None:
    chain.stages[stage][key] = value
    message = one_line(refused, chain.load)
    assert message.startswith(f"{chain.folder / stage}.yaml: {line}")


@pytest.mark.parametrize("key", ["name", "model", "stages"])
def test_a_missing_key_is_named(chain: Any, refused: Refused, key: str) -> None:
    del chain.chain[key]
    assert refused(chain.load) == f"{chain.path}: {key} is missing"


def test_a_file_key_in_a_chain_is_unknown_too(chain: Any, refused: Refused) -> None:
    chain.chain["file"] = "x"
    assert refused(chain.load).startswith(f"{chain.path}: there is no 'file'")


# Missing files.


def test_missing_files_name_their_neighbours(chain: Any, refused: Refused) -> None:
    chain.chain["stages"]["sft"] = "sfft.yaml"
    message = one_line(refused, chain.load)
    near = str(chain.folder / "sft.yaml")
    assert message == (
        f"{chain.path}: stages.sft: {chain.folder / 'sfft.yaml'}: no such file; "
        f"did you mean {near!r}?"
    )


def test_missing_configs_and_data_name_who_wants_them(chain: Any, refused: Refused) -> None:
    chain.stages["sft"]["data"] = "chatz.yaml"
    assert refused(chain.load).startswith(
        f"{chain.folder / 'sft.yaml'}: {chain.folder / 'chatz.yaml'}: no such file"
    )
    chain.stages["sft"]["data"] = "./chatz.jsonl"
    message = one_line(refused, chain.plan)
    near = str(chain.folder / "chats.jsonl")
    assert message == (
        f"{chain.folder / 'sft.yaml'}: data: {chain.folder / 'chatz.jsonl'}: no such file; "
        f"did you mean {near!r}?"
    )
    chain.stages["sft"]["data"] = "chats.jsonl"
    chain.stages["sft"]["hooks"] = [{"replay": {"source": "./missing.jsonl"}}]
    message = one_line(refused, chain.plan)
    assert message.startswith(f"{chain.folder / 'sft.yaml'}: data: ")
    assert "missing.jsonl" in message


def test_a_stage_or_anything_else_is_no_chain(chain: Any, refused: Refused) -> None:
    chain.write()
    assert "is one stage, not a chain" in refused(read_recipe.load, chain.folder / "sft.yaml")
    (chain.folder / "list.yaml").write_text("- a\n")
    assert "a chain is a mapping" in refused(read_recipe.load, chain.folder / "list.yaml")


# Data.


def test_data_is_one_config_or_a_weighted_list(chain: Any) -> None:
    (chain.folder).mkdir()
    (chain.folder / "chats.yaml").write_text("path: ./chats.jsonl\nlimit: 3\nlicence: own\n")
    chain.stages["sft"]["data"] = [
        "chats.yaml",
        {"use": "chats.yaml", "weight": 3, "limit": 2},
        {"path": "./chats.jsonl", "weight": 0.5},
        "chats.jsonl",
    ]
    path = str(chain.folder / "chats.jsonl")
    found = [(data.path, data.weight, data.limit) for data in chain.load().stages["sft"].data]
    assert found == [(path, 1, 3), (path, 3, 2), (path, 0.5, None), (path, 1, None)]


def test_a_hooks_source_is_inlined_likewise(chain: Any) -> None:
    (chain.folder).mkdir()
    (chain.folder / "chats.yaml").write_text("path: ./chats.jsonl\n")
    for source in ("chats.yaml", {"use": "chats.yaml"}, {"path": "./chats.jsonl"}, "chats.jsonl"):
        chain.stages["sft"]["hooks"] = [{"replay": {"source": source}}]
        settings = chain.load().stages["sft"].hooks[0].settings
        assert settings["source"]["path"] == str(chain.folder / "chats.jsonl")


def test_variables_and_home_in_paths(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(chain.folder))
    monkeypatch.setenv("HOME", str(chain.folder))
    chain.stages["sft"]["data"] = ["$HERE/chats.jsonl", "${HERE}/chats.jsonl", "~/chats.jsonl"]
    paths = {data.path for data in chain.load().stages["sft"].data}
    assert paths == {str(chain.folder / "chats.jsonl")}


def test_a_models_path_counts_from_the_file_that_names_it(chain: Any) -> None:
    for model in ("./model", {"path": "./model"}):
        chain.chain["model"] = model
        assert chain.load().model.path == str(chain.folder / "model")
    chain.folder.joinpath("models").mkdir()
    chain.folder.joinpath("models/m.yaml").write_text("path: ../model\nchat_template: t.jinja\n")
    chain.folder.joinpath("models/t.jinja").write_text("x")
    chain.chain["model"] = "models/m.yaml"
    assert chain.load().model.path == str(chain.folder / "model")
    assert chain.load().model.chat_template == str(chain.folder / "models/t.jinja")


# Overrides.


def test_overrides_reach_stages_hooks_and_the_chain(chain: Any) -> None:
    loaded = chain.load(
        "seed=18",
        "stages.sft.train.learning_rate=3e-6",
        "stages.sft.hooks.kl.beta=0.2",
        "stages.sft.data.limit=2",
        "baseline=naive",
    )
    assert (loaded.seed, loaded.baseline) == (18, "naive")
    assert loaded.stages["sft"].train["learning_rate"] == 3e-6
    assert loaded.stages["sft"].hooks[1].settings == {"beta": 0.2}
    assert loaded.stages["sft"].data[0].limit == 2


def test_paths_in_overrides_count_from_the_current_folder(
    chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.write()
    monkeypatch.chdir(chain.folder)
    (chain.folder / "other.yaml").write_text("path: ./chats.jsonl\nlimit: 1\n")
    (chain.folder / "deep").mkdir()
    chats, texts = str(chain.folder / "chats.jsonl"), str(chain.folder / "texts.jsonl")
    for change, path in (
        ("stages.sft.data=other.yaml", chats),
        ("stages.sft.data=./texts.jsonl", texts),
        ("stages.sft.data.path=./texts.jsonl", texts),
        ("stages.sft.data=[./texts.jsonl]", texts),
        ("stages.sft={kind: sft, data: ./texts.jsonl}", texts),
        ("stages.sft=pretrain.yaml", texts),
    ):
        assert chain.load(change).stages["sft"].data[0].path == path
    for change in (
        "stages.sft.hooks.replay={source: other.yaml}",
        "stages.sft.hooks.0={replay: {source: other.yaml}}",
        "stages.sft.hooks=[{replay: {source: other.yaml}}]",
    ):
        hook = chain.load(change).stages["sft"].hooks[0]
        assert hook.settings["source"]["path"] == chats
    loaded = chain.load("stages.sft.hooks.0.source=other.yaml", "stages.sft.hooks.0.of=null")
    assert loaded.stages["sft"].hooks[0].settings["source"]["path"] == chats
    assert chain.load("model=./deep").model.path == str(chain.folder / "deep")


def test_the_folder_of_a_stage_survives_its_overrides(chain: Any) -> None:
    where = chain.load("stages.sft.data=./a/b.jsonl").stages["sft"].file
    assert recipe.folder_of(where) == chain.folder


# The graph.


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("stages.sft.from=dpo", "stages.sft.from: 'dpo' does not come before sft; earlier are: "),
        ("stages.sft.from=sft", "stages.sft.from: 'sft' does not come before sft"),
        ("stages.dpo.reference=grpo", "stages.dpo.reference: 'grpo' does not come before dpo"),
        (
            "stages.dpo.from=pretran",
            "stages.dpo.from: 'pretran' is no stage; did you mean 'pretrain'?",
        ),
        (
            "stages.dpo.reference=bas",
            "stages.dpo.reference: 'bas' is no stage; did you mean 'base'?",
        ),
        (
            "stages.dpo.from=[base, sftt]",
            "stages.dpo.from: 'sftt' is no stage; did you mean 'sft'?",
        ),
        ("stages.grpo.teacher=x", "stages.grpo.teacher: 'x' is no stage; known: "),
    ],
)
def test_a_stage_refers_to_earlier_stages_only(
    chain: Any, refused: Refused, change: str, line: str
) -> None:
    assert one_line(refused, chain.load, change).startswith(f"{chain.path}: {line}")


@pytest.mark.parametrize("name", ["base", "previous", "a.b", "a b"])
def test_names_that_no_stage_can_have(chain: Any, refused: Refused, name: str) -> None:
    chain.chain["stages"] = {name: "sft.yaml"}
    assert f"{name!r} is no name for a stage" in refused(chain.load)


def test_several_mistakes_are_told_at_once(chain: Any, refused: Refused) -> None:
    chain.chain["gate"] = {"margn": 1}
    chain.chain["stages"]["pretrain"] = "pretrian.yaml"
    chain.stages["sft"]["hoks"] = []
    chain.stages["dpo"]["reference"] = "grpo"
    lines = refused(chain.load, "sed=1", "stages.grpo.micro_batch=0").splitlines()
    found = "\n".join(lines)
    for part in ("'margn'", "pretrian.yaml", "'hoks'", "'grpo'", "'sed'", "micro_batch"):
        assert part in found
    assert len(lines) == 6
    plans = refused(chain.plan, "sed=1").splitlines()
    assert len(plans) == 5


def test_planning_tells_the_mistakes_of_all_stages(chain: Any) -> None:
    with pytest.raises(CptError) as failed:
        chain.plan(
            "stages.pretrain.train.learning_rat=1",
            "stages.sft.hooks.kl.bta=1",
            "stages.grpo.rewards=[brevty]",
        )
    lines = str(failed.value).splitlines()
    assert len(lines) == 3
    for line, part in zip(lines, ("'learning_rat'", "'bta'", "'brevty'"), strict=True):
        assert part in line


def test_bad_data_and_conflicts_have_exit_code_2(chain: Any) -> None:
    for kind in (RecipeError, PlanError, DataError):
        assert kind("x").exit_code == 2


def test_a_stage_survives_json(chain: Any) -> None:
    stage = chain.load().stages["sft"]
    tree = json.loads(json.dumps(stage.model_dump(mode="json", by_alias=True, exclude_none=True)))
    assert read_recipe.check_stage(tree, stage.file) == stage


def test_the_shipped_recipes_load_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*/chain.yaml"))
    assert recipes
    monkeypatch.chdir(tmp_path)
    for path in recipes:
        assert read_recipe.load(path).name == path.parent.name
        relative = Path(os.path.relpath(path))
        assert read_recipe.load(relative).model == read_recipe.load(path).model
