"""What a suite's YAML may hold, and what the words in it mean; `eval.suite` reads one."""

from typing import Literal

from pydantic import Field

from cpt.settings import Settings
from eval.view import ViewSpec

Facet = Literal["can", "will", "how"]
#: `none`: neither is better; a change either way is drift, and no gate acts on it unless the probe has
#: a `margin` of its own, which then holds both ways.
Direction = Literal["higher", "lower", "none"]

#: Group -> the question of CapTrack that its probes ask: *can* the model do it, *will* it (does it
#: comply, how much does it say), and *how* (as it was asked to). None where a group has probes of
#: several kinds: such a probe says its `facet` itself, or has none.
#: Source: methods card P045.
FACETS: dict[str, Facet | None] = {
    "domain": None,
    "knowledge": "can",
    "reasoning": "can",
    "language": "can",
    "instruction": "how",
    "code": "can",
    "safety": None,
}
GROUPS = tuple(FACETS)


class ProbeSpec(Settings):
    """One entry of `probes:`."""

    task: str | None = Field(
        None, min_length=1, description="an lm-eval task; the probe's name without it"
    )
    group: str = Field(description=f"one of {', '.join(GROUPS)}")
    facet: Facet | None = Field(
        None,
        description="what it asks: can the model, will it, and how; by the group where that is plain",
    )
    metric: str | None = Field(
        None, min_length=1, description="of the task's metrics, with `,filter` if need be"
    )
    direction: Direction | None = Field(
        None, description="which is better; what the task says without it"
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="fall that is tolerated, in the metric's unit; the gate's without it",
    )
    shots: int | None = Field(
        None, ge=0, description="few-shot examples; the task's own without it"
    )
    chat: bool = Field(False, description="put the prompt into the model's chat template")
    limit: int | None = Field(None, ge=1, description="the first so many items")
    dev: float | None = Field(
        None, ge=0, lt=1, description="share of items for choosing; the suite's without it"
    )
    cluster: str | None = Field(
        None,
        min_length=1,
        description="field of a document whose value groups items that go together",
    )
    owner: str | None = Field(
        None,
        min_length=1,
        description="the stage that teaches this: for backward and forward transfer",
    )
    data: ViewSpec | None = Field(None, description="a view of a corpus builder, for a local task")


class SuiteSpec(Settings):
    """What `configs/probes/<suite>.yaml` may hold."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    include: str | list[str] | None = Field(
        None, description="folders of lm-eval task YAMLs, relative to this file; the later one wins"
    )
    batch_size: int = Field(
        16, ge=1, description="rows of a batch, with backend: hf; vLLM fills its own"
    )
    max_length: int | None = Field(None, ge=2, description="tokens of a prompt and its answer")
    backend: Literal["hf", "vllm"] = Field("hf", description="what runs the model")
    tensor_parallel: int | None = Field(
        None,
        ge=1,
        description="GPUs that hold one copy of the model, with backend: vllm; unless said, as many of "
        "those that are visible as divide its attention heads",
    )
    dev: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of items on which models are chosen; the others are reported",
    )
    probes: dict[str, ProbeSpec] = Field(min_length=1)
