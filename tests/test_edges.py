"""Where one checkpoint meets the next: tokenizer, template, vocabulary, reference, and a stage by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def by_hand(processes: Any, stage: str, *arguments: str, code: str = "") -> Any:
    """`python -m launch.stage`, in a process of its own."""
    return processes.run(SMOKE / f"{stage}.yaml", *arguments, code=code, module="launch.stage")


def accept(stage: Path) -> None:
    """Write a manifest that agrees with changed files: what a person leaves who edits a checkpoint."""
    from cpt.checkpoint import digests

    entry = manifest(stage)
    entry["files"] = digests(stage / "checkpoint")
    (stage / "manifest.json").write_text(json.dumps(entry))


def assert_refused(ended: Any, code: int, *words: str) -> None:
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output, ended.output
    for word in words:
        assert word in ended.output, ended.output


class TestTokenizers:
    def test_a_changed_template_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        stage = runs / "stages" / finished.ids["pretrain"]
        with (stage / "checkpoint" / "chat_template.jinja").open("a") as file:
            file.write("{{ 'bye' }}")
        assert_refused(processes.smoke(runs), 1, "chat_template.jinja", "damaged")
        accept(stage)
        ended = processes.smoke(runs)
        assert_refused(ended, 1, "sft: the tokenizer in", "pretrain", "chat_template")

    def test_another_tokenizer_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        """Same size, two words swapped: nothing but the check would notice."""
        runs = finished.copy(tmp_path / "runs", until="pretrain")
        stage = runs / "stages" / finished.ids["pretrain"]
        file = stage / "checkpoint" / "tokenizer.json"
        tree = json.loads(file.read_text())
        words = tree["model"]["vocab"]
        one, other = list(words)[300:302]
        words[one], words[other] = words[other], words[one]
        file.write_text(json.dumps(tree))
        accept(stage)
        assert_refused(processes.smoke(runs), 1, "is not the one that pretrain was trained with")

    def test_a_reference_with_another_tokenizer_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(finished.stage("sft") / "checkpoint", other)
        (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        ended = by_hand(
            processes,
            "dpo",
            f"parent={finished.stage('sft')}",
            f"reference={other}",
            f"output={tmp_path / 'dpo'}",
            "hooks=[]",
        )
        assert_refused(ended, 1, "reference other", "chat template: it differs")

    def test_more_tokens_than_embeddings_are_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(finished.stage("pretrain") / "checkpoint", bare)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(bare)
        tokenizer.add_tokens(["<|new|>"])
        tokenizer.save_pretrained(bare)
        ended = by_hand(
            processes, "sft", f"parent={bare}", f"output={tmp_path / 'sft'}", "hooks=[]"
        )
        assert_refused(ended, 1, "1025 tokens", "1024 embeddings", "add_tokens")

    def test_a_tokenizer_without_a_template_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(finished.stage("pretrain") / "checkpoint", bare)
        (bare / "chat_template.jinja").unlink()
        ended = by_hand(
            processes, "sft", f"parent={bare}", f"output={tmp_path / 'sft'}", "hooks=[]"
        )
        assert ended.code in (1, 2), ended.output
        assert_refused(ended, ended.code, "chat template", "chat_template")

    def test_declared_tokens_resize_the_embeddings(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        runs = finished.copy(tmp_path / "runs", until="pretrain")
        change = 'stages.sft.model={add_tokens: ["<|tool|>", "<|result|>"]}'
        ended = processes.smoke(runs, change, "--until", "dpo")
        assert_refused(ended, 2, "hooks.kl: pretrain and this stage differ in '<|tool|>'")
        replay = "stages.sft.hooks=[{replay: {of: pretrain, share: 0.2}}]"
        ended = processes.smoke(runs, change, replay, "--until", "dpo")
        assert ended.code == 0, ended.output
        (sft,) = (file.parent for file in (runs / "stages").glob("sft-*/manifest.json"))
        (dpo,) = (runs / "stages").glob("dpo-*")
        assert sft.name != finished.ids["sft"]
        for stage in (sft, dpo):
            tokenizer = AutoTokenizer.from_pretrained(stage / "checkpoint")
            model = AutoModelForCausalLM.from_pretrained(stage / "checkpoint")
            assert len(tokenizer) == 1026
            assert tokenizer.convert_tokens_to_ids("<|result|>") == 1025
            assert model.get_input_embeddings().weight.shape[0] == 1026
            assert model.config.vocab_size == 1026
        assert manifest(dpo)["checks"]["kl_to_reference_at_start"] == 0


class TestReferences:
    @pytest.mark.parametrize("stage", ["dpo", "grpo"])
    def test_another_reference_than_the_declared_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path, stage: str
    ) -> None:
        """The trainer is made to load the base instead; without the check nothing would be seen."""
        runs = finished.copy(tmp_path / "runs", until={"dpo": "sft", "grpo": "dpo"}[stage])
        base = finished.stage("base") / "checkpoint"
        code = f"""
