"""Hugging Face folders: load, save, verify. safetensors only."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt import ids, manifest
from cpt.errors import StoreError
from cpt.removed_weights import made_again_by, removed_weights
from cpt.safe_weights import check_plain, check_weights
from cpt.verified import damages, strangers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cpt.quantised import Quantisation


def load_model(
    path: str,
    dtype: str = "float32",
    attention: str | None = None,
    trust_remote_code: bool = False,
    quantise: "Quantisation | None" = None,
) -> "PreTrainedModel":
    """Load a causal language model from a folder or a hub id.

    Args:
        quantise: hold the weights of its linear layers, but for the output head, in 4 bits; on the
            accelerator if there is one.

    Raises:
        StoreError: missing, damaged, or not in safetensors.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from cpt.spread import loaded_whole

    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    if Path(path).is_dir():
        check_weights(Path(path))
        check_plain(Path(path))
    if quantise is not None:
        options |= quantise.options()
    try:
        with loaded_whole():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                **options,
            )
    except (OSError, SafetensorError, ValueError, ImportError, json.JSONDecodeError) as error:
        raise StoreError(
            f"{path}: cannot be loaded as a causal language model: {_first_line(error)}"
        ) from error
    if quantise is not None:
        from cpt.quantised import settle

        settle(model, path)
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


#: What tells how a stage went; nothing is built on it.
CURVES = ("watch", "metrics.jsonl")
#: What a stage leaves. Its log still grows when it is published; probe results and verdicts come later.
LEFT = ("checkpoint", "adapter", "memory", "candidates", "exemplars.jsonl", *CURVES)


def digests(folder: Path) -> dict[str, str]:
    """`checkpoint/<file>` -> sha256 of what a checkpoint folder consists of, as a manifest names it."""
    files = _files(folder, (".py",))
    return {f"{folder.name}/{path.name}": ids.sha256_file(path) for path in files}


def digests_of_stage(stage: Path) -> dict[str, str]:
    """Name -> sha256 of every file that a stage leaves; names are relative to its folder."""
    found = dict[str, str]()
    for name in LEFT:
        place = stage / name
        if place.is_symlink():
            # A base model that lies elsewhere, beside files that are no part of it.
            found |= digests(place)
            continue
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for path in files:
            if path.is_file():
                found[path.relative_to(stage).as_posix()] = ids.sha256_file(path)
    return found


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
    """Check a folder of a stage, such as its checkpoint, against the digests in the stage's manifest.

    A file is read once; see `cpt.verified`.

    Args:
        folder: in the stage's folder.
        expected: of all files of the stage.
        stage_id: of the stage.

    Raises:
        StoreError: a file is missing or has other bytes than were written.
    """
    own = {name: value for name, value in expected.items() if name.startswith(f"{folder.name}/")}
    _check(folder.parent, own, stage_id)


def verify_stage(folder: Path) -> None:
    """Check all that a stage left for others to build on against its manifest.

    Raises:
        StoreError: a file is damaged, or the folder is no finished stage.
    """
    files = manifest.read(folder).files.items()
    own = {name: value for name, value in files if name.partition("/")[0] not in CURVES}
    _check(folder, own, folder.name)


def verify_part(stage: Path, name: str) -> None:
    """Check one file or folder of a stage against its manifest; those of a stage of ours only.

    Raises:
        StoreError: it is damaged.
    """
    if (stage / "manifest.json").is_file():
        files = manifest.read(stage).files.items()
        own = {file: value for file, value in files if file == name or file.startswith(f"{name}/")}
        _check(stage, own, stage.name)


def remedy(stage: Path, stage_id: str) -> str:
    """What a person does about a damaged stage."""
    return f"move {stage} away and run again, and {stage_id} is made anew (everything else is kept)"


def _check(stage: Path, files: dict[str, str], stage_id: str) -> None:
    """Args: files: all of each folder of the stage that one of them is in."""
    if added := strangers(stage, files):
        raise StoreError(f"{added[0].path}: {added[0].problem}")
    if found := damages(stage, files):
        if found[0].path.relative_to(stage).as_posix() in removed_weights(stage):
            raise StoreError(f"{stage_id}: {made_again_by(stage)}")
        raise StoreError(f"{found[0].path}: {found[0].problem}; {remedy(stage, stage_id)}")


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
