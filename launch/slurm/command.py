"""`cpt slurm`: the jobs of a chain as scripts, submitted or not."""

import argparse
import shlex
from pathlib import Path

from cpt.settings import validate
from launch.opening import open_chain, shown
from launch.slurm.render import jobs
from launch.slurm.settings import Cluster, read
from launch.slurm.submit import commands, submit, write


def slurm(given: argparse.Namespace) -> int:
    """Write the scripts; then submit them, or print how that is done.

    Raises:
        CptError: the recipe, the cluster's settings or sbatch.
    """
    cluster = read(given.cluster)
    if given.time is not None:
        told = cluster.model_dump(exclude_unset=True) | {"time": given.time}
        cluster = validate(Cluster, told, "cpt slurm")
    chain = open_chain(given.recipe, given.changes, given.runs, given.launch)
    options = ["--launch", given.launch] if given.launch else []
    arguments = [str(given.recipe), *given.changes, "--runs", str(chain.store.root), *options]
    made = jobs(chain, cluster, arguments, Path.cwd(), given.per_stage)
    if not made:
        print(f"nothing to do: all {len(chain.plan.nodes)} nodes are made and probed")
        return 0
    write(made)
    if not given.submit:
        print("\n".join(["# submit with --submit, or:", *commands(made)]))
        return 0
    for job, number in zip(made, submit(made), strict=True):
        print(f"submitted {number}: {shlex.quote(shown(job.file))}")
    return 0
