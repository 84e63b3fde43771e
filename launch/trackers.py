"""The probe matrix for the trackers that stages report to: one run a chain, one step a stage.

Scores are `probe/<name>`, standard errors `probe/<name>/stderr`. Step 0 is the base model; what a gate made
has the number of the stage that it stands for. `trackers.json` in the chain's folder says what each tracker
has.
"""

import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cpt import ids
from cpt.store import labels
from eval.probe import result_path
from launch.opening import Chain

FILE = "trackers.json"
#: Of wandb and trackio, where a person names none: that of transformers' own reports.
PROJECT = "huggingface"


class Unreachable(Exception):  # noqa: N818 - told, and tried again
    """A tracker that takes nothing now."""


@dataclass(frozen=True)
class Told:
    """One row of the matrix, as trackers take it."""

    step: int
    stage_id: str
    scores: Mapping[str, float]

    @property
    def digest(self) -> str:
        """Changes with any of its numbers."""
        return ids.short_hash([self.step, dict(self.scores)], 16)


@dataclass(frozen=True)
class Run:
    """The chain's run at a tracker.

    Attributes:
        name: the chain.
        id: the run's, where a tracker lets us choose; else what the tracker chose, once it has.
        folder: the chain's.
    """

    name: str
    id: str
    folder: Path


def tell_trackers(chain: Chain, say: Callable[[str], None]) -> None:
    """Send the rows that a tracker does not have yet; one that takes none now gets them with the next."""
    if chain.suite is None or not chain.plan.recipe.trackers:
        return
    folder, rows = chain.store.chain(chain.plan.name), _rows(chain)
    known = _read(folder / FILE)
    for tracker in _named(chain.plan.recipe.trackers):
        entry = known.get(tracker) or {
            "run": f"{chain.plan.name}-{secrets.token_hex(4)}",
            "rows": {},
        }
        new = [row for row in rows if entry["rows"].get(row.stage_id) != row.digest]
        if not new:
            continue
        try:
            run = TRACKERS[tracker](Run(chain.plan.name, entry["run"], folder), new)
        except (Unreachable, OSError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            say(
                f"{tracker}: has not got {len(new)} rows of probes: {why}; cpt run sends them again"
            )
            continue
        rows_of = {**entry["rows"], **{row.stage_id: row.digest for row in new}}
        known[tracker] = {"run": run, "rows": rows_of}
        ids.atomic_write(folder / FILE, json.dumps(known, indent=1) + "\n")


def _named(trackers: Sequence[str]) -> list[str]:
    """Those of a recipe's trackers that take the matrix; `all` are those that are installed."""
    from launch.installed import TRACKERS as PACKAGES
    from launch.installed import is_installed

    if "all" not in trackers:
        return [name for name in TRACKERS if name in trackers]
    return [name for name in TRACKERS if any(map(is_installed, PACKAGES[name].split("|")))]


def _rows(chain: Chain) -> list[Told]:
    assert chain.suite is not None
    nodes = [{"name": node.name, "stands_for": node.stands_for} for node in chain.plan.nodes]
    found = []
    for label, node in zip(labels(nodes), chain.plan.nodes, strict=True):
        file = result_path(chain.store.stage(node.id), chain.suite)
        if not (chain.store.is_done(node.id) and file.is_file()):
            continue
        scores = dict[str, float]()
        for name, cell in json.loads(file.read_text(encoding="utf-8"))["probes"].items():
            numbers = {f"probe/{name}": cell["value"], f"probe/{name}/stderr": cell["stderr"]}
            scores |= {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
        found.append(Told(int(label.partition("-")[0]), node.id, scores))
    return found


def _read(file: Path) -> dict[str, Any]:
    """What trackers have; nothing is known of a file that was damaged, and they get the rows again."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        for entry in tree.values():
            _ = str(entry["run"]), dict(entry["rows"])
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return dict(tree)


def _tensorboard(run: Run, rows: Sequence[Told]) -> str:
    """Events beside the links to the stages, whose own events TensorBoard finds through them."""
    events: Any
    try:
        events = import_module("torch.utils.tensorboard")
    except ImportError:
        events = import_module("tensorboardX")
    with closing(events.SummaryWriter(log_dir=str(run.folder / "tensorboard"))) as writer:
        for row in rows:
            for key, value in row.scores.items():
                writer.add_scalar(key, value, row.step)
    return run.id


def _wandb(run: Run, rows: Sequence[Told]) -> str:
    """Steps of wandb only grow, so the number of the stage is an axis of its own."""
    import wandb

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    try:
        # Neither our code nor the state of its repository goes out with the scores.
        settings = wandb.Settings(disable_code=True, disable_git=True)
        opened = wandb.init(
            project=project,
            id=run.id,
            name=run.name,
            group=run.name,
            job_type="probes",
            resume="allow",
            settings=settings,
        )
        opened.define_metric("stage")
        opened.define_metric("probe/*", step_metric="stage")
        for row in rows:
            opened.log({"stage": row.step, **row.scores})
        opened.finish()
    except wandb.Error as error:
        raise Unreachable(str(error)) from error
    return run.id


def _mlflow(run: Run, rows: Sequence[Told]) -> str:
    """Its server chooses the run's id."""
    import mlflow

    is_known = not run.id.startswith(f"{run.name}-")
    which = {"run_id": run.id} if is_known else {"run_name": run.name}
    try:
        with mlflow.start_run(**which) as opened:
            for row in rows:
                # The characters that it takes in a name, as transformers has them.
                metrics = {re.sub(r"[^\w\-. :/]", "_", k): v for k, v in row.scores.items()}
                mlflow.log_metrics(metrics, step=row.step)
            return str(opened.info.run_id)
    except mlflow.exceptions.MlflowException as error:
        raise Unreachable(str(error)) from error


def _trackio(run: Run, rows: Sequence[Told]) -> str:
    import trackio

    trackio.init(project=PROJECT, name=run.id, group=run.name, resume="allow")
    for row in rows:
        trackio.log(dict(row.scores), step=row.step)
    trackio.finish()
    return run.id


#: Those of `launch.installed.TRACKERS` that take the matrix.
TRACKERS: Mapping[str, Callable[[Run, Sequence[Told]], str]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
