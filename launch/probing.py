"""`cpt probe`: a suite on any model, measured once and kept.

A stage's result lies in its folder, where chains look for it. That of any other model, and of a stage in
another number type than it was made in, lies in `cache/probes`, named by what was measured: the content of a
folder or the commit of a hub model, the number type, and the suite.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from cpt import checkpoint, past
from cpt.errors import CptError, RecipeError, StoreError
from cpt.ids import atomic_write, short_hash
from cpt.store import Store
from eval.matrix import read_row
from eval.probe import VERSION, probe_checkpoint, result_path
from eval.suite import Suite, load_suite
from launch.console import Console
from launch.origin import dtype_of

#: `<suite>-<hash>`; a second measurement of the same model has another ending.
_RESULT = re.compile(r"[A-Za-z0-9_.-]+-[0-9a-f]{8}")


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
    suite = read_suite(given.suite)
    if given.revision and (stage or Path(given.model).is_dir()):
        raise RecipeError(
            f"--revision {given.revision}: {given.model} is a folder; hub models have one"
        )
    result = json.loads(result_file(given, stage, suite).read_text(encoding="utf-8"))
    if given.output is not None:
        atomic_write(given.output, _text(result) + "\n")
    return dict(result)


def read_suite(path: Path) -> Suite:
    """A suite that a person names.

    Raises:
        RecipeError: it is wrong; bad input, whatever the error's own code.
    """
    try:
        return load_suite(path)
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
    if file.is_file():
        read_row(name, name, file, suite.hash)  # is it whole?
    else:
        if stage:
            checkpoint.verify_stage(stage)
        result = _measured(given, stage, suite, dtype)
        result["stage"] = name
        atomic_write(file, _text(result))
    return file


def stored_results(given: argparse.Namespace, stage: Path | None) -> dict[str, Path]:
    """Results that are there already: `<suite>-<hash>` -> file."""
    made_in = _made_in(stage)
    dtype = given.dtype or made_in
    if stage and dtype == made_in:
        found = sorted((stage / "probes").glob("*.json"))
        return {path.stem: path for path in found if _RESULT.fullmatch(path.stem)}
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
    given: argparse.Namespace, stage: Path | None, suite: Suite, dtype: str
) -> dict[str, Any]:
    from launch.quiet import hush_bars

    hush_bars(given.verbose)
    return probe_checkpoint(
        str(stage / "checkpoint") if stage else given.model,
        suite,
        cache=Store(given.runs).cache,
        dtype=dtype,
        revision=given.revision,
        trust_remote_code=given.trust_remote_code,
        progress=Console().progress(""),
        verbose=given.verbose,
    )


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
