"""One node of a plan, made and probed: here, or in a process group of its own."""

from pathlib import Path

from cpt import plan as plans
from cpt.determinism import deterministic
from cpt.errors import CptError, RecipeError
from cpt.ids import atomic_write
from cpt.world import COLLECTIVES
from launch.backend import accelerate_command, environment
from launch.console import Console
from launch.group import run_group
from launch.hang import watched
from launch.opening import Chain
from launch.record import how
from stages.base import Job
from stages.candidates import has_candidates


def make(chain: Chain, node: plans.Node, console: Console, verbose: bool) -> None:
    """Make a node and measure its probes, as far as that is not done.

    Raises:
        CptError: what went wrong, in this process or in those of the group.
    """
    from launch.quiet import hush_bars

    job = _job(chain, node, verbose)
    if node.stands_for:
        from launch.remedies import make_remedy

        hush_bars(verbose)
        with deterministic(job.deterministic, node.name):
            make_remedy(chain, node, dict(job.load), console)
        return
    if node.kind == "base" and not chain.store.is_done(node.id):
        from launch.untrained import make_base

        hush_bars(verbose)
        try:
            make_base(chain.plan.recipe.model, chain.store, console, job.how)
        except RecipeError as error:
            raise RecipeError(f"{chain.plan.recipe.file}: {error}") from error
    if chain.backend.name == "single":
        from launch.stage import execute

        hush_bars(verbose)
        with watched(node.name, 60 * chain.plan.recipe.timeout, chain.store.root / "jobs"):
            execute(job, console)
    else:
        if node.spec is not None and node.spec.merge is not None:
            _merge(chain, job, console, verbose)
        if not _is_made(chain, node):
            _launch(chain, job, node, console)
    if chain.suite is not None and chain.suite.backend != "hf" and not chain.is_finished(node):
        from launch.probing import probe_apart

        console.say(f"{node.name}: measuring with {chain.suite.backend}")
        trusted = chain.plan.recipe.model.trust_remote_code
        probe_apart(chain.store.stage(node.id), chain.suite, chain.store.root, trusted)


def _is_made(chain: Chain, node: plans.Node) -> bool:
    """Whether a process group has nothing left to do; some backends measure after it."""
    if chain.suite is not None and chain.suite.backend != "hf":
        return chain.store.is_done(node.id)
    return chain.is_finished(node)


def _merge(chain: Chain, job: Job, console: Console, verbose: bool) -> None:
    """Make a merge here, since a process group is of no use to it; only its probes are shared out."""
    from launch.quiet import hush_bars
    from launch.untrained import make_merge

    with chain.store.lock(job.id, console.say):
        if not chain.store.is_done(job.id):
            hush_bars(verbose)
            with deterministic(job.deterministic, job.name):
                make_merge(job, console)


def _launch(chain: Chain, job: Job, node: plans.Node, console: Console) -> None:
    """Make one stage in a process group, unless another run does so first.

    The lock is taken here: workers that waited for it would run into the time-out of their own barrier.
    """
    from launch.job_file import job_to_json

    with chain.store.lock(node.id, console.say) as lock:
        if _is_made(chain, node):
            return
        file = chain.store.root / "jobs" / f"{node.id}.json"
        atomic_write(file, job_to_json(job))
        arguments = ["--job", str(file), *(["-v"] if job.verbose else [])]
        command = accelerate_command(chain.backend, "launch.stage", arguments, chain.num_processes)
        seconds = 60 * chain.plan.recipe.timeout
        variables = environment(chain.backend)
        if seconds:  # what waits in a collective gives up, too, but says less
            variables |= {COLLECTIVES: str(2 * seconds + 60)}
        run_group(command, variables, file, node.name, lock, job.verbose, seconds)
        if not _is_made(chain, node):
            raise CptError(f"{node.name}: its processes ended well, but left no finished stage")
        file.unlink(missing_ok=True)


def _job(chain: Chain, node: plans.Node, verbose: bool) -> Job:
    recipe = chain.plan.recipe
    folder = {n.id: str(chain.store.stage(n.id)) for n in chain.plan.nodes}
    roles = {role: folder[stage_id] for role, stage_id in node.parents.items() if role != "parent"}
    load = {
        "dtype": recipe.model.dtype,
        "attention": recipe.model.attention,
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    spec = node.spec or next(
        iter(recipe.stages.values())
    )  # the base is only probed: any spec will do
    return Job(
        name=node.name,
        id=node.id,
        spec=spec,
        seed=node.seed,
        parent=folder.get(node.parents.get("parent", ""), ""),
        roles=roles,
        output=chain.store.stage(node.id),
        inputs=node.inputs,
        parents=node.parents,
        backend=chain.backend.name,
        num_processes=chain.num_processes,
        checkpoint_every=spec.checkpoint_every or recipe.checkpoint_every,
        trackers=tuple(recipe.trackers),
        load=load,
        suite=Path(recipe.probes) if recipe.probes else None,
        suite_hash=chain.suite.hash if chain.suite else "",
        store=chain.store.root,
        verbose=verbose,
        joined=node.joined if len(node.joined) > 1 else (),
        gate=recipe.gate,
        twice=recipe.gate.noise if node.kind == "base" else False,
        candidates=_num_candidates(chain, node),
        how=how(chain),
        deterministic=recipe.deterministic,
        trainer_checkpoints=recipe.keep.trainer_checkpoints,
    )


def _num_candidates(chain: Chain, node: plans.Node) -> int:
    """How many checkpoints on the way a stage keeps for the gate."""
    hooks = [hook for _, hook in node.hooks]
    if (
        node.spec is None
        or not chain.gate.rules.may("rollback")
        or not has_candidates(node.spec, hooks)
    ):
        return 0
    return chain.plan.recipe.gate.candidates
