"""The trainer's own reports to trackers: where they go, and that a stage is one run, interrupted or not.

transformers' integrations (integrations/integration_utils.py) write TensorBoard's events below the trainer's
checkpoints, which go when the stage is done; leave a run of wandb open, which the next stage of the same
process then writes into; and begin another run of wandb or mlflow where a stage continues.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cpt import ids
from stages.base import Job

#: In the stage's folder: events of TensorBoard, and the run of mlflow that the stage is.
EVENTS, MLFLOW_RUN = "tensorboard", "mlflow-run.txt"


@contextmanager
def reporting(job: Job, is_main: bool) -> Iterator[None]:
    """Report to the stage's own runs while the block runs; what a person set in the environment wins.

    Args:
        is_main: whether this process reports.
    """
    own = {
        "TENSORBOARD_LOGGING_DIR": str(job.partial / EVENTS),
        "WANDB_RUN_ID": job.id,
        "WANDB_RESUME": "allow",
        "WANDB_RUN_GROUP": str(job.how.get("name", job.name)),
        # The code and its remote are named by the manifest, without what they may hold of secrets.
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
    }
    added = [name for name in own if name not in os.environ]
    os.environ.update({name: own[name] for name in added})
    try:
        if is_main and "mlflow" in job.trackers:
            _open_mlflow(job)
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        if is_main:
            _close(job)


def _open_mlflow(job: Job) -> None:
    """Begin the stage's run, or go on with it; the integration takes the run that is open."""
    import mlflow

    file = job.partial / MLFLOW_RUN
    if file.is_file():
        mlflow.start_run(run_id=file.read_text(encoding="utf-8").strip())
        return
    run = mlflow.start_run(run_name=f"{job.name}-{job.id}", tags={"cpt.stage": job.id})
    ids.atomic_write(file, f"{run.info.run_id}\n")


def _close(job: Job) -> None:
    if "wandb" in job.trackers:
        import wandb

        if wandb.run is not None:
            wandb.finish()
    if "mlflow" in job.trackers:
        import mlflow

        if mlflow.active_run() is not None:
            mlflow.end_run()