from dataclasses import replace
import stages.training
Material = stages.training.Material
stages.training.Material = lambda *given: replace(Material(*given), reference={str(base)!r})
"""
        changes = ["stages.dpo.hooks=[]"] if stage == "dpo" else []
        ended = processes.smoke(runs, *changes, "--until", stage, code=code)
        assert_refused(ended, 1, f"{stage}: reference")
        assert not list((runs / "stages").glob(f"{stage}-*/manifest.json"))


class TestByHand:
    @pytest.mark.parametrize(
        ("stage", "parent"),
        [("pretrain", "base"), ("sft", "pretrain"), ("dpo", "sft"), ("grpo", "dpo")],
    )
    def test_it_gives_what_the_chain_gives(
        self, finished: Any, processes: Any, tmp_path: Path, stage: str, parent: str
    ) -> None:
        """Same id, same past, same weights; grpo's declared reference is found in the past."""
        output = tmp_path / "out" / stage
        ended = by_hand(processes, stage, f"parent={finished.stage(parent)}", f"output={output}")
        assert ended.code == 0, ended.output
        weights = "checkpoint/model.safetensors"
        assert (output / weights).read_bytes() == (finished.stage(stage) / weights).read_bytes()
        own, chained = manifest(output), manifest(finished.stage(stage))
        assert own["id"] == chained["id"]
        assert own["inputs"] == chained["inputs"]
        assert own["parents"] == chained["parents"]
        for one, other in zip(own["past"], chained["past"], strict=True):
            assert (one["name"], one["id"]) == (other["name"], other["id"])
            assert (output / one["folder"]).resolve() == finished.stage(one["name"]).resolve()
        left = {path.name for path in tmp_path.iterdir()} | {
            p.name for p in output.parent.iterdir()
        }
        assert {name for name in left if not name.startswith(".")} == {"out", stage}

    def test_the_same_command_again_does_nothing(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        arguments = [f"parent={finished.stage('pretrain')}", f"output={tmp_path / 'sft'}"]
        assert by_hand(processes, "sft", *arguments).code == 0
        ended = by_hand(processes, "sft", *arguments)
        assert ended.code == 0
        assert "step" not in ended.output
        ended = by_hand(processes, "sft", *arguments, "train.learning_rate=2e-3")
        assert_refused(ended, 2, "output=", finished.ids["sft"], "name a new folder")

    def test_other_files_in_the_output_are_safe(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft" / "thesis.tex").write_text("ten years")
        ended = by_hand(
            processes, "sft", f"parent={finished.stage('pretrain')}", f"output={tmp_path / 'sft'}"
        )
        assert_refused(ended, 2, "holds other files")
        assert (tmp_path / "sft" / "thesis.tex").read_text() == "ten years"

    def test_what_another_stage_left_is_not_continued(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        """By hand, folders are named by a person and not by content."""
        code = "import os, stages.run as r; r.merge = lambda *a: os._exit(9)"
        arguments = [
            f"parent={finished.stage('pretrain')}",
            f"output={tmp_path / 'sft'}",
            "checkpoint_every=2",
        ]
        assert by_hand(processes, "sft", *arguments, code=code).code == 9
        ended = by_hand(processes, "sft", *arguments, "train.learning_rate=2e-3")
        assert_refused(ended, 1, "sft.partial", "remove it, or name another output")
        assert by_hand(processes, "sft", *arguments).code == 0

    def test_replay_of_a_stage_that_a_bare_checkpoint_has_not_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(finished.stage("pretrain") / "checkpoint", bare)
        ended = by_hand(processes, "sft", f"parent={bare}", f"output={tmp_path / 'sft'}")
        assert_refused(ended, 2, "of: 'pretrain' is no stage before this one")

    def test_a_bare_checkpoint_is_a_parent(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(finished.stage("pretrain") / "checkpoint", bare)
        ended = by_hand(
            processes,
            "sft",
            f"parent={bare}",
            f"output={tmp_path / 'sft'}",
            "hooks=[{kl: {beta: 0.1}}]",
        )
        assert ended.code == 0, ended.output
        assert manifest(tmp_path / "sft")["hooks"][0]["name"] == "kl"

    def test_a_reference_that_is_not_in_the_past_is_refused(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        ended = by_hand(
            processes, "grpo", f"parent={finished.stage('base')}", f"output={tmp_path / 'grpo'}"
        )
        assert_refused(ended, 2, "'sft' is not in the parent's past", "reference=<folder>")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["output={tmp}/sft"], ["parent is missing"]),
            (["parent={tmp}/nowhere", "output={tmp}/sft"], ["no such folder"]),
            (["parent={tmp}", "output={tmp}/sft", "trian.learning_rate=1"], ["train"]),
            (["parent={tmp}", "output={tmp}/sft", "train.learning_rat=1"], ["learning_rate"]),
        ],
    )
    def test_wrong_arguments_are_named(
        self, processes: Any, tmp_path: Path, arguments: list[str], words: list[str]
    ) -> None:
        given = [argument.format(tmp=tmp_path) for argument in arguments]
        assert_refused(by_hand(processes, "sft", *given), 2, *words)

    def test_an_empty_folder_is_no_parent(self, processes: Any, tmp_path: Path) -> None:
        ended = by_hand(
            processes, "sft", f"parent={tmp_path}", f"output={tmp_path / 'sft'}", "hooks=[]"
        )
        assert_refused(ended, 1, str(tmp_path))
