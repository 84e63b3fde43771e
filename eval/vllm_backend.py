"""lm-eval's vLLM model, for suites with `backend: vllm`. Never run on real hardware by us.

vLLM has kernels of its own, so its numbers are not those of `backend: hf` to the last digit; the backend is
part of a probe's fingerprint, and results of different ones are not compared.
"""

from dataclasses import dataclass
from typing import Any

from cpt.errors import ProbeError
from eval.suite import Suite


@dataclass(frozen=True)
class Served:
    """What is known of a model whose weights vLLM has: the number type that it loaded."""

    dtype: Any


def served(
    path_or_hub_id: str, revision: str | None, trust_remote_code: bool, suite: Suite, dtype: str
) -> tuple[Served, Any]:
    """A checkpoint folder or hub model in vLLM, over the suite's `tensor_parallel` GPUs: (model, engine).

    Raises:
        ProbeError: vLLM is not installed, or cannot serve the model.
    """
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise ProbeError(
            f"suite {suite.name} has `backend: vllm`, and vLLM cannot be imported ({error}); "
            f"pip install vllm on a machine with a GPU, or say `backend: hf`"
        ) from None
    num_gpus = suite.tensor_parallel or _most_gpus(path_or_hub_id, revision, trust_remote_code)
    try:
        engine = VLLM(
            pretrained=path_or_hub_id,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=revision,
            trust_remote_code=trust_remote_code,
            max_model_len=suite.max_length,
            tensor_parallel_size=num_gpus,
            batch_size="auto",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ProbeError(
            f"{path_or_hub_id}: vLLM cannot serve it on {num_gpus} GPUs (tensor_parallel): {error}"
        ) from error
    return Served(engine.model.llm_engine.model_config.dtype), engine


def _most_gpus(path_or_hub_id: str, revision: str | None, trust_remote_code: bool) -> int:
    """The largest number of visible GPUs that divides the attention heads, as vLLM wants it."""
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            path_or_hub_id, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ProbeError(f"{path_or_hub_id}: cannot be loaded: {error}") from None
    heads = getattr(config.get_text_config(), "num_attention_heads", None) or 1
    counts = range(1, torch.cuda.device_count() + 1)
    return max((count for count in counts if heads % count == 0), default=1)
