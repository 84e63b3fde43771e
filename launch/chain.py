"""Walk a plan: skip what is done, make what is not, probe, link, report, judge."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpt import plan as plans
from cpt import recipe as recipes
from cpt.errors import CptError, GateStopped, PlanError, RecipeError
from cpt.hooks.base import points
from cpt.ids import atomic_write
from cpt.plan_table import table_of
from cpt.store import Store
from eval.probe import result_path
from eval.suite import Suite, load_suite
from launch.backend import Backend, accelerate_command, backend, environment
from launch.console import Console
from stages import kind_of
from stages.base import Job
from stages.trl_args import batch_layout, check_checkpoint_every
from stages.trl_fields import check_train


@dataclass(frozen=True)
class Chain:
    """A recipe, its plan, its suite, and where its results live."""

    plan: plans.Plan
    suite: Suite | None
    backend: Backend
    num_processes: int
    store: Store
    command: str

    def probed(self, stage_id: str) -> bool:
        """Whether the suite's result is there."""
        return self.suite is None or result_path(self.store.stage(stage_id), self.suite).is_file()

    def is_finished(self, node: plans.Node) -> bool:
        """Whether a stage is made and measured."""
        return self.store.is_done(node.id) and self.probed(node.id)


def open_chain(path: Path, changes: Sequence[str], runs: Path, launch: str | None = None) -> Chain:
    """Read and check everything, importing neither torch nor TRL.

    Raises:
        CptError: whatever is wrong, before any weights load.
    """
    recipe = recipes.load(path, changes)
    chosen = backend(launch or recipe.launch)
    problems: list[CptError] = []
    if chosen.unfinished:
        problems.append(PlanError(f"launch: {chosen.name}: {chosen.unfinished}; use zero2 or ddp"))
    suite = None
    if recipe.probes:
        try:
            suite = load_suite(Path(recipe.probes))
        except CptError as error:
            problems.append(RecipeError(str(error)))  # bad input, whatever its own code
    size = recipe.num_processes or chosen.num_processes
    if chosen.name == "single" and size != 1:
        problems.append(
            PlanError(f"num_processes: {size}: single runs one process; use launch: ddp")
        )
    try:
        plan = plans.make(recipe, kind_of, check_train, chosen)
        _check_batches(plan, size)
        _check_backend(plan, chosen)
    except CptError as error:
        problems.insert(0, error)
    if problems:
        raise type(problems[0])("\n".join(str(problem) for problem in problems))
    options = ["--launch", launch] if launch else []
    command = shlex.join(["cpt", "run", _shown(path), *changes, *options])
    if chosen.name == "single":
        os.environ.update(environment(chosen))  # one GPU, before torch looks
    return Chain(plan, suite, chosen, size, Store(runs), command)


def _check_batches(plan: plans.Plan, size: int) -> None:
    for node in plan.nodes[1:]:
        assert node.spec is not None
        kind = kind_of(node.spec.kind, node.spec.file)
        try:
            batch_layout(int(node.spec.train.get("batch_size", 8)), size, node.spec.micro_batch)
            every = node.spec.checkpoint_every or plan.recipe.checkpoint_every
            if every:
                check_checkpoint_every(kind.config, node.spec.train, every)
        except PlanError as error:
            raise PlanError(f"{node.spec.file}: {error}") from None


def _check_backend(plan: plans.Plan, chosen: Backend) -> None:
    """Refuse combinations of settings, hooks and backend files that train wrongly or not at all."""
    for node in plan.nodes[1:]:
        assert node.spec is not None
        train = node.spec.train
        acting = {point for _, hook in node.hooks for point in points(hook)}
        holds = {
            "adapter": "adapt" in acting,
            "edits_gradients": bool(acting & {"pull", "project"}),
            "fp16": bool(train.get("fp16")),
            "clips": float(train.get("max_grad_norm", 1.0)) > 0,
            "checkpointing": bool(train.get("activation_checkpointing", True)),
        }
        for refusal in chosen.refusals([fact for fact, is_so in holds.items() if is_so]):
            raise PlanError(
                f"{node.spec.file}: launch: {chosen.name}: {refusal.reason}; {refusal.instead}"
            )


