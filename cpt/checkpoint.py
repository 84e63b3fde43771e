"""Hugging Face folders: load, save, verify. safetensors only."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import ids, manifest
from cpt.errors import StoreError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    path: str, dtype: str = "float32", attention: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """Load a causal language model from a folder or a hub id.

    Raises:
        StoreError: missing, damaged, or not in safetensors.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from cpt.spread import loaded_whole

    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    try:
        with loaded_whole():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **options,
            )
    except (OSError, SafetensorError, ValueError, json.JSONDecodeError) as error:
        raise StoreError(
            f"{path}: cannot be loaded as a causal language model: {_first_line(error)}"
        ) from error
    return model


def load_config(path: str, trust_remote_code: bool = False) -> Any:
    """A checkpoint's model configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def load_tokenizer(path: str, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """Load a tokenizer from a folder or a hub id.

    Raises:
        StoreError: missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: has no usable tokenizer: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def digests(folder: Path) -> dict[str, str]:
    """File name -> sha256 of what a checkpoint folder consists of."""
    return {path.name: ids.sha256_file(path) for path in _files(folder)}


def fingerprint(folder: Path, with_code: bool = False) -> str:
    """One hash of what a checkpoint folder consists of, wherever it lies; files are read once.

    Args:
        with_code: of its Python files too, for who trusts them.
    """
    return ids.fingerprint(_files(folder, (".py",) if with_code else ()))


def _files(folder: Path, more: tuple[str, ...] = ()) -> list[Path]:
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt", *more)
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in kinds]


def verify(folder: Path, expected: dict[str, str], stage_id: str) -> None:
    """Check a checkpoint against the digests in its manifest.

    Raises:
        StoreError: a file is missing or has other bytes than were written.
    """
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            problem = "is missing"
        elif ids.sha256_file(path) != digest:
            problem = "is damaged: its bytes are not the ones that were written"
        else:
            continue
        raise StoreError(
            f"{path}: {problem}; move {folder.parent} away and run again, and {stage_id} is made anew "
            f"(everything else is kept)"
        )


def verify_stage(folder: Path) -> None:
    """Check the checkpoint in a stage folder against its manifest.

    Raises:
        StoreError: it is damaged, or the folder is no finished stage.
    """
    verify(folder / "checkpoint", manifest.read(folder).files, folder.name)


def sync(folder: Path) -> None:
    """Make all that is below a folder, names and bytes, survive a power cut.

    What another process of this machine wrote is flushed too; on NFS each machine must sync its own.
    """
    for path in [*folder.rglob("*"), folder]:  # a folder's names last: they point at what is there
        if not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
