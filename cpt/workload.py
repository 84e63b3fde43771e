"""What a stage puts through a model, in numbers; `stages.workload` reads them from its settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """What a stage puts through the model.

    Attributes:
        sequences: of one backward pass in one process.
        length: tokens of the longest sequence that settings allow, as far as they say.
        is_whole: false where settings do not say it all: the prompts before completions come on top.
        per_step: sequences of one optimizer step over all processes.
        steps: optimizer steps; None where the data decides.
        half: whether it computes in 16 bits.
        checkpointing: whether activations are computed again in the backward pass.
        optimizer: by TRL's name.
        checkpoints: of the trainer, most that stay on the way; 0 where it leaves none.
        on_cpu: whether the machine has no accelerator to train on.
        sampled: completions that one process samples at once; 0 for what does not sample.
    """

    sequences: int
    length: int
    is_whole: bool
    per_step: int
    steps: int | None
    half: bool
    checkpointing: bool
    optimizer: str
    checkpoints: int
    on_cpu: bool
    sampled: int = 0

    @property
    def tokens(self) -> int | None:
        """steps * batch * length: every sequence counts as a full one."""
        return None if self.steps is None else self.steps * self.per_step * self.length