def show(chain: Chain) -> str:
    """The plan as text."""
    num_probes = len(chain.suite.probes) if chain.suite else 0
    probed = chain.probed if chain.suite else None
    where = (
        f"{chain.backend.name} x {chain.num_processes}"
        if chain.num_processes > 1
        else chain.backend.name
    )
    return table_of(chain.plan, chain.store, probed, num_probes, where)


def run(
    chain: Chain,
    console: Console,
    *,
    until: str | None = None,
    restart: bool = False,
    verbose: bool = False,
    colour: bool = False,
    width: int = 100,
) -> int:
    """Bring a chain to its end, or as far as the gate lets it.

    Returns: 0.
    Raises:
        GateStopped: a probe regressed and the recipe says stop.
    """
    from eval.report.write import write_report

    nodes = _until(chain.plan, until)
    if restart:
        unfinished = next((node for node in nodes if not chain.store.is_done(node.id)), None)
        if unfinished:
            with chain.store.lock(unfinished.id, console.say):
                shutil.rmtree(chain.store.partial(unfinished.id), ignore_errors=True)
    todo = [node for node in nodes if not chain.is_finished(node)]
    for node in nodes:
        if node in todo:
            _make(chain, node, console, verbose)
        made = [n for n in chain.plan.nodes if chain.store.is_done(n.id)]
        stop = _stop(chain, node, nodes)
        if node in todo or stop or node is nodes[-1]:
            folder = _link(chain, made)
            if not (node not in todo and _is_current(folder, chain, nodes)):
                write_report(folder, chain.store.stages, _sibling(chain))
                if node in todo:
                    _print_report(folder, chain, node, colour, width)
        if stop:
            raise stop
    folder = chain.store.chain(chain.plan.name)
    if not todo:
        console.say(
            f"nothing to do: all {len(nodes)} nodes of {chain.plan.name} are made and probed"
        )
    console.say(f"report: {_shown(folder / 'report.html')}")
    return 0


def _until(plan: plans.Plan, until: str | None) -> tuple[plans.Node, ...]:
    if until is None:
        return plan.nodes
    names = [node.name for node in plan.nodes]
    if until not in names:
        raise RecipeError(f"--until {until}: the chain has {', '.join(names)}")
    return plan.nodes[: names.index(until) + 1]


def _make(chain: Chain, node: plans.Node, console: Console, verbose: bool) -> None:
    from launch.quiet import hush_bars

    job = _job(chain, node, verbose)
    if node.kind == "base" and not chain.store.is_done(node.id):
        from launch.stage import make_base

        hush_bars(verbose)
        make_base(chain.plan.recipe.model, chain.store, console)
    if chain.backend.name == "single":
        from launch.stage import execute

        hush_bars(verbose)
        execute(job, console)
    elif not chain.is_finished(node):
        _launch(chain, job, node)


def _launch(chain: Chain, job: Job, node: plans.Node) -> None:
    """Start one process group for one stage, and take over how it ends."""
    from launch.stage import job_to_json

    file = chain.store.root / "jobs" / f"{node.id}.json"
    atomic_write(file, job_to_json(job))
    command = accelerate_command(
        chain.backend, "launch.stage", ["--job", str(file)], chain.num_processes
    )
    group = subprocess.Popen(command, env={**os.environ, **environment(chain.backend)})
    try:
        code = group.wait()
    except BaseException:  # pre-empted: the launcher ends its processes when it is asked to
        group.terminate()
        group.wait()
        raise
    if code != 0 or not chain.is_finished(node):
        raise CptError(
            f"{node.name}: its processes ended with code {code}; what they said is above; "
            f"what is finished is kept, and the same command continues"
        )
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
    )


