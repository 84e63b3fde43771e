"""lm-eval's vLLM model, for suites with `backend: vllm`. Never run on real hardware by us.

vLLM has kernels of its own, so its numbers are not those of `backend: hf` to the last digit; the backend is
part of a probe's fingerprint, and results of different ones are not compared.
"""

from typing import Any

from cpt.errors import ProbeError
from eval.suite import Suite


def vllm_model(
    path_or_hub_id: str, suite: Suite, *, dtype: str, revision: str | None, trust_remote_code: bool
) -> Any:
    """A checkpoint folder or hub model in vLLM, over all GPUs that are visible.

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
    import torch

    try:
        return VLLM(
            pretrained=path_or_hub_id,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=revision,
            trust_remote_code=trust_remote_code,
            max_model_len=suite.max_length,
            tensor_parallel_size=max(1, torch.cuda.device_count()),
            batch_size="auto",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ProbeError(f"{path_or_hub_id}: vLLM cannot serve it: {error}") from error
