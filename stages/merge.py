"""`kind: merge`: a stage that trains nothing; its weights are made of those of earlier stages.

    kind: merge
    from: [code, chat]
    merge: {method: ties, base: base, density: 0.2}

The methods and their cards are in `cpt.merging.averages` and `cpt.merging.deltas`. What the stage leaves is
what any other leaves: a checkpoint, exemplars (of the merged stages' together), a manifest with its past, a
log. It needs no trainer and no process group, and of memory one tensor of each model.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from cpt import checkpoint, ids, past
from cpt.errors import RecipeError
from cpt.hooks.card import Card
from cpt.hooks.context import StageContext
from cpt.hooks.stack import HookStack
from cpt.merging.merge import Folders, look, merge
from cpt.merging.spec import GreedySoup, Layerwise, Method, Soup
from cpt.past import NUM_EXEMPLARS, Past, PastStage
from cpt.recipe import StageSpec
from cpt.rows import Row, RowFormat
from cpt.store import publish, replacing
from cpt.world import World
from stages import kind_of
from stages.base import Job, StageKind
from stages.greedy import chosen
from stages.interruption import check_topology, remove_leftovers
from stages.log import StageLog
from stages.memory import peaks
from stages.notes import Clock, note_check, read_checks
from stages.opening import past_of, verify
from stages.publish import describe, write_lines
from stages.same_tokens import check_texts, check_tokenizers
from stages.tilts import searched
from stages.trials import Score, Trials

#: What a merge has no use for: (setting, what it would say).
TRAINS = ("data", "train", "hooks", "rewards", "model", "micro_batch", "checkpoint_every")
CANDIDATE, SCORES, NOTES = "candidate", "scores.json", "merge_notes"


class Merge(StageKind):
    """Merges earlier stages; see `cpt.merging`."""

    name: ClassVar[str] = "merge"
    trains: ClassVar[bool] = False
    config: ClassVar[str] = ""
    formats: ClassVar[tuple[RowFormat, ...]] = ()
    checks_eos: ClassVar[bool] = False
    card: ClassVar = Card(
        family="weight averaging",
        formula="""soup:             sum_k s_k w_k, sum_k s_k = 1; greedy_soup: of those that a probe prefers
