"""A stage on several machines: one launcher on each, which slurm starts within the job of the chain.

The chain itself stays one process, on the first machine: locks, verdicts and the store are its own.
`python -m launch.nodes ...` is what every machine runs; it adds which machine it is.
"""

import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence

from cpt.errors import PlanError

# Ports that no service has and that the system gives to nobody by itself.
_FIRST_PORT, _NUM_PORTS = 20000, 10000


def num_machines(in_file: int, variables: Mapping[str, str] = os.environ) -> int:
    """How many machines a slurm job has; outside of one, what the backend's file says."""
    return int(variables.get("SLURM_JOB_NUM_NODES", in_file))


def srun_prefix(number: int) -> list[str]:
    """What starts a command once on each of `number` machines of the job; if one ends badly, all end."""
    return ["srun", f"--nodes={number}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]


def check_processes(size: int, number: int, backend: str) -> None:
    """Refuse processes that the machines do not share evenly.

    Raises:
        PlanError: names the nearest numbers that they do.
    """
    if number < 2:
        raise PlanError(
            f"launch: {backend}: is for several machines, and the job has {number}; "
            f"use launch: {backend.removesuffix('-nodes')}"
        )
    if size % number:
        below = size // number * number
        either = f"{below} or {below + number}" if below else str(number)
        raise PlanError(
            f"num_processes: {size} does not split over {number} machines; {either} does"
        )


def over_machines(
    launcher: Sequence[str],
    work: Sequence[str],
    number: int,
    variables: Mapping[str, str] = os.environ,
) -> list[str]:
    """The command that runs accelerate's launcher on every machine of the slurm job.

    Args:
        launcher: its own arguments.
        work: `-m module *arguments`, what every process runs.

    The port follows from the job's id, so that two jobs on one machine do not meet.

    Raises:
        PlanError: this is no slurm job; says what to run on each machine instead.
    """
    if "SLURM_JOB_ID" not in variables:
        raise PlanError(
            "launch: cpt run reaches other machines through slurm, and this is no slurm job; run it in "
            "one, or start each stage by hand, on every machine at the same time: accelerate launch "
            f"--num_machines {number} --machine_rank <0 on the first> --main_process_ip <the first> "
            f"{shlex.join(launcher)} -m launch.stage <stage.yaml> parent=<folder> output=<folder>"
        )
    port = _FIRST_PORT + int(variables["SLURM_JOB_ID"]) % _NUM_PORTS
    where = ["--num_machines", str(number), "--main_process_ip", socket.gethostname()]
    where += ["--main_process_port", str(port)]
    return [*srun_prefix(number), sys.executable, "-m", "launch.nodes", *where, *launcher, *work]


def main(arguments: Sequence[str] | None = None) -> None:
    """Become accelerate's launcher of this machine.

    Raises:
        PlanError: slurm does not say which machine this is.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    rank = os.environ.get("SLURM_NODEID")
    if rank is None:
        raise PlanError("launch.nodes: SLURM_NODEID is not set; it is started by srun")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--machine_rank", rank]
    os.execv(sys.executable, [*launcher, *given])


if __name__ == "__main__":
    main()
