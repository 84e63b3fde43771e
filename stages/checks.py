"""What must hold between a stage and its parent: vocabulary, reference, EOS."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.errors import EdgeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EOS_FALL = 0.2


def check_vocabulary(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", where: str
) -> int:
    """Every token has an embedding and an output row, and the config tells their number.

    Returns: how many embeddings no token has; many models pad their vocabulary.
    Raises:
        EdgeError: the tokenizer knows more tokens than the model, or the model's own numbers differ.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise EdgeError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; "
            f"declare the new tokens in the model config (add_tokens), and the embeddings are resized"
        )
    head = model.get_output_embeddings()
    outputs = head.weight.shape[0] if head is not None else rows
    declared = model.config.get_text_config().vocab_size
    if not rows == outputs == declared:
        raise EdgeError(
            f"{where}: the model has {rows} embeddings, {outputs} output rows and "
            f"config.vocab_size {declared}; they must be equal: resize the model "
            f"(resize_token_embeddings) and save it again"
        )
    return rows - len(tokenizer)


def check_reference(
    trainer: Any, reference: str, is_start: bool, prompts: Sequence[list[int]], where: str
) -> float:
    """The reference that the trainer holds is the declared stage.

    Where the declared reference is what the stage starts from, KL(policy || reference) on sample prompts is 0
    before the first step; otherwise the loaded weights equal those in the declared folder.

    Returns: the mean KL in nats per token, over the sample prompts.
    Raises:
        EdgeError: another reference was loaded.
    """
    import torch
    from trl.trainer.utils import use_adapter

    from cpt.hooks.backbone import bare_model
    from cpt.spread import whole
    from cpt.tokens import token_kl

    model = bare_model(trainer.model)
    own = getattr(trainer, "ref_model", None)
    peft = hasattr(trainer.model, "disable_adapter")
    if own is None and not peft:
        raise EdgeError(
            f"{where}: the trainer holds no reference model, and the recipe declares one"
        )
    # TRL's reference below an adapter is a copy of it as it was given, called `ref` (dpo_trainer.py,
    # grpo_trainer.py): that of the parent where its adapter is trained on.
    copy = "ref" if "ref" in getattr(trainer.model, "peft_config", {}) else None
    training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in prompts:
            forward = {"input_ids": torch.tensor([ids], device=model.device)}
            hidden = model.base_model(**forward, use_cache=False).last_hidden_state
            if own is None:
                with use_adapter(trainer.model, copy):
                    there = model.base_model(**forward, use_cache=False).last_hidden_state
                head = model.get_output_embeddings()
            else:
                bare = bare_model(own)
                there_ids = torch.tensor([ids], device=bare.device)
                head = bare.get_output_embeddings()
            weight = torch.ones(hidden.shape[:2], device=hidden.device)
            with whole(own):
                if own is not None:
                    there = bare.base_model(input_ids=there_ids, use_cache=False).last_hidden_state
                kl = token_kl(hidden, model.get_output_embeddings(), there, head, weight, "reverse")
            total, count = total + float(kl), count + len(ids)
    model.train(training)
    mean = total / max(count, 1)
    # Two copies of one checkpoint may compute in different precisions, as DeepSpeed's engines do.
    same = model.dtype == torch.float32 and (own is None or bare_model(own).dtype == torch.float32)
    if is_start and abs(mean) > (1e-4 if same else 1e-2):
        raise EdgeError(
            f"{where}: the reference is to be the stage's own start, but KL(policy || reference) is "
            f"{mean:.4g} before the first step: another model was loaded"
        )
    if not is_start and own is not None and not _holds(bare_model(own), reference):
        raise EdgeError(
            f"{where}: the trainer's reference does not have the weights of {reference}"
        )
    return mean


def _holds(model: Any, folder: str) -> bool:
    """Whether a model's weights equal those of a checkpoint folder, to its dtype."""
    from safetensors import safe_open

    from cpt.spread import gathered

    parameters = dict(model.named_parameters())
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in files:
        with safe_open(str(file), "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                own = parameters.get(name)
                if own is None:
                    continue
                with gathered([own]):
                    there = own.full_tensor() if hasattr(own, "full_tensor") else own
                    is_equal = tensors.get_tensor(name).to(own.dtype).equal(there.detach().cpu())
                if not is_equal:
                    return False
    return bool(files)


def eos_rate(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int = 32
) -> float:
    """Share of sample prompts whose greedy answer ends with EOS within `max_new_tokens`."""
    import torch

    if not prompts:
        return 0.0
    width = max(len(ids) for ids in prompts)
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor(
        [[pad] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device
    )
    training, cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    with torch.no_grad():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
    model.config.use_cache = cache
    model.train(training)
    ended = (output[:, width:] == tokenizer.eos_token_id).any(dim=1)
    return float(ended.float().mean())


def eos_note(before: float, after: float) -> str | None:
    """A warning when the model stops far less often than its parent did."""
    if before - after >= EOS_FALL - 1e-9:
        return (
            f"EOS: {after:.0%} of sample answers end, {before:.0%} did before; "
            f"the model may not stop any more"
        )
    return None
