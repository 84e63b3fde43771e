"""From an opened chain and a cluster to the scripts of its jobs."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import PlanError, RecipeError
from cpt.redact import redact
from launch.opening import Chain
from launch.signals import GRACE
from launch.slurm.settings import OVERHEAD, Cluster

TEMPLATE = Path(__file__).with_name("job.sh")


@dataclass(frozen=True)
class SlurmJob:
    """One job of a chain: its name, where its script lies, and what is in it."""

    name: str
    file: Path
    script: str


def jobs(
    chain: Chain, cluster: Cluster, arguments: Sequence[str], folder: Path, per_stage: bool
) -> list[SlurmJob]:
    """The jobs that make what a chain lacks, in order.

    Args:
        chain: the chain.
        cluster: what its jobs ask for.
        arguments: of `cpt run`.
        folder: where the command runs: what its paths start from.
        per_stage: a job for each stage instead of one for all.

    Raises:
        PlanError: its backend and the cluster's GPUs do not fit.
        RecipeError: a path cannot be written in a script, or a credential would be.
    """
    if cluster.gpus is not None and cluster.gpus != chain.num_processes:
        raise PlanError(
            f"gpus: {cluster.gpus}: {chain.backend.name} trains on {chain.num_processes}; write "
            f"gpus: {chain.num_processes}, or num_processes={cluster.gpus} after the recipe"
        )
    place = chain.store.root / "slurm" / chain.plan.name
    for path in (place, folder):
        if not str(path).isprintable() or "%" in str(path):
            raise RecipeError(f"{str(path)!r}: slurm would not read this path as it stands")
    lacking = [node for node in chain.plan.nodes if not chain.is_finished(node)]
    # A stage's gate is of its job, and the base model of the first one's.
    stages = [node.stands_for or node.name for node in lacking if node.kind != "base"]
    if not lacking:
        return []
    ends: list[str | None] = [*dict.fromkeys(stages)] if per_stage and stages else [None]
    made = []
    for number, end in enumerate(ends, 1):
        name = chain.plan.name if end is None else f"{chain.plan.name}-{end}"
        more = [] if end is None else ["--until", end]
        file = place / ("chain.sbatch" if end is None else f"{number}-{end}.sbatch")
        script = _script(name, cluster, [*arguments, *more], folder, place)
        if redact(script) != script:
            raise RecipeError(
                f"{file}: would hold a credential, of an override or of the cluster's `environment`; set it "
                f"where you call cpt slurm: sbatch hands on what is set there"
            )
        made.append(SlurmJob(name, file, script))
    return made


def _script(
    name: str, cluster: Cluster, arguments: Sequence[str], folder: Path, place: Path
) -> str:
    # -P: a folder called `launch` where the command runs is not ours.
    command = [sys.executable, "-P", "-m", "launch.cli", "run", *arguments]
    lines = [f"module load {module}" for module in cluster.modules]
    variables = {GRACE: str(cluster.signal - OVERHEAD), **cluster.environment}
    lines += [f"export {key}={shlex.quote(text)}" for key, text in variables.items()]
    filled = {
        "options": "\n".join(f"#SBATCH {option}" for option in _options(name, cluster, place)),
        "made": _one_line(shlex.join(["cpt", "slurm", *arguments])),
        "environment": "\n".join(lines),
        "folder": shlex.quote(str(folder)),
        "command": shlex.join(command),
        "max_requeues": str(cluster.max_requeues),
    }
    parts = TEMPLATE.read_text(encoding="utf-8").split("@")
    # Every second part is the name of a value; what is filled in is not looked at again.
    return "".join(filled[part] if number % 2 else part for number, part in enumerate(parts))


def _options(name: str, cluster: Cluster, place: Path) -> list[str]:
    asked = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint and f'"{cluster.constraint}"',
        "gpus-per-node": cluster.gpus,
        "cpus-per-task": cluster.cpus,
        "mem": cluster.memory,
        "time": cluster.time,
    }
    output = str(place / "%x-%j.log").replace("\\", "\\\\").replace('"', '\\"')
    return [
        f"--job-name={name}",
        "--nodes=1",
        "--ntasks=1",
        *(f"--{key}={value}" for key, value in asked.items() if value is not None),
        *(["--exclusive"] if cluster.exclusive else []),
        # To the shell of the script only, which tells the run.
        f"--signal=B:USR1@{cluster.signal}",
        "--requeue",
        "--open-mode=append",
        f'--output="{output}"',
        *(f"--{key}" + (f"={v}" if v is not None else "") for key, v in cluster.options.items()),
    ]


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")
