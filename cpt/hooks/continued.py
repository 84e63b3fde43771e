"""Whether an adapter that a stage trains on is what the stage before left."""

from pathlib import Path
from typing import TYPE_CHECKING

from cpt.errors import HookError
from cpt.past import PastStage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_reproduces(model: "PreTrainedModel", parent: PastStage) -> None:
    """Refuse an adapter that, merged into the weights below it, is not its stage's checkpoint.

    So whatever stands for that stage (a reference, an anchor) is what a stage that continues it starts from.

    Raises:
        HookError: one of the two was changed since.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from safetensors import safe_open

    from cpt.params import bare_name
    from cpt.quantised import full, is_quantised

    files = {}
    for file in sorted(Path(parent.checkpoint).glob("*.safetensors")):
        with safe_open(str(file), "pt") as tensors:
            files.update(dict.fromkeys(tensors.keys(), file))
    for name, layer in model.named_modules():
        key = f"{bare_name(name)}.weight"
        if not isinstance(layer, LoraLayer) or key not in files:
            continue
        with safe_open(str(files[key]), "pt") as tensors, torch.no_grad():
            saved = tensors.get_tensor(key)
            below, added = layer.get_base_layer(), layer.get_delta_weight("default")
            if is_quantised(below):
                both = (full(below) + added.float()).to(saved)
            else:
                both = (below.weight + added.to(below.weight.dtype)).to(saved)
        # The same sum in the same type; another device may round the product otherwise.
        limit = 4 * torch.finfo(saved.dtype).eps * float(saved.abs().max())
        if float((both.float() - saved.float()).abs().max()) > limit:
            raise HookError(
                f"{parent.adapter}: on the weights that the stage starts from does not give {key} of "
                f"{parent.checkpoint}: one of them was changed since; run {parent.name} again"
            )
