"""An adapter's merge into 4-bit weights, measured against what was trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpt import quantised
from cpt.errors import HookError
from cpt.hooks.context import StageContext
from cpt.outputs import Outputs, outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Mean KL, in nats per token, that is rounding: by the coarser of the types that either model computes in.
#: Measured on random Llamas of 8 layers, width 192, as outputs grow from almost uniform (entropy 7.6) to
#: peaked (4.3), with adapters of rank 8: all in fp32 2e-14 to 4e-10; 4-bit layers in bf16 2e-6 to 2e-2; all
#: in bf16 6e-6 to 4e-2; the merge into the weights before quantisation 2e-3 to 3.3.
LIMITS = {"float32": 1e-6, "bfloat16": 2e-3, "float16": 2e-3}
#: Rounding may be more where outputs are peaked; it was at most 1/79 of what the naive merge is off.
SHARE = 1 / 10


def merged_checked(model: "PreTrainedModel", compute: str, ctx: StageContext) -> "PreTrainedModel":
    """`merged` for 4-bit weights: W_q + (alpha / rank) B A, measured against what was trained.

    Notes `merge_kl`, and `naive_merge_kl` of the merge into the weights as they were before.

    Raises:
        HookError: the two are different models.
    """
    dtype = model.dtype
    ctx.save_adapter(model)
    if not ctx.world.is_main:
        return quantised.merged(model, dtype)
    trained = outputs(model, ctx.samples())
    naive = trained.kl(_naive(model, ctx))
    plain = quantised.merged(model, dtype)
    kl = trained.kl(outputs(plain, ctx.samples()))
    ctx.note("merge_kl", kl)
    ctx.note("naive_merge_kl", naive)
    check_merge(kl, naive, (str(dtype).removeprefix("torch."), compute), "lora: quantise")
    return plain


def _naive(model: Any, ctx: StageContext) -> Outputs:
    """What the adapter says above the weights as they lie on the disk."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    assert ctx.declared is not None
    other: Any = get_peft_model(ctx.declared(), model.peft_config["default"])
    state = get_peft_model_state_dict(model, adapter_name="default")
    with torch.no_grad():
        set_peft_model_state_dict(other, {name: own.cpu() for name, own in state.items()})
    return outputs(other, ctx.samples())


def check_merge(kl: float, naive: float, types: Sequence[str], where: str) -> None:
    """Refuse a merged model that is not what was trained.

    Args:
        kl: KL(trained || merged).
        naive: KL(trained || W + (alpha / rank) B A), for comparison.
        types: that the two compute in.

    Raises:
        HookError: names both numbers.
    """
    limit = max(*(LIMITS[name] for name in types), SHARE * naive)
    if not kl <= limit:
        raise HookError(
            f"{where}: the merged model is not the one that was trained: KL {kl:.3g} nats per token, and at "
            f"most {limit:g} is rounding (the merge into the weights before quantisation: {naive:.3g}); use "
            f"after: keep and serve the adapter on the 4-bit weights, or train without quantise"
        )
