"""Tiny stages for tests: data, a past of three stages on disk, and jobs that train in a second."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt.read_recipe import check_stage
from stages.base import Job

# Plain gradient descent: the weights then differ by as little as the gradients do, where Adam's first steps
# make a whole step of a rounding error.
TRAIN: dict[str, dict[str, Any]] = {
    "pretrain": {"max_length": 64},
    "sft": {"max_length": 96},
    "dpo": {"max_length": 96},
    "grpo": {
        "num_generations": 4,
        "max_completion_length": 6,
        "beta": 0.1,
        "temperature": 1.0,
    },
}
DATA = {"pretrain": "texts", "sft": "chats", "dpo": "pairs", "grpo": "prompts"}


@dataclass(frozen=True)
class Trained:
    """What a stage left."""

    job: Job
    model: Any
    weights: dict[str, Any]
    log: list[dict[str, float]]

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.job.output / "manifest.json").read_text()))


@dataclass
class TinyStages:
    """A folder with data and stages; `base -> pretrain -> sft` is a past of three."""

    root: Path
    base_model: Path
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        _write_data(self.root)
        self.base = self._make_base()
        self.pretrain = self.train(self.job("pretrain", parent=self.base, learning_rate=1.0)).job
        # Its path is measured, which changes nothing of how it is trained.
        measured = self.job("sft", {"si": {}}, parent=self.pretrain.output, learning_rate=1.0)
        self.sft = self.train(measured).job

    def data(self, name: str) -> dict[str, Any]:
        """A data config."""
        return {"path": str(self.root / f"{name}.jsonl")}

    def job(
        self,
        kind: str,
        hooks: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        parent: Path | None = None,
        reference: Path | None = None,
        micro_batch: int | None = None,
        checkpoint_every: int | None = None,
        num_processes: int = 1,
        backend: str = "ddp",
        seed: int = 5,
        data: dict[str, Any] | None = None,
        **train: Any,
    ) -> Job:
        """A stage of 4 steps of 8 sequences on top of `parent`, which is the sft stage unless said."""
        parent = parent or self.sft.output
        self.made += 1
        settings = {"max_steps": 4, "batch_size": 8, "learning_rate": 0.5, "optim": "sgd"}
        if isinstance(hooks, Mapping):
            hooks = [{name: of} for name, of in hooks.items()]
        tree: dict[str, Any] = {
            "kind": kind,
            "data": data or self.data(DATA[kind]),
            "train": settings | TRAIN[kind] | train,
            "hooks": list(hooks or []),
            "micro_batch": micro_batch,
        }
        if kind == "grpo":
            tree["rewards"] = ["tiny_rewards:low_bytes"]
        output = self.root / "stages" / f"{kind}-{self.made}"
        roles = {"reference": str(reference or parent)} if kind in ("dpo", "grpo") else {}
        return Job(
            name=kind,
            id=output.name,
            spec=check_stage(tree, str(self.root / f"{kind}.yaml")),
            seed=seed,
            parent=str(parent),
            roles=roles,
            output=output,
            inputs={},
            parents={"parent": parent.name},
            backend="single" if num_processes == 1 else backend,
            num_processes=num_processes,
            checkpoint_every=checkpoint_every,
        )

    def train(self, job: Job, interrupt_at: int | None = None) -> Trained:
        """Run a stage here, in one process.

        Args:
            job: the stage.
            interrupt_at: stop it with `Interrupted` at the end of this step.
        """
        from stages.run import run

        def say(sentence: str) -> None:
            if interrupt_at is not None and f": step {interrupt_at}/" in sentence:
                raise Interrupted

        found = run(job, say)
        assert found is not None  # one process keeps the whole model
        return read(job, found[0])

    def _make_base(self) -> Path:
        from cpt.manifest import Manifest

        folder = self.root / "stages" / "base-0"
        shutil.copytree(self.base_model, folder / "checkpoint")
        Manifest(id="base-0", kind="base", name="base").write(folder)
        return folder


class Interrupted(Exception):  # noqa: N818 - no error
    """What stands in for `kill -9`."""


def read(job: Job, model: Any = None) -> Trained:
    """What a finished stage left on disk."""
    log = (job.output / "metrics.jsonl").read_text().splitlines()
    return Trained(job, model, weights_of(job.output / "checkpoint"), [*map(json.loads, log)])


def weights_of(folder: Path) -> dict[str, Any]:
    """All tensors of a checkpoint folder, by name."""
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    assert one.keys() == other.keys()
    return all(one[name].equal(other[name]) for name in one)


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference between two sets of weights, relative to the largest weight of its tensor."""
    assert one.keys() == other.keys()
    return max(
        float((one[name].double() - other[name].double()).abs().max() / other[name].abs().max())
        for name in one
    )


def log_probabilities(folder: Path, ids: list[int]) -> Any:
    """[T, V] of one sequence, in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float64)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return logits.log_softmax(-1)


def first_rows(stages: TinyStages, job: Job) -> list[dict[str, Any]]:
    """The rows of the first step, as the stage encodes them, before its hooks."""
    from cpt.checkpoint import load_tokenizer
    from cpt.hooks.context import StageContext
    from cpt.hooks.stack import HookStack
    from cpt.world import World
    from stages import kind_of
    from stages.material import supply

    kind = kind_of(job.spec.kind, "")
    ctx = StageContext(job.name, kind.name, kind.formats, job.seed, World(), "")
    tokenizer = load_tokenizer(str(stages.sft.output / "checkpoint"))
    with tempfile.TemporaryDirectory() as folder:
        rows = supply(kind, job.spec, job.seed, HookStack([], ctx), tokenizer, Path(folder)).train
        return [rows[number] for number in range(kind.rows_per_step(job.spec))]


# A reward that varies between completions of an untrained model.
REWARD = """def low_bytes(completions, **columns):
    texts = [completion[0]["content"] for completion in completions]
    return [sum(ord(letter) < 110 for letter in text) / 6 for text in texts]
"""


def _write_data(root: Path) -> None:
    (root / "tiny_rewards.py").write_text(REWARD)

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def turns(question: str, answer: str | None = None) -> list[dict[str, str]]:
        asked = [{"role": "user", "content": question}]
        return asked + ([{"role": "assistant", "content": answer}] if answer else [])

    numbers = range(24)
    write("texts", [{"text": f"{n} and {n + 1} make {2 * n + 1}. " * (1 + n % 4)} for n in numbers])
    write("general", [{"text": f"The sea is {'very ' * (n % 5)}blue ({n})."} for n in numbers])
    # Answers of many lengths: a mean of means would not be the mean.
    write("chats", [{"messages": turns(f"{n}+1?", f"{n + 1}" + "!" * (n % 7))} for n in numbers])
    write("talks", [{"messages": turns(f"Hi {n}", f"Hello{'o' * (n % 5)} {n}")} for n in numbers])
    write(
        "pairs",
        [
            {
                "prompt": turns(f"{n}+2?"),
                "chosen": turns("", f"{n + 2}")[1:],
                "rejected": turns("", f"no idea{'.' * (n % 5)}")[1:],
            }
            for n in numbers
        ],
    )
    write(
        "duels",
        [
            {
                "prompt": turns(f"Name {n}"),
                "chosen": turns("", f"N{n}")[1:],
                "rejected": turns("", "N" * (1 + n % 6))[1:],
            }
            for n in numbers
        ],
    )
    write("prompts", [{"prompt": turns(f"{n}+{n}?"), "answer": str(2 * n)} for n in numbers])
