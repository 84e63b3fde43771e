"""The seam: the only module that knows `transformers.Trainer`.

`hooked(SFTTrainer)` is a TRL trainer that also adds the hooks' loss terms, lets them edit the gradient after
reduction and before clipping, shows them the weights after each step, and saves their state with each
checkpoint. What it relies on in transformers 5.23 and TRL 1.16 is in the comments.
"""

from collections.abc import Callable, Mapping
from functools import cache
from math import nan
from typing import TYPE_CHECKING, Any, Literal

from cpt.errors import HookError
from cpt.generators import untouched_generators
from cpt.hooks.backbone import BackboneTap, bare_model
from cpt.hooks.norms import EVERY, Norms
from cpt.hooks.stack import HookStack
from cpt.hooks.trainer_checkpoints import Checkpoints
from cpt.positions import predictions
from cpt.shards import view_of
from cpt.spread import check_head, stay_whole
from cpt.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor


class _Hooks(Checkpoints):
    """Mixin before a TRL trainer. `attach` is called once, right after the trainer is built."""

    hooks: HookStack
    loss_mask: "Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor]"
    reduction: Literal["token", "sequence"]

    def attach(
        self: Any,
        hooks: HookStack,
        loss_mask: "Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor]",
        reduction: Literal["token", "sequence"],
        sequences_per_row: int = 1,
    ) -> None:
        """Give the trainer its hooks.

        Args:
            hooks: of the stage.
            loss_mask: (inputs, backbone arguments) -> [B, T], 1 where a position's prediction is in the loss.
            reduction: whether the loss is a mean over tokens, or over sequences of their token means.
            sequences_per_row: 2 where a row is a pair.
        """
        self.hooks, self.loss_mask, self.reduction = hooks, loss_mask, reduction
        self.sequences_per_row = sequences_per_row
        self.tap = BackboneTap(self.model) if hooks.needs_tokens else None
        self.num_loss_tokens = self.num_predictions = 0.0
        self.micro_batch = 0
        self.steps_since_log = 0
        self.norms_since_log: dict[str, float] = {}
        self.stays_whole: Callable[[], None] = lambda: None
        self.is_cut = False
        self.add_callback(_callback()(self))
        if hooks.edits_gradient and self.accelerator.scaler is not None:
            raise HookError(
                "hooks that edit the gradient need bf16 or fp32: an fp16 scaler multiplies the gradient"
            )
        hooks.ctx.autocast = self.accelerator.autocast

    def get_batch_samples(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Count the step's loss tokens over all micro-batches and ranks, for means over the step."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self.micro_batch = 0
        if self.tap is not None:
            # A term's own gradient is a backward pass more, through weights that must be there.
            is_measured = self.hooks.ctx.step % EVERY == 0 and not self.hooks.ctx.world.spreads
            self.hooks.norms = Norms(self.model) if is_measured else None
        if self.tap is not None and self.reduction == "token" and batches:
            import torch

            counts = [
                (float(self.loss_mask(batch, batch).sum()), float(predictions(batch).sum()))
                for batch in batches
            ]
            total = torch.tensor(counts, dtype=torch.float64, device=self.accelerator.device).sum(0)
            self.num_loss_tokens, self.num_predictions = self.hooks.ctx.world.sum_(total).tolist()
        return batches, num_items

    def compute_loss(
        self: Any,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The trainer's loss plus the hooks' terms, each counted once per optimizer step."""
        if self.tap is None or not self.model.training:
            return super().compute_loss(  # type: ignore[misc]
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        before = dict(inputs) if isinstance(inputs, dict) else inputs  # SFT edits its inputs
        self.tap.clear()
        result = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        task = result[0] if isinstance(result, tuple) else result
        self.hooks.task = self.hooks.task + task.detach()
        forward, hidden = self.tap.take()
        weight = self._weights(self.loss_mask(before, forward).to(hidden.device))
        tokens = Tokens(
            weight, forward, hidden, self._part(), self.num_loss_tokens, self.num_predictions
        )
        with self.accelerator.autocast():  # as the trainer's own forward
            term = self.hooks.penalty(bare_model(self.model), tokens)
        if term is None:
            return result
        # The weights sum to 1 over the step: undo DDP's mean over ranks, and the Trainer's division by the
        # accumulation steps where it divides (trainer.py, training_step).
        term = term * self.hooks.ctx.world.size
        if not self._is_scaled(num_items_in_batch):
            term = term * self.current_gradient_accumulation_steps
        if isinstance(result, tuple):
            return (result[0] + term, *result[1:])
        return result + term

    def _part(self: Any) -> tuple[int, int]:
        """Which micro-batch of the optimizer step this is, over all ranks, and of how many."""
        world, number = self.hooks.ctx.world, self.current_gradient_accumulation_steps
        self.micro_batch += 1
        return world.rank * number + self.micro_batch - 1, world.size * number

    def _weights(self: Any, mask: "Tensor") -> "Tensor":
        """[B, T] mask -> weights that sum to 1 over the optimizer step."""
        if self.reduction == "token":
            weights: Tensor = mask / max(self.num_loss_tokens, 1.0)
            return weights
        rows = (
            self.args.per_device_train_batch_size
            * self.args.gradient_accumulation_steps
            * self.hooks.ctx.world.size
            * self.sequences_per_row
        )
        weights = mask / mask.sum(-1, keepdim=True).clamp(min=1) / rows
        return weights

    def _is_scaled(self: Any, num_items: Any) -> bool:
        """Whether the Trainer leaves the loss undivided: DPO False, GRPO True, SFT by its token count."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        return (
            self.model_accepts_loss_kwargs and num_items is not None
        ) or self.compute_loss_func is not None

    def _prepare_for_training(self: Any, *args: Any, **kwargs: Any) -> Any:
        """DeepSpeed takes its step within `accelerator.backward`: hooks edit the gradient right before it."""
        runs_parts = self.tap is not None or self.hooks.edits_gradient
        if runs_parts and self.hooks.ctx.world.spreads:
            check_head(self.model, self.hooks.ctx.stage)
            if self.is_deepspeed_enabled:
                # Hooks run parts of the model in an order of their own. What DeepSpeed sent for too early, it
                # would neither wait for nor fetch again.
                zero = self.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
                zero["stage3_prefetch_bucket_size"] = 0
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[misc]
        if self.is_deepspeed_enabled:
            engine = self.accelerator.deepspeed_engine_wrapped.engine
            step = engine.step

            def edited(*given: Any, **named: Any) -> Any:
                self._edit()
                return step(*given, **named)

            engine.step = edited
        if self.is_fsdp_enabled and runs_parts:
            self.stays_whole = stay_whole(self.model)
        self._cut()
        return prepared

    def _cut(self: Any) -> None:
        """Leave hooks their parts of what they hold per weight: once, and before they are brought back."""
        if self._shards and not self.is_cut:
            self.hooks.cut(view_of(self, self.hooks.ctx.world))
            self.is_cut = True

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        """After backward and reduction, before clipping: `on_pre_optimizer_step` would come after it."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.accelerator.sync_gradients and not self.is_deepspeed_enabled:
            self._edit()
        return loss

    def _edit(self: Any) -> None:
        """Let hooks edit the reduced gradient."""
        import torch

        hooks = self.hooks
        self.stays_whole()
        rates = {float(group["lr"]) for group in self.optimizer.param_groups}
        hooks.ctx.learning_rate = rates.pop() if len(rates) == 1 else nan
        with torch.no_grad():
            if hooks.norms is not None:
                norms = hooks.norms.take(hooks.ctx.world)
                self.norms_since_log |= {key: float(norm) for key, norm in norms.items()}
            if hooks.edits_gradient:
                view = view_of(self, hooks.ctx.world)
                view.fetch()
                hooks.edit_gradient(view)
                view.push()
        self.stays_whole()

    @property
    def _shards(self: Any) -> bool:
        """Whether no process holds the whole gradient."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """How often held-out loss is measured changes neither dropout nor sampling."""
        with untouched_generators():
            return super().evaluate(*args, **kwargs)  # type: ignore[misc]

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the mean of each hook's term over the steps since the last log."""
        if "loss" in logs and self.steps_since_log:
            import torch

            terms = self.hooks.take_terms()
            for name in sorted(terms):
                total = torch.tensor(
                    terms[name], dtype=torch.float64, device=self.accelerator.device
                )
                logs[name] = float(self.hooks.ctx.world.sum_(total)) / self.steps_since_log
            self.steps_since_log = 0
            for key, norm in sorted(self.norms_since_log.items()):
                logs[f"hook/{key}/grad_norm"] = norm
            self.norms_since_log = {}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


@cache
def _callback() -> type:
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):
        """Counts steps and shows hooks the weights; runs before the step's checkpoint is written."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """After `optimizer.step()`."""
            import torch

            trainer = self.trainer
            trainer.hooks.ctx.step = state.global_step
            trainer.steps_since_log += 1
            with torch.no_grad():
                if trainer.hooks.at("track"):
                    trainer.hooks.track(view_of(trainer, trainer.hooks.ctx.world))

    return Tracker


@cache
def hooked(trainer: type) -> type:
    """A TRL trainer class with the seam in front of it."""
    return type(
        f"Hooked{trainer.__name__}",
        (_Hooks, trainer),
        {"_tag_names": getattr(trainer, "_tag_names", [])},
    )
