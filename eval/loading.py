"""A checkpoint's model and tokenizer, to be measured or asked."""

from typing import Any

from cpt.errors import ProbeError


def load(
    name: str, dtype: str = "auto", revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint folder or a hub id, on the accelerator if there is one.

    Args:
        dtype: number type of the weights; `auto` is the one they were saved in.
        revision: commit, branch or tag of a hub model.
        trust_remote_code: run Python code that the model brings.

    Raises:
        ProbeError: there is no such model, or it is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(name, revision, trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, **_options(revision, trust_remote_code)
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ProbeError(f"{name}: cannot be loaded: {error}") from None
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return model, tokenizer


def load_tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """As `load`, without the weights."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **_options(revision, trust_remote_code))
    except (OSError, ValueError) as error:
        raise ProbeError(f"{name}: cannot be loaded: {error}") from None


def _options(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"revision": revision} if revision else {}
    return {**options, "trust_remote_code": trust_remote_code}
