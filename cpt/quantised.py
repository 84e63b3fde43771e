"""4-bit weights below an adapter: how they are loaded, and what model a stage that trained on them leaves.

    trained   y = W_q x + (alpha / rank) B A x,  W_q = dequantise(quantise(W))
    merged    W' = W_q + (alpha / rank) B A, summed in fp32 and rounded once, to the checkpoint's type

W + (alpha / rank) B A, the merge into the weights as they were before, is another model: A and B were trained
to correct W_q. How far each is from what was trained is measured as a mean KL over tokens of sample rows.

Quantisation is how one stage trains: checkpoints, and what later stages start from, keep their number type.
`launch.installed` refuses it before any weights load where bitsandbytes is missing.

Source: Dettmers et al. 2023, arXiv:2305.14314, eq. 5 and 6; `peers.md` 5.2, "QLoRA merges".
"""

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpt.errors import HookError

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn
    from transformers import PreTrainedModel

Kind = Literal["nf4", "fp4"]
Compute = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Quantisation:
    """How weights are held in 4 bits, in blocks of 64.

    Attributes:
        kind: nf4, or fp4.
        double: whether the blocks' scales are held in 8 bits, too: 4.127 bits a weight instead of 4.5.
        compute: type in which a layer multiplies.
    """

    kind: Kind
    double: bool = True
    compute: Compute = "bfloat16"

    @property
    def bits(self) -> float:
        """Of a weight: 4, and a 64th of its block's scale: 32 bits; doubled, 8 and a 256th of 32."""
        return 4 + ((8 + 32 / 256) / 64 if self.double else 32 / 64)

    def options(self) -> dict[str, Any]:
        """What `from_pretrained` is given."""
        import torch
        from transformers import BitsAndBytesConfig

        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=self.kind,
                bnb_4bit_use_double_quant=self.double,
                bnb_4bit_compute_dtype=getattr(torch, self.compute),
            )
        }


def of_stage(folder: Path) -> Quantisation | None:
    """How the weights below a finished stage's adapter were held while it trained."""
    from cpt import manifest

    if not (folder / "manifest.json").is_file():
        return None
    for hook in manifest.read(folder).hooks:
        if found := of_settings(hook["settings"]):
            return found
    return None


def of_settings(settings: Any) -> Quantisation | None:
    """As a hook's settings say it."""
    if settings.get("quantise") is None:
        return None
    names = ("double", "compute")
    return Quantisation(settings["quantise"], **{n: settings[n] for n in names if n in settings})


def check_settings(quantise: str | None, double: bool, compute: str) -> None:
    """Refuse settings of a quantisation that is not there.

    Raises:
        ValueError: says what to write.
    """
    if quantise is None and (not double or compute != "bfloat16"):
        raise ValueError("`double` and `compute` are of 4-bit weights; write quantise: nf4")


def settle(model: "PreTrainedModel", where: str) -> None:
    """Make a model that was just loaded in 4 bits fit to be trained below an adapter.

    Raises:
        HookError: none of its weights is held in 4 bits.
    """
    layers = [module for module in model.modules() if is_quantised(module)]
    if not layers:
        raise HookError(
            f"{where}: quantise: the model has no linear layers besides its output head, so that nothing "
            f"would be held in 4 bits; remove quantise"
        )
    for layer in layers:
        # On a CPU with AVX512-BF16 a forward pass in evaluation mode would reorder the codes for a kernel
        # that has no gradient, and the layer would train nothing below it from then on.
        layer.support_avx512bf16_for_cpu = False


def is_quantised(module: Any) -> bool:
    """Whether a layer holds its weights in 4 bits; asked without importing bitsandbytes."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit"


def keep_adapter_whole(model: Any) -> None:
    """Let an adapter train in its own 32 bits.

    TRL rounds every adapter above 4-bit weights to bf16 (`_is_quantized_model` in its trainers), in which
    Adam's steps are lost where they are below 1/256 of a weight. It knows them by a mark that peft needs no
    longer, once the adapter is there.
    """
    from cpt.hooks.backbone import bare_model

    bare_model(model).is_loaded_in_4bit = False


def full(layer: "nn.Module") -> "Tensor":
    """[out, in] of a layer, in fp32: W_q where it holds 4 bits."""
    weight: Any = layer.weight
    if not is_quantised(layer):
        return weight.detach().float()  # type: ignore[no-any-return]
    import torch
    from bitsandbytes.functional import dequantize_4bit

    state = copy(weight.quant_state)
    state.dtype = torch.float32  # else rounded to the type that it was made from
    value: Tensor = dequantize_4bit(weight.data, state)
    return value


def merged(model: Any, dtype: "dtype") -> "PreTrainedModel":
    """An ordinary model: W_q, and W_q + (alpha / rank) B A where there is an adapter, layer by layer.

    Args:
        model: with 4-bit weights; used up.
        dtype: of the weights that it gets.

    Raises:
        HookError: a merged weight is not finite.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        for name, module in list(plain.named_modules()):
            if isinstance(module, LoraLayer):
                layer: Any = module.get_base_layer()
                value = full(layer) + module.get_delta_weight("default").float()
                if not value.isfinite().all():
                    raise HookError(f"{name}: W_q + (alpha / rank) B A is not finite")
                module.base_layer = _ordinary(layer, value.to(dtype))
            elif is_quantised(module) and not name.endswith(".base_layer"):
                plain.set_submodule(name, _ordinary(module, full(module).to(dtype)))
    if isinstance(model, PeftModel):
        plain = model.unload()
    plain.hf_quantizer.remove_quantization_config(plain)
    # What else says that it is in 4 bits, or where its parts were put.
    for mark in ("is_loaded_in_4bit", "hf_device_map"):
        plain.__dict__.pop(mark, None)
    return plain


def _ordinary(layer: Any, weight: "Tensor") -> "nn.Module":
    """A layer of the kind that was quantised, with other weights [out, in]."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kind = getattr(layer, "source_cls", type(layer))
    with torch.device("meta"):
        if kind is Conv1D:  # [in, out]
            made: Any = Conv1D(weight.shape[0], weight.shape[1])
            weight = weight.T.contiguous()
        else:
            made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().to(weight), requires_grad=False)
    return made.train(layer.training)  # type: ignore[no-any-return]
