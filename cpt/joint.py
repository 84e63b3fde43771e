"""Joint training, the other baseline: every stage on labelled text sees all such data from the base model on.

Budget `matched`: the rows of each stage are those, cut and packed as they are, that it would train on in the
chain without hooks; the joint stage trains on the rows of all of them, shuffled together, once. So each
stage's data have the tokens that they have in the chain. The batch is the joint stage's own, in rows: where
all stages have the same `batch_size`, the joint stage has as many optimizer steps as they have in sum, and
otherwise as many as the rows fill. Learning rate and schedule are its own too.

Each stage's rows go through its own `hygiene`, as in the chain: a row that two of them have is there twice.

Preference and RL stages stay as they are, without hooks, on top of the joint stage before them.

Source: `methods.md` D16.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpt.errors import PlanError
from cpt.interfaces import Kind
from cpt.model_spec import ModelChange
from cpt.recipe import StageSpec

if TYPE_CHECKING:
    from cpt.plan import Node

#: What SFTTrainer has for an exact loss; `chunked_nll` only computes it otherwise.
PLAIN_LOSSES = ("nll", "chunked_nll")


@dataclass(frozen=True)
class Joined:
    """A stage whose rows a joint stage trains on, set as in the chain without hooks."""

    name: str
    spec: StageSpec
    seed: int


def joined_so_far(lineage: "Sequence[Node]") -> tuple[Joined, ...]:
    """The stages that the joint stages of a lineage train on, each once, in order."""
    return tuple({each.name: each for node in lineage for each in node.joined}.values())


def join(joined: Sequence[Joined], kind_of: Callable[[str, str], Kind], where: str) -> StageSpec:
    """The settings of the joint stage; the last of `joined` is the stage itself.

    Raises:
        PlanError: what one stage cannot have together.
    """
    last = joined[-1]
    kinds = [kind_of(each.spec.kind, where) for each in joined]
    losses = {each.name: each.spec.train.get("loss_type", PLAIN_LOSSES[0]) for each in joined}
    if len({"nll" if loss in PLAIN_LOSSES else loss for loss in losses.values()}) > 1:
        told = ", ".join(f"{name} {loss}" for name, loss in losses.items())
        raise PlanError(
            f"{where}: baseline joint: train.loss_type differs ({told}), and one stage has one loss; "
            f"write the same in all of them"
        )
    train = dict(last.spec.train)
    steps = [int(each.spec.train.get("max_steps", -1)) for each in joined]
    if len(joined) > 1 and min(steps) > 0:
        rows = sum(
            number * kind.rows_per_step(each.spec)
            for number, kind, each in zip(steps, kinds, joined, strict=True)
        )
        train["max_steps"] = -(-rows // kinds[-1].rows_per_step(last.spec))
    elif len(joined) > 1:
        train.pop("max_steps", None)  # the data decide
    lengths = [int(each.spec.train.get("max_length") or 0) for each in joined]
    if all(lengths):
        train["max_length"] = max(lengths)  # for estimates: the rows are cut already
    changes: dict[str, Any] = {"train": train, "from_": "base", "model": _changes(joined, where)}
    return last.spec.model_copy(update=changes)


def _changes(joined: Sequence[Joined], where: str) -> ModelChange | None:
    """All that the stages add to the tokenizer.

    Raises:
        PlanError: they have different chat templates.
    """
    changes = {each.name: each.spec.model for each in joined if each.spec.model}
    if not changes:
        return None
    tokens = [token for change in changes.values() for token in change.add_tokens]
    templates = {
        name: change.content()["chat_template"]
        for name, change in changes.items()
        if change.chat_template
    }
    if len(set(templates.values())) > 1:
        raise PlanError(
            f"{where}: baseline joint: {' and '.join(templates)} have different chat templates, and all "
            f"rows of a joint stage are written with one; write the template in the chain's model config"
        )
    files = [change.chat_template for change in changes.values() if change.chat_template]
    return ModelChange(
        add_tokens=list(dict.fromkeys(tokens)), chat_template=files[0] if files else None
    )
