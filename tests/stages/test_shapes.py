"""Models of other shapes are refused when the stage begins, not when it ends."""

from dataclasses import replace
from typing import Any

import pytest

from cpt.errors import EdgeError
from cpt.model_spec import ModelChange
from stages.base import Job
from tests.tiny_stages import TinyStages


def growing(job: Job) -> Job:
    """The same stage with a token more."""
    change = ModelChange(add_tokens=["<tool>"])
    return replace(job, spec=job.spec.model_copy(update={"model": change}))


@pytest.mark.parametrize(
    ("kind", "hooks", "name"),
    [
        ("sft", {"kl": {}}, "hooks.kl"),
        ("sft", {"interpolate": {"of": "base"}}, "hooks.interpolate"),
        ("sft", {"interpolate": {}, "lora": {"rank": 2}}, "hooks.interpolate"),
        ("sft", {"kl": {"of": "base"}, "lora": {"rank": 2}}, "hooks.kl"),
        ("dpo", None, "reference"),
    ],
)
def test_a_stage_that_grows_past_what_it_compares_itself_with_is_refused(
    kind: str, hooks: Any, name: str, stages: TinyStages
) -> None:
    said: list[str] = []
    from stages.run import run

    job = growing(stages.job(kind, hooks))
    with pytest.raises(EdgeError) as failed:
        run(job, said.append)
    assert str(failed.value).startswith(f"{kind}: {name}: ")
    assert "has 259 embeddings and this stage 260; add the tokens in the chain's" in str(
        failed.value
    )
    assert not any(": step " in line for line in said)


@pytest.mark.parametrize("hooks", [{"kl": {}, "lora": {"rank": 2}}, {"interpolate": {"alpha": 1}}])
def test_what_has_the_stages_own_embeddings_is_no_other_model(
    hooks: Any, stages: TinyStages
) -> None:
    trained = stages.train(growing(stages.job("sft", hooks, max_steps=1)))
    assert len(trained.weights["model.embed_tokens.weight"]) == 260


def test_a_stage_behind_the_growth_compares_itself(stages: TinyStages) -> None:
    grown = stages.train(growing(stages.job("sft", max_steps=1))).job
    hooks: Any = {"kl": {}, "interpolate": {}}
    stages.train(stages.job("sft", hooks, parent=grown.output, max_steps=1))
    job = stages.job("sft", {"kl": {"of": "pretrain"}}, parent=grown.output, max_steps=1)
    with pytest.raises(EdgeError, match=r"hooks\.kl: .*pretrain-1/checkpoint has 259 embeddings"):
        stages.train(job)