def describe(chain: Chain) -> dict[str, Any]:
    """What of a chain its report needs, besides its nodes."""
    recipe = chain.plan.recipe
    suite: dict[str, Any] = {"name": "none", "hash": "none", "probes": {}}
    if chain.suite:
        probes = {
            name: {
                "group": probe.group,
                "metric": probe.metric,
                "margin": probe.margin,
                "chat": probe.chat,
            }
            for name, probe in chain.suite.probes.items()
        }
        suite = {"name": chain.suite.name, "hash": chain.suite.hash, "probes": probes}
    return {
        "version": 1,
        "name": chain.plan.name,
        "seed": recipe.seed,
        "baseline": recipe.baseline,
        "recipe": recipe.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        ),
        "recipe_path": _shown(Path(recipe.file)),
        "command": chain.command,
        "suite": suite,
        "gate": recipe.gate.model_dump(),
    }


def _nodes(chain: Chain) -> list[dict[str, Any]]:
    names = {node.id: node.name for node in chain.plan.nodes}
    return [
        {
            "name": node.name,
            "kind": node.kind,
            "id": node.id,
            "parents": [names[node.parents["parent"]]] if "parent" in node.parents else [],
            "reference": names.get(node.parents.get("reference", "")),
            "hooks": [key for key, _ in node.hooks],
        }
        for node in chain.plan.nodes
    ]


def _link(chain: Chain, made: Sequence[plans.Node]) -> Path:
    description = json.loads(json.dumps(describe(chain), default=str))
    nodes = json.loads(json.dumps(_nodes(chain), default=str))
    file = chain.store.chain(chain.plan.name) / "chain.json"
    if _read(file) == {**description, "nodes": nodes} and sum(
        path.is_symlink() for path in file.parent.iterdir()
    ) == len(made):
        return file.parent
    return chain.store.link_chain(chain.plan.name, nodes, description)


def _read(file: Path) -> Any:
    """A JSON file's content; None where it is missing or damaged, and will be written anew."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_current(folder: Path, chain: Chain, nodes: Sequence[plans.Node]) -> bool:
    """Whether the report is newer than everything it shows."""
    report = folder / "report.html"
    if not report.is_file():
        return False
    shown = [folder / "chain.json"]
    for node in nodes:
        shown.append(chain.store.stage(node.id) / "manifest.json")
        if chain.suite:
            shown.append(result_path(chain.store.stage(node.id), chain.suite))
    return all(file.stat().st_mtime <= report.stat().st_mtime for file in shown if file.is_file())


def _sibling(chain: Chain) -> Path | None:
    """The same chain's baseline, or the chain that this is the baseline of, where it has run."""
    name = chain.plan.recipe.name
    other = chain.store.chain(f"{name}-naive" if chain.plan.recipe.baseline is None else name)
    return other if (other / "chain.json").is_file() else None


def _print_report(folder: Path, chain: Chain, node: plans.Node, colour: bool, width: int) -> None:
    from eval.report.story import gather
    from eval.report.terminal import terminal

    if chain.suite is not None:
        story = gather(folder, chain.store.stages)
        print(terminal(story, node.name, width, colour), file=sys.stdout, flush=True)


def _stop(chain: Chain, node: plans.Node, nodes: Sequence[plans.Node]) -> GateStopped | None:
    """What the gate stops the chain with after a node, if it does."""
    from eval.gate import judge
    from eval.matrix import read_matrix

    if chain.suite is None or node.kind == "base":
        return None
    gate = chain.plan.recipe.gate
    rows = [(n.name, n.id, result_path(chain.store.stage(n.id), chain.suite)) for n in nodes]
    matrix = read_matrix(rows, chain.suite.name, chain.suite.hash)
    verdict = judge(matrix, node.name, gate.margin, gate.on_regression)
    if verdict.action != "stop":
        return None
    return GateStopped(
        f"the gate stopped the chain after {node.name}:\n"
        + "\n".join(f"  {message}" for message in verdict.messages)
        + f"\nthe checkpoint is kept in {_shown(chain.store.stage(node.id))}"
    )


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
