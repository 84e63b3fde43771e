"""A stage started by hand: a stage file and `key=value` arguments, checked as a chain would be.

A stage that merges is given its models as a list, parent=[a, b], and what they come from as base= and onto=.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpt import manifest, overrides, past
from cpt import read_recipe as recipes
from cpt.adapter_rules import check_adapters
from cpt.conflicts import check_hooks, check_parts, check_recalls
from cpt.errors import PlanError, RecipeError
from cpt.hooks import table
from cpt.hooks.stack import in_order
from cpt.merging.checks import check_lineage
from cpt.past import Past
from cpt.recipe import StageSpec, keys
from cpt.redact import redact
from cpt.roles import check_role, roles_of
from cpt.settings import did_you_mean
from cpt.stage_id import stage_id, stage_inputs
from eval.suite import load_suite
from launch.backend import backend
from launch.checks import asked, check_batches
from launch.installed import ATTENTION, lacking, named_in, refuse_missing
from launch.lineage import nodes
from launch.nearest import check_stages
from launch.origin import check_dtype, dtype_of, past_of
from launch.steering import steering
from launch.topology import launched
from launch.watching import watching
from stages import kind_of
from stages.base import Job
from stages.trl_fields import check_train

OWN = (
    "parent",
    "output",
    "reference",
    "reward",
    "teacher",
    "base",
    "onto",
    "seed",
    "name",
    "suite",
    "dtype",
    "attention",
    "deterministic",
)


def job_by_hand(arguments: Sequence[str]) -> Job:
    """A job from a stage file and `key=value` arguments.

    Raises:
        RecipeError: a missing or unknown argument, or a wrong stage.
    """
    file = Path(arguments[0])
    given: dict[str, Any] = {}
    tree = recipes.read_stage(file)
    for text in arguments[1:]:
        parts, value = overrides.split(text)
        if len(parts) == 1 and parts[0] in OWN:
            given[parts[0]] = value
        else:
            known = [*OWN, *keys(StageSpec)]
            if parts[0] not in known:
                raise RecipeError(
                    f"{text}: a stage has no {parts[0]!r}{did_you_mean(parts[0], known)}"
                )
            value = recipes.expand_change(parts, value, text)
            overrides.apply(tree, parts, value, text, known)
    for name in ("parent", "output"):
        if name not in given:
            raise RecipeError(f"{file}: {name} is missing; write {name}=<folder>")
    spec = recipes.check_stage(tree, str(file))
    kind = kind_of(spec.kind, str(file))
    if kind.trains:
        spec = spec.model_copy(update={"train": check_train(kind.config, spec.train, str(file))})
    named = given["parent"] if isinstance(given["parent"], list) else [given["parent"]]
    if spec.merge is not None:  # how many they are is known only now
        spec = spec.model_copy(update={"from_": [str(name) for name in named]})
    check_parts(spec, kind, str(file))
    kind.check(spec, str(file))
    hooks = [table.build(hook.name, dict(hook.settings), str(file)) for hook in spec.hooks]
    refuse_missing(
        [
            *lacking(f"{file}: attention", given.get("attention"), ATTENTION),
            *(
                sentence
                for where, value, known in named_in(spec.train)
                for sentence in lacking(f"{file}: {where}", value, known)
            ),
        ]
    )
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = backend(launched(size))
    check_hooks(hooks, spec, kind, str(file), [])
    check_batches(spec, kind, size, spec.checkpoint_every)
    check_stages(
        chosen,
        [asked(spec, in_order(hooks))],
        lambda other: (other.name == "single") == (size == 1) and other.nodes == chosen.nodes,
    )
    if kind.trains and len(named) != 1:
        raise RecipeError(
            f"{file}: parent: a {kind.name} stage continues one stage, not {len(named)}"
        )
    parent, *further = [_place(name) for name in named]
    before = past_of(parent, f"parent={parent}")
    parents = {"parent": before[-1].id}
    roles: dict[str, str] = {}
    if spec.merge is not None:
        if size > 1:
            raise PlanError(
                f"{file}: a merge runs in one process, not {size}; start it with python -m launch.stage"
            )
        before = _merged(spec, [parent, *further], given, str(file), roles, parents)
    for role in ("reference", "reward", "teacher"):
        if role in given:
            check_role(role, str(given[role]), spec, kind, str(file))
            roles[role] = _place(given[role])
            parents[role] = past_of(roles[role], f"{role}={roles[role]}")[-1].id
    for role, target in roles_of(spec, kind, str(file)).items():
        if role in roles:
            continue
        if target == "previous":
            roles[role], parents[role] = parent, parents["parent"]
        else:
            stage = _earlier(before, target, f"{file}: {role}")
            roles[role], parents[role] = str(stage.folder or stage.checkpoint), stage.id
    seed = int(given.get("seed", spec.seed if spec.seed is not None else 17))
    suite = Path(str(given["suite"])) if "suite" in given else None
    suite_hash = load_suite(suite).hash if suite and spec.hygiene.probes == "drop" else ""
    if spec.hygiene.probes in ("drop", "refuse") and suite is None:
        raise RecipeError(
            f"{file}: hygiene.probes: {spec.hygiene.probes}, and no suite is given; write suite=<file>"
        )
    lineage = nodes(before)
    for hook in hooks:
        check_recalls(hook, kind, lineage, kind_of, str(file))
    check_adapters(hooks, lineage, str(file))
    recalled = {stage.name: stage.id for stage in before}
    steered = steering(spec.merge, str(file)) if spec.merge else None
    watched = watching(spec.watch, str(file)) if spec.watch else ""
    inputs = stage_inputs(spec, kind, parents, hooks, seed, recalled, suite_hash, steered, watched)
    made_in = dtype_of(before) or "float32"
    dtype = check_dtype(given.get("dtype", made_in), f"{file}: dtype")
    if dtype != made_in:  # in a chain the base model's id has it
        inputs["load"] = {"dtype": dtype}
    output = Path(str(given["output"])).absolute()
    _check_output(output, stage_id(inputs))
    load = {"dtype": dtype, "attention": given.get("attention")}
    return Job(
        name=str(given.get("name", file.stem)),
        id=stage_id(inputs),
        spec=spec,
        seed=seed,
        parent=parent,
        roles=roles,
        output=output,
        inputs=inputs,
        parents=parents,
        backend=chosen.name,
        num_processes=size,
        checkpoint_every=None,
        load=load,
        suite=suite,
        how={"command": _command(arguments, chosen.name, size)},
        deterministic=_flag(given.get("deterministic", False), f"{file}: deterministic"),
    )


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{where}: {value!r} is neither true nor false")
    return value


def _command(arguments: Sequence[str], launch: str, size: int) -> str:
    """How the stage was started, as it can be started again from the same folder."""
    start = ["python"]
    if launch != "single":
        config = f"configs/accelerate/{launch}.yaml"
        start = ["accelerate", "launch", "--config_file", config, "--num_processes", str(size)]
    return shlex.join(map(redact, [*start, "-m", "launch.stage", *arguments]))


def _merged(
    spec: StageSpec,
    models: Sequence[str],
    given: Mapping[str, Any],
    where: str,
    roles: dict[str, str],
    parents: dict[str, str],
) -> Past:
    """The past of all that a merge is made of; its further models, base and onto go into `roles` and
    `parents`."""
    assert spec.merge is not None
    pasts = {name: past_of(name, f"parent={name}") for name in models}
    for number, name in enumerate(models[1:], start=2):
        roles[f"parent.{number}"], parents[f"parent.{number}"] = name, pasts[name][-1].id
    known = past.union([*pasts.values()])
    others = {}
    for role, target in spec.merge.places().items():
        if role in given:
            roles[role] = _place(given[role])
            others[role] = past_of(roles[role], f"{role}={roles[role]}")
            parents[role] = others[role][-1].id
        else:
            stage = _earlier(known, target, f"{where}: {role}")
            roles[role], parents[role] = str(stage.folder or stage.checkpoint), stage.id
    if not spec.merge.unrelated:
        lines = {name: [stage.id for stage in line] for name, line in pasts.items()}
        check_lineage(lines, parents.get("base"), where)
    return past.union([*others.values(), *pasts.values()])


def _place(name: object) -> str:
    """A folder's absolute path, or a hub id as it is."""
    return str(Path(str(name)).absolute()) if Path(str(name)).is_dir() else str(name)


def _earlier(before: past.Past, name: str, where: str) -> past.PastStage:
    """The stage of a name in the parent's past; a chain's own stages are known there."""
    found = [stage for stage in before if stage.name == name]
    if not found:
        raise RecipeError(
            f"{where}: {name!r} is not in the parent's past, which is "
            f"{', '.join(stage.name for stage in before)}; write {where.rpartition(' ')[2]}=<folder>"
        )
    return found[-1]


def _check_output(output: Path, stage_id: str) -> None:
    """Refuse to write over what is not this very stage."""
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / "manifest.json").is_file():
        raise RecipeError(f"output={output}: holds other files; name a new folder")
    there = manifest.read(output).id
    if there != stage_id:
        raise RecipeError(
            f"output={output}: holds {there}, and this stage is {stage_id}; name a new folder"
        )
