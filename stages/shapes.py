"""Models that a stage compares have embeddings of one shape; looked at before the first step.

Planning refuses what it can know; a model that is not here yet, or a stage by hand, is known only now.
"""

from typing import TYPE_CHECKING

from cpt.checkpoint import load_config
from cpt.errors import EdgeError
from cpt.hooks.lora import is_adapter
from cpt.hooks.stack import HookStack
from cpt.past import Past
from stages.base import Job
from stages.opening import checkpoint_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_shapes(
    model: "PreTrainedModel", hooks: HookStack, before: Past, start: str, job: Job
) -> None:
    """Refuse hooks and roles whose model has another number of embeddings than the stage's.

    Raises:
        EdgeError: names both numbers and a way out.
    """
    others = [
        (f"hooks.{key}", stage.checkpoint)
        for key, hook in hooks.hooks
        for name in hook.compared()
        for stage in before.select(name)
    ]
    others += [(role, checkpoint_of(name)) for role, name in job.roles.items()]
    own = model.get_input_embeddings().weight.shape[0]
    has_adapter = any(is_adapter(hook) for _, hook in hooks.hooks)
    for name, folder in others:
        # Below an adapter the stage's own start is no second model: it has the stage's embeddings.
        if has_adapter and folder == start and name != "hooks.interpolate":
            continue
        config = load_config(folder, bool(job.load.get("trust_remote_code")))
        there = config.get_text_config().vocab_size
        if there != own:
            raise EdgeError(
                f"{job.name}: {name}: {folder} has {there} embeddings and this stage {own}; add the "
                f"tokens in the chain's model config, so that every stage has them, or name a stage "
                f"that has them"
            )
