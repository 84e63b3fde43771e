"""What a recipe names and the machine lacks is known without importing it, and said with its remedy."""

from pathlib import Path
from typing import Any

import pytest

from cpt.errors import PlanError, RecipeError
from launch import installed
from launch.installed import ATTENTION, OPTIMIZERS, TRACKERS, is_installed, missing
from launch.opening import Chain, open_chain

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke" / "chain.yaml"


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is optional is there, wherever the tests run."""
    monkeypatch.setattr(installed, "is_installed", lambda package: package == "wandb")


def chain(tmp_path: Path, *changes: str) -> Chain:
    return open_chain(SMOKE, changes, tmp_path / "runs")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("trackers=[mlflow]", "smoke/chain.yaml: trackers: mlflow needs mlflow, "),
        ("trackers=[tensorboard]", "trackers: tensorboard needs tensorboard or tensorboardX, "),
        (
            "model.attention=flash_attention_2",
            "chain.yaml: model.attention: flash_attention_2 needs flash-attn or kernels, ",
        ),
        ("model.attention=kernels-community/flash-attn2", "needs kernels, "),
        (
            "stages.dpo.train.optim=paged_adamw_8bit",
            "train.optim: paged_adamw_8bit needs bitsandbytes, which is not installed "
            "here; run: make install",
        ),
        ("stages.grpo.train.use_vllm=true", "train: use_vllm needs vllm, "),
        (
            "stages.sft.hooks=[{lora: {quantise: nf4}}]",
            "hooks.lora.quantise: nf4 needs bitsandbytes, which is not installed here; run: ",
        ),
        ("stages.dpo.train.optim=stable_adamw", "run: pip install torch-optimi"),
    ],
)
def test_one_sentence_says_where_what_and_how(tmp_path: Path, change: str, sentence: str) -> None:
    (said,) = missing(chain(tmp_path, change).plan)
    assert sentence in said


def test_what_is_there_or_needs_nothing_is_fine(tmp_path: Path) -> None:
    plan = chain(tmp_path, "trackers=[wandb]", "model.attention=sdpa").plan
    assert missing(plan) == []


def test_what_is_finished_needs_nothing_more(tmp_path: Path) -> None:
    plan = chain(tmp_path, "stages.sft.train.optim=lomo", "trackers=[mlflow]").plan
    assert len(missing(plan)) == 2
    assert len(missing(plan, lambda node: node.name == "sft")) == 1
    assert missing(plan, lambda node: True) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trackers=[wandbb]", "trackers: there is no 'wandbb'; did you mean 'wandb'?"),
        ("model.attention=spda", "model.attention: there is no 'spda'; did you mean 'sdpa'?"),
        ("stages.sft.train.optim=adamw", "train.optim: has no choice 'adamw'"),
    ],
)
def test_a_name_that_nothing_answers_to_is_bad_input(
    tmp_path: Path, change: str, words: str
) -> None:
    with pytest.raises(RecipeError, match=words.replace("?", r"\?")):
        missing(chain(tmp_path, change).plan, lambda node: True)


def test_refusing_is_a_plan_error() -> None:
    installed.refuse_missing([])
    with pytest.raises(PlanError, match="a\nb"):
        installed.refuse_missing(["a", "b"])


def test_a_package_is_looked_for_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the name of its module, or its own where packages share a module."""
    for name in ("galore_torch", "optimi"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError")
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn_4-4.0.dist-info").mkdir()
    (tmp_path / "flash_attn_4-4.0.dist-info" / "METADATA").write_text("Name: flash-attn-4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_installed("galore-torch")
    assert is_installed("torch-optimi")
    assert is_installed("flash-attn-4")
    assert not is_installed("flash-attn-3")
    assert not is_installed("no-such-package")


def test_the_names_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.modeling_utils import AttentionInterface
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) == {str(name.value) for name in OptimizerNames}
    assert set(TRACKERS) == {*INTEGRATION_TO_CALLBACK, "all", "none"}
    known: Any = AttentionInterface._global_mapping
    assert set(ATTENTION) == {name for name in known if "paged" not in name} | {"eager"}


def test_a_stage_by_hand_is_asked_the_same(tmp_path: Path) -> None:
    from launch.by_hand import job_by_hand

    given = [str(SMOKE.parent / "sft.yaml"), f"parent={tmp_path}", f"output={tmp_path / 'sft'}"]
    with pytest.raises(PlanError) as failed:
        job_by_hand([*given, "train.optim=lomo", "attention=flash_attention_3"])
    assert "train.optim: lomo needs lomo-optim" in str(failed.value)
    assert "attention: flash_attention_3 needs flash-attn-3 or kernels" in str(failed.value)
