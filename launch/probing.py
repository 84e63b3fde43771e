"""`cpt probe`: a suite on any model, measured once and kept.

A stage's result lies in its folder, where chains look for it. That of any other model, and of a stage in
another number type than it was made in, lies in `cache/probes`, named by what was measured: the content of a
folder or the commit of a hub model, the number type, and the suite.
"""

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cpt import checkpoint, past
from cpt.errors import CptError, ProbeError, RecipeError, StoreError
from cpt.ids import atomic_write, short_hash
from cpt.memory import keep_freed_memory
from cpt.store import Store
from eval.known import VERSION, is_complete, is_current, known_results, packages_of
from eval.matrix import read_row
from eval.noise import firsts
from eval.probe import probe_checkpoint, result_path
from eval.suite import Suite, load_suite
from launch.console import Console
from launch.origin import dtype_of


def probe(given: argparse.Namespace, stage: Path | None) -> dict[str, Any]:
    """Measure a model, unless its result is there.

    Args:
        given: of the command line; see `launch.parser`.
        stage: the stage folder that `given.model` means, if it means one.

    Raises:
        RecipeError: the suite is wrong, there is no such folder, or a folder is given a revision.
        StoreError: a stage's checkpoint is damaged, or there is no such model on the hub.
        ProbeError: the model cannot be loaded, or a probe gave no usable number.
    """
    suite = read_suite(given.suite, given.backend)
    if given.revision and (stage or Path(given.model).is_dir()):
        raise RecipeError(
            f"--revision {given.revision}: {given.model} is a folder; hub models have one"
        )
    result = json.loads(result_file(given, stage, suite).read_text(encoding="utf-8"))
    if given.output is not None:
        atomic_write(given.output, _text(result) + "\n")
    return dict(result)


def read_suite(path: Path, backend: str | None = None) -> Suite:
    """A suite that a person names, on another backend than its own if one is given.

    Raises:
        RecipeError: it is wrong; bad input, whatever the error's own code.
    """
    try:
        return load_suite(path, backend)
    except CptError as error:
        raise RecipeError(str(error)) from None


def result_file(given: argparse.Namespace, stage: Path | None, suite: Suite) -> Path:
    """The file with a model's result, which is measured where it is not there; see `probe`."""
    made_in = _made_in(stage)
    dtype = given.dtype or made_in
    if stage and dtype == made_in:
        file = result_path(stage, suite)
    else:
        file = _cached(given, f"{suite.name}-{suite.hash}", stage, dtype)
    name = stage.name if stage else Path(given.model).name
    is_chain_s = bool(stage) and file.parent.parent == stage
    if file.is_file() and is_chain_s and not is_current(file, suite):
        print(
            f"cpt: note: {file} was measured with other versions of {', '.join(packages_of(suite))} than "
            f"those here; verdicts of its chain rest on it, so it stays; delete it to measure {name} again",
            file=sys.stderr,
        )
    if file.is_file() and (is_chain_s or is_current(file, suite)):
        read_row(name, name, file, suite.hash)  # is it whole?
    else:
        known = known_results(firsts(file.parent.glob(_any_suite(file, suite))), suite)
        if stage and not is_complete(known, suite):
            checkpoint.verify_stage(stage)
        result = _measured(given, stage, suite, dtype, known)
        result["stage"] = name
        atomic_write(file, _text(result))
    return file


def stored_results(given: argparse.Namespace, stage: Path | None) -> dict[str, Path]:
    """Results that are there already: `<suite>-<hash>` -> file."""
    made_in = _made_in(stage)
    dtype = given.dtype or made_in
    if stage and dtype == made_in:
        return {path.stem: path for path in sorted(firsts((stage / "probes").glob("*.json")))}
    pattern = _cached(given, "*", stage, dtype)
    ending = pattern.name.removeprefix("*")
    found = sorted(pattern.parent.glob(pattern.name))
    return {path.name.removesuffix(ending): path for path in found}


def content_of(given: argparse.Namespace, stage: Path | None) -> str:
    """What a model is: the content of its folder, or its commit on the hub.

    Raises:
        RecipeError: it can only be a folder, and there is none.
        StoreError: there is no such model on the hub.
    """
    folder = stage / "checkpoint" if stage else Path(given.model)
    if folder.is_dir():
        return checkpoint.fingerprint(folder, given.trust_remote_code)
    if given.model.startswith((".", "/", "~")):
        raise RecipeError(f"{given.model}: no such folder")
    return _commit(given.model, given.revision)


def _made_in(stage: Path | None) -> str:
    return (stage and dtype_of(past.of_folder(stage))) or "auto"


def _measured(
    given: argparse.Namespace,
    stage: Path | None,
    suite: Suite,
    dtype: str,
    known: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    from launch.quiet import hush_bars

    hush_bars(given.verbose)
    if not is_complete(known, suite):
        import torch

        if not torch.cuda.is_available():
            keep_freed_memory()
    return probe_checkpoint(
        str(stage / "checkpoint") if stage else given.model,
        suite,
        cache=Store(given.runs).cache,
        dtype=dtype,
        revision=given.revision,
        trust_remote_code=given.trust_remote_code,
        progress=Console().progress(""),
        verbose=given.verbose,
        known=known,
    )


def _any_suite(file: Path, suite: Suite) -> str:
    """A pattern of the file names that the same model's results have with other suites."""
    return f"*{file.name.removeprefix(f'{suite.name}-{suite.hash}')}"


def _cached(given: argparse.Namespace, suite: str, stage: Path | None, dtype: str) -> Path:
    """The file in the cache for the result of a model that is no stage as it was made."""
    key = {
        "version": VERSION,
        "model": content_of(given, stage),
        "dtype": dtype,
        "trust_remote_code": given.trust_remote_code,
    }
    return Store(given.runs).cache / "probes" / f"{suite}-{short_hash(key, 16)}.json"


def _commit(model: str, revision: str | None) -> str:
    """The commit that a revision of a hub model is; without a network, as the hub's own cache knows it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:  # <cache>/models--<name>/snapshots/<commit>/config.json
        return Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at {revision}" if revision else ""
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"{model}{at}: is no folder here, and cannot be fetched from the hub: {why}; check the "
            f"name, your access to it (huggingface-cli login) and the network"
        ) from None


def _text(result: dict[str, Any]) -> str:
    return json.dumps(result, ensure_ascii=False, allow_nan=False)


def probe_apart(stage: Path, suite: Suite, runs: Path, trust_remote_code: bool) -> None:
    """`cpt probe` of a finished stage in a process that has the GPUs for itself, for backends that take them.

    Raises:
        ProbeError: it failed, with its last words.
    """
    if torch := sys.modules.get("torch"):  # a stage in this process leaves memory reserved
        gc.collect()
        torch.cuda.empty_cache()
    command = [sys.executable, "-P", "-m", "launch.cli", "probe", str(stage)]
    command += ["--suite", str(suite.path), "--runs", str(runs)]
    command += ["--trust-remote-code"] if trust_remote_code else []
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise ProbeError(f"{stage.name}: {words[-1].removeprefix('cpt: ')}")