slerp:            along the great circle between two models
task_arithmetic:  onto + sum_k s_k (w_k - w_base); onto another base it is a rebase
ties, dare_*:     onto + strength * what is left of the w_k - w_base, trimmed or dropped
layerwise:        a share of two models for each block of layers""",
        when="For branches from one ancestor: runs of one stage with other seeds (soup), experts for "
        "several tasks (task_arithmetic 0.3 to 0.5 each, ties), or an instruction delta on a base "
        "that was pretrained further (task_arithmetic with onto).",
        cost="No training: each checkpoint is read once and the result written once, tensor by "
        "tensor; greedy_soup also measures its probe for each candidate.",
        state="0 (one tensor of each model at a time)",
        fails="Models without a common ancestor, or far from it, have a ridge between them. Large or "
        "opposed changes interfere: their norms and cosines are in the manifest.",
        evidence="newer",
        sources=(
            "Wortsman et al. 2022, arXiv:2203.05482 (soups)",
            "Ilharco et al. 2023, arXiv:2212.04089 (task arithmetic)",
            "Yadav et al. 2023, arXiv:2306.01708 (TIES)",
            "Yu et al. 2024, arXiv:2311.03099 (DARE)",
            "methods.md B08, B09 (production-validated), B12, B13 (newer), P068 (research)",
        ),
    )

    def check(self, spec: StageSpec, where: str) -> None:
        """Refuse what only training needs, and settings that do not fit the models."""
        problems = [
            f"{name}: a merge stage trains nothing; remove it"
            for name in (*TRAINS, *spec.roles())
            if getattr(spec, name)
        ]
        if spec.merge is None:
            problems.append("merge: is missing; write merge: {method: soup}, or another method")
        else:
            num_models = len(spec.from_) if isinstance(spec.from_, list) else 1
            problems += spec.merge.problems(num_models)
        if problems:
            raise RecipeError("\n".join(f"{where}: {problem}" for problem in problems))


@dataclass(frozen=True)
class Made:
    """What the manifest says of a merge."""

    notes: list[str]
    num_steps: int = 0
    description: list[dict[str, Any]] = field(default_factory=list)


def make(job: Job, say: Callable[[str], None], score: Score | None = None) -> None:
    """Make a merge stage and publish its folder, or continue where it was interrupted.

    Args:
        job: the stage; its parent and roles are the models.
        say: told what happens.
        score: of a checkpoint folder, higher is better; for methods that choose by one.

    Raises:
        StoreError: a model is damaged, or not there.
        EdgeError: the models do not fit one another.
    """
    assert job.spec.merge is not None
    partial, clock = job.partial, Clock()
    partial.mkdir(parents=True, exist_ok=True)
    # On whatever backend its chain runs: one process merges, and the result is the same.
    check_topology(partial, replace(job, backend="single"), World())
    with StageLog(partial / "log.txt", say, job.verbose) as log:
        before = past_of(job)
        stages = {role: _stage(folder) for role, folder in _places(job).items()}
        sources = [stage for role, stage in stages.items() if role != "base"]
        if not (partial / "checkpoint").is_dir():
            _check(job, stages)
            clock.lap("load")
            _merge(job, job.spec.merge, _folders(stages), score, log.say)
            clock.lap("merge")
        if not (partial / "manifest.json").is_file():
            _describe(job, before, sources, clock)
        for note in read_checks(partial).get(NOTES, []):
            log.say(f"{job.name}: note: {note}")
        shutil.rmtree(partial / CANDIDATE, ignore_errors=True)
        (partial / SCORES).unlink(missing_ok=True)
        remove_leftovers(partial)
        publish(partial, job.output)


def _places(job: Job) -> dict[str, str]:
    """Role -> folder or hub id: the models in order, then base and onto."""
    numbered = sorted(
        (role for role in job.roles if role.startswith("parent.")),
        key=lambda role: int(role.rpartition(".")[2]),
    )
    rest = [role for role in ("base", "onto") if role in job.roles]
    return {"parent": job.parent} | {role: job.roles[role] for role in (*numbered, *rest)}


def _stage(name: str) -> PastStage:
    folder = Path(name)
    return (past.of_folder(folder) if folder.is_dir() else past.of_checkpoint(name))[-1]


def _folders(stages: dict[str, PastStage]) -> Folders:
    # A folder that is no stage has no name but its own.
    entries = {
        role: (stage.name if stage.folder else stage.checkpoint, Path(stage.checkpoint))
        for role, stage in stages.items()
    }
    models = tuple(entry for role, entry in entries.items() if role.startswith("parent"))
    return Folders(models, entries.get("base"), entries.get("onto"))


def _check(job: Job, stages: dict[str, PastStage]) -> None:
    """Refuse damaged models, other tokenizers, other shapes; before weights are merged.

    Models have one tokenizer in all that it does. What their change is measured from and put onto may lack
    tokens at the end of the vocabulary, and have another chat template.
    """
    trust = bool(job.load.get("trust_remote_code"))
    for stage in {stage.id: stage for stage in stages.values()}.values():
        if stage.folder is not None:
            verify(stage.folder)
    own = checkpoint.load_tokenizer(stages["parent"].checkpoint, trust)
    first = stages["parent"]
    for role, stage in stages.items():
        if stage.id == first.id:
            continue
        other = checkpoint.load_tokenizer(stage.checkpoint, trust)
        compare = check_tokenizers if role.startswith("parent") else check_texts
        compare(own, other, f"{job.name}: {first.name} and {stage.name}")
    look(_folders(stages))


def _merge(
    job: Job, method: Method, folders: Folders, score: Score | None, say: Callable[[str], None]
) -> None:
    """Write `checkpoint/`, whole or not at all, and before it what the manifest will tell."""
    partial = job.partial
    if isinstance(method, GreedySoup):
        soup = Soup(method="soup", shard_bytes=method.shard_bytes)
        found = chosen(folders, soup, _trials(job, score, say))
        scores = [[_names(folders, places), value] for places, value in found.scores.items()]
        told = {"chosen": _names(folders, found.places), "scores": scores}
        note_check(partial, "greedy_soup", told)
        folders, method = folders.only(found.places), soup
    elif isinstance(method, Layerwise) and method.chooses:
        method, value = searched(folders, method, _trials(job, score, say))
        note_check(partial, "search", {"tilts": method.tilts, "value": value})
    say(f"{job.name}: {method.name} of {', '.join(_names(folders))}")
    with replacing(partial / "checkpoint") as folder:
        found_out = merge(folders, method, job.seed, folder)
        for name, value in found_out.checks.items():
            note_check(partial, name, value)
        note_check(partial, NOTES, list(found_out.notes))


def _trials(job: Job, score: Score | None, say: Callable[[str], None]) -> Trials:
    assert score is not None
    places = (job.partial / CANDIDATE, job.partial / SCORES)
    return Trials(score, *places, job.id, lambda line: say(f"{job.name}: {line}"))


def _names(folders: Folders, places: Sequence[int] | None = None) -> list[str]:
    chosen_places = range(len(folders.models)) if places is None else places
    return [folders.models[place][0] for place in chosen_places]


def _describe(job: Job, before: Past, sources: Sequence[PastStage], clock: Clock) -> None:
    """Exemplars and, last, the manifest."""
    partial, kind = job.partial, kind_of(job.spec.kind, job.name)
    write_lines(partial / past.EXEMPLARS, exemplars(sources, job.seed))
    checks = read_checks(partial)
    notes = list(checks.pop(NOTES, []))
    clock.lap("save")
    ctx = StageContext(job.name, kind.name, kind.formats, job.seed, World(), sources[0].checkpoint)
    entry = describe(
        job,
        kind,
        before,
        Made(notes),
        HookStack([], ctx),
        World(),
        clock.seconds,
        checks,
        peaks(World()),
    )
    checkpoint.sync(partial)  # what the manifest vouches for
    entry.write(partial)


def exemplars(sources: Sequence[PastStage], seed: int) -> list[Row]:
    """The rows that the merged stages left, each once; a uniform sample of them where they are too many."""
    rows = {ids.canonical(row): row for stage in sources for row in stage.rows()}
    if len(rows) <= NUM_EXEMPLARS:
        return list(rows.values())
    kept = random.Random(seed).sample(range(len(rows)), NUM_EXEMPLARS)
    every = list(rows.values())
    return [every[place] for place in sorted(kept)]
