"""Runs stages on two CPU processes that talk through gloo; a launch costs seconds, so it runs many.

`python -m tests.two_processes FILE` is what every process executes; FILE has one job per line, and whether
it is interrupted.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from stages.base import Job

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120.0


def run_on_two(
    jobs: Sequence[Job], folder: Path, interrupted: Sequence[Job] = ()
) -> list[list[dict[str, Any]]]:
    """Run jobs one after the other, in one launch.

    Args:
        jobs: what to run.
        folder: for files of the launch.
        interrupted: those of `jobs` that are stopped behind their first checkpoint, and run again.

    Returns: for each job what each rank says of it; see `report`.
    """
    from launch.backend import accelerate_command, backend, environment
    from launch.job_file import job_to_json

    file = folder / "jobs.jsonl"
    lines = [{"job": job_to_json(job), "interrupted": job in interrupted} for job in jobs]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ddp = backend("ddp")
    command = accelerate_command(ddp, "tests.two_processes", [str(file)], num_processes=2)
    added = environment(ddp) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **added},
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # A rank that waits for another one waits for ever.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            output.seek(0)
            what = f"did not end in {SECONDS:g} s" if code is None else f"ended with {code}"
            raise AssertionError(f"two processes: {what}\n{output.read()[-6000:]}")
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return [list(job) for job in zip(*ranks, strict=True)]


def report(model: Any, sentences: Sequence[str]) -> dict[str, Any]:
    """A digest of the weights in this process's memory, and what the stage said."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    weights = digest.hexdigest()
    return {"rank": int(os.environ["RANK"]), "weights": weights, "said": list(sentences)}


class Interrupted(Exception):  # noqa: N818 - no error
    """What stands in for `kill -9`, on every rank at the same place."""


@contextmanager
def interrupting() -> Iterator[None]:
    """Stages end behind their first checkpoint."""
    from cpt.hooks.trainer import _Hooks

    save = _Hooks._save_checkpoint

    def stop(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise Interrupted

    _Hooks._save_checkpoint = stop  # type: ignore[method-assign]
    with suppress(Interrupted):
        yield
        raise AssertionError("the stage came to its end")
    _Hooks._save_checkpoint = save  # type: ignore[method-assign]


def main(file: Path) -> None:
    import stages.run as runner
    import stages.under_way as under_way
    from cpt.world import leave
    from launch.backend import backend
    from launch.console import Console
    from launch.job_file import job_from_json
    from launch.topology import assert_topology
    from launch.watching import looker

    under_way.NUM_SAMPLES = 2
    said = []
    for line in map(json.loads, file.read_text().splitlines()):
        job, sentences = job_from_json(line["job"]), list[str]()
        if line["interrupted"]:
            with interrupting():
                runner.run(job, sentences.append)
        look = partial(looker, job, Console())
        is_right = partial(
            assert_topology, chosen=backend(job.backend), num_processes=job.num_processes
        )
        model, _ = runner.run(job, sentences.append, is_right, make_look=look)
        said.append(report(model, sentences))
    (file.parent / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(said))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
