"""What a backend cannot honour, as data: facts that must not hold together, why, and what to do.

Each combination was run and failed, most of them without a word; a person may edit the files in
configs/accelerate and configs/deepspeed, so what those say counts as facts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a stage and its hooks are; `asked` in launch/checks.py sets these.
OF_STAGES = {
    "adapter": "a hook trains an adapter",
    "checkpointing": "train.activation_checkpointing is on",
    "clips": "max_grad_norm is above 0",
    "edits_gradients": "a hook adds to gradients or projects them",
    "fp16": "train.fp16 is on",
    "watches": "the stage is looked at while it trains",
}
# What a hook says of itself in a class attribute, `facts`; installed hooks may too.
OF_HOOKS = {
    "freezes_later": "a hook freezes or thaws parameters while the stage runs",
    "moves_weights": "a hook moves weights behind the optimizer's step",
    "osf": "a hook trains peft's OSF adapter",
    "second_forward": "a hook runs the student a second time in the loss",
    "second_gradient": "a hook takes a second backward pass per step",
}
# What the files in configs/accelerate and configs/deepspeed say; `facts_of_files` below sets these.
OF_FILES = {
    "fsdp1": "the file has another fsdp_version than 2",
    "sharded_save": "the file saves sharded checkpoints",
    "grad_accum_dtype": "the DeepSpeed file sets data_types.grad_accum_dtype",
    "free_port": "the file of several machines names no port",
    "no_gather": "the DeepSpeed file does not gather weights when a stage is saved",
    "optimizer_offload": "the DeepSpeed file offloads the optimizer",
    "pdsh": "the file has DeepSpeed's own launcher start other machines",
    "unmanaged_accumulation": "the DeepSpeed file has managed_gradient_accumulation off",
}
# Refusals are written in these words.
FACTS = {**OF_STAGES, **OF_HOOKS, **OF_FILES}


@dataclass(frozen=True)
class Refusal:
    """Facts that cannot hold together, why, and what to set; other backends `launch.nearest` finds."""

    when: frozenset[str]
    reason: str
    instead: str


def facts_of_files(accelerate: Mapping[str, Any], deepspeed: Mapping[str, Any]) -> set[str]:
    """The `FACTS` that an accelerate config and the DeepSpeed config it names bring along."""
    facts = set()
    fsdp = accelerate.get("fsdp_config")
    if fsdp and fsdp.get("fsdp_version") != 2:
        facts.add("fsdp1")
    if fsdp and fsdp.get("fsdp_state_dict_type") != "FULL_STATE_DICT":
        facts.add("sharded_save")
    if int(accelerate.get("num_machines", 1)) > 1:
        if not accelerate.get("main_process_port"):
            facts.add("free_port")
        own = accelerate.get("deepspeed_config")
        if own and own.get("deepspeed_multinode_launcher") != "standard":
            facts.add("pdsh")
    zero = deepspeed.get("zero_optimization", {})
    if (zero.get("offload_optimizer") or {}).get("device", "none") != "none":
        facts.add("optimizer_offload")
    if (deepspeed.get("data_types") or {}).get("grad_accum_dtype"):
        facts.add("grad_accum_dtype")
    if deepspeed.get("managed_gradient_accumulation") is False:
        facts.add("unmanaged_accumulation")
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        facts.add("no_gather")
    return facts


def _refusal(when: str, reason: str, instead: str = "") -> Refusal:
    return Refusal(frozenset(when.split()), reason, instead)


_ALL = (
    _refusal("fp16 edits_gradients", "fp16 scales the gradients that a hook edits", "use bf16"),
    _refusal("free_port", "machines cannot agree on a free port", "set main_process_port: 29500"),
)
_SHARDED = (
    _refusal(
        "freezes_later",
        "parameters are sharded and grouped once, before the first step",
        "freeze from the start",
    ),
)
_SPREAD = (
    _refusal(
        "watches",
        "what looks at the model runs it as often as each process has rows, and weights that are spread need "
        "every process each time",
        "remove watch:, or use launch: ddp or zero2",
    ),
)
_FSDP2 = (
    _refusal("fsdp1", "FSDP1 was not tested", "set fsdp_version: 2"),
    _refusal(
        "sharded_save",
        "a stage must end with a folder that from_pretrained opens",
        "set fsdp_state_dict_type: FULL_STATE_DICT",
    ),
    _refusal("osf", "its projection is lost without a word"),
)
_ZERO = (
    _refusal(
        "moves_weights",
        "the optimizer's fp32 weights would not follow what a hook writes behind its step",
        "use style: gradient, space: gradient or projection: soft",
    ),
    _refusal(
        "unmanaged_accumulation second_gradient",
        "a second backward pass needs DeepSpeed to manage accumulation",
        "remove managed_gradient_accumulation from the DeepSpeed file",
    ),
    _refusal(
        "pdsh",
        "DeepSpeed's launcher writes the whole environment, tokens too, to a file",
        "set deepspeed_multinode_launcher: standard",
    ),
    _refusal(
        "unmanaged_accumulation second_forward",
        "a second forward pass needs DeepSpeed to manage accumulation",
        "remove managed_gradient_accumulation from the DeepSpeed file",
    ),
)
_ZERO12 = (
    _refusal(
        "optimizer_offload edits_gradients clips",
        "the clip norm is computed before hooks edit the gradient, and used after",
        "set train.max_grad_norm: 0",
    ),
    _refusal(
        "grad_accum_dtype edits_gradients",
        "gradients accumulate in a buffer that hooks do not reach",
        "remove data_types.grad_accum_dtype from the DeepSpeed file",
    ),
)
_ZERO3 = (
    _refusal(
        "second_forward adapter checkpointing",
        "DeepSpeed reduces a parameter twice and stops",
        "set train.activation_checkpointing: false",
    ),
    _refusal("osf", "it needs whole weights"),
    _refusal(
        "no_gather",
        "a stage must end with a folder that from_pretrained opens",
        "set stage3_gather_16bit_weights_on_model_save: true",
    ),
)
# By backend.
REFUSALS = {
    "single": _ALL,
    "ddp": _ALL,
    "fsdp2": _ALL + _SHARDED + _SPREAD + _FSDP2,
    "zero1": _ALL + _SHARDED + _ZERO + _ZERO12,
    "zero2": _ALL + _SHARDED + _ZERO + _ZERO12,
    "zero3": _ALL + _SHARDED + _SPREAD + _ZERO + _ZERO3,
}
