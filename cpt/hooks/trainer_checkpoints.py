"""What a trainer with hooks leaves in its checkpoints, and reads from them.

transformers writes its own part in place; ours is the state of the hooks and a mark that comes last.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.params import bare_name
from cpt.shards import view_of
from cpt.store import KEPT_CHECKPOINTS, MARK, complete_checkpoints, mark_complete

if TYPE_CHECKING:
    from torch import Tensor

_STATE = "hooks.safetensors"


class Checkpoints:
    """Mixin of `cpt.hooks.trainer` before a TRL trainer.

    Attributes:
        num_kept: most checkpoints that stay while it trains.
    """

    num_kept = KEPT_CHECKPOINTS

    def _save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
        """transformers writes in place; our mark comes last, and only then older checkpoints go."""
        from safetensors.torch import save_file

        super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        world = self.hooks.ctx.world
        world.barrier()
        # What hooks hold of shards belongs to this process; a stage continues on as many as it began with.
        own = folder / (f"hooks-{world.rank}.safetensors" if self._shards else _STATE)
        state = {
            name: value.detach().cpu().contiguous()
            for name, value in self.hooks.state_dict().items()
        }
        if self._shards or (state and world.is_main):
            save_file(state, str(own))
        world.barrier()
        if world.is_main:
            header = {
                "hooks": [key for key, _ in self.hooks.hooks],
                "world": world.size,
                "tensors": sorted(state),
            }
            (folder / "hooks.json").write_text(json.dumps(header))
            mark_complete(folder)
            for _, old in complete_checkpoints(folder.parent)[: -self.num_kept]:
                (old / MARK).unlink()
                shutil.rmtree(old)
        world.barrier()

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        """Runs after `accelerator.prepare`, on every backend, where there is a checkpoint."""
        if checkpoint is not None and self.is_fsdp_enabled and _has_no_state(self.optimizer):
            _load_rates(self, Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        world = self.hooks.ctx.world
        self._cut()
        if checkpoint is None:
            return
        from safetensors.torch import load_file

        own = f"hooks-{world.rank}.safetensors" if self._shards else _STATE
        header = json.loads((Path(checkpoint) / "hooks.json").read_text())
        if header["tensors"]:
            self.hooks.load_state_dict(load_file(Path(checkpoint) / own))
        self.hooks.ctx.step = self.state.global_step

    def trained_weights(self: Any) -> "Iterator[tuple[str, Tensor]]":
        """(full name, weights) of what was trained, whole, one after the other; all processes must ask.

        Hooks hold whole tensors again from here on.
        """
        view = view_of(self, self.hooks.ctx.world)
        self.hooks.gather(view)
        parts = {name: weights for name, weights, _ in view.shards()}
        for name, parameter in view.model.named_parameters():
            if parameter.requires_grad:
                bare = bare_name(name)
                yield name, view.whole(bare, parts.get(bare)).detach()


def _has_no_state(optimizer: Any) -> bool:
    """Whether an optimizer remembers nothing per weight: plain gradient descent."""
    from torch.optim import SGD

    bare = getattr(optimizer, "optimizer", optimizer)
    return isinstance(bare, SGD) and not any(group["momentum"] for group in bare.param_groups)


def _load_rates(trainer: Any, checkpoint: Path) -> None:
    """Continue the schedule; torch 2.13 stops where an optimizer's whole state has no tensor to spread."""
    import torch

    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    trainer.lr_scheduler.load_state_dict(state)
    rates = trainer.lr_scheduler.get_last_lr()
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
