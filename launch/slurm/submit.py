"""Hand the jobs of a chain to SLURM, each of several behind the one before."""

import re
import shlex
import subprocess
from collections.abc import Sequence

from cpt.errors import CptError
from cpt.ids import atomic_write
from launch.slurm.render import SlurmJob


def write(jobs: Sequence[SlurmJob]) -> None:
    """Write the scripts."""
    for job in jobs:
        atomic_write(job.file, job.script)


def commands(jobs: Sequence[SlurmJob]) -> list[str]:
    """What a person types to submit them, in one shell."""
    lines = []
    for number, job in enumerate(jobs):
        # Where there are several clusters, its name follows behind a semicolon.
        behind = f"{_behind('${job%%;*}')} " if number else ""
        line = f"sbatch --parsable {behind}{shlex.quote(str(job.file))}"
        lines.append(line if len(jobs) == 1 else f"job=$({line})")
    return lines


def submit(jobs: Sequence[SlurmJob]) -> list[str]:
    """Submit them. Returns: their numbers.

    Raises:
        CptError: sbatch is not there, or refuses one; the message says which are in the queue.
    """
    numbers: list[str] = []
    for job in jobs:
        behind = _behind(numbers[-1]).split() if numbers else []
        command = ["sbatch", "--parsable", *behind, str(job.file)]
        queued = (
            f"; in the queue are: {' '.join(numbers)} (scancel takes them out)" if numbers else ""
        )
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise CptError(
                "sbatch: there is no such command here; call this where jobs are submitted, or leave "
                "--submit out"
            ) from error
        found = re.match(r"\d+", done.stdout.strip())
        if done.returncode or found is None:
            said = " ".join((done.stderr or done.stdout).split())
            raise CptError(f"sbatch refuses {job.file}: {said or done.returncode}{queued}")
        numbers.append(found.group())
    return numbers


def _behind(number: str) -> str:
    return f"--dependency=afterok:{number} --kill-on-invalid-dep=yes"
