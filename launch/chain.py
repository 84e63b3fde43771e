"""Walk a plan: skip what is done, make what is not, probe, link, report, judge."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cpt import plan as plans
from cpt.actions import REMEDIES
from cpt.errors import GateStopped, PlanError, RecipeError
from launch import attempt_files
from launch.console import Console
from launch.keeping import drop_weights, made_again, making_again
from launch.making import make
from launch.opening import Chain, shown
from launch.record import is_current, is_linked, link
from launch.sibling import sibling
from launch.spent import Spent
from launch.trackers import tell_trackers
from stages.candidates import FOLDER as CANDIDATES
from stages.candidates import remove_candidates


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
    nodes = _until(chain.plan, until)
    folder = chain.store.chain(chain.plan.name)
    if restart:
        unfinished = next((node for node in nodes if not chain.store.is_done(node.id)), None)
        if unfinished:
            with chain.store.lock(unfinished.id, console.say):
                attempt_files.keep_alone(chain.store.partial(unfinished.id))
    spent, made, number = Spent(chain, nodes), False, 0
    while number < len(nodes):
        node, is_made = nodes[number], False
        if not chain.is_finished(node) or node.id in made_again(chain, nodes):
            with making_again(chain, node, console.say):
                make(chain, node, console, verbose)
            made = is_made = True
        stop = _judged(chain, node)
        number += 1
        # Its verdict may put another node behind it.
        if is_made and chain.gate.rules.may(*REMEDIES):
            chain = _planned_anew(chain, number)
            nodes = _until(chain.plan, until)
            spent.watch(chain, nodes)
        if is_made or ((stop or number == len(nodes)) and not _is_told(chain, nodes)):
            _tell(chain, console)
            if is_made:
                drop_weights(chain, console.say)
                tell_trackers(chain, console.say)
                _print_report(folder, chain, node, colour, width)
        if stop:
            if made:
                console.say(spent.told())
            raise stop
    drop_weights(chain, console.say)
    if made:
        console.say(spent.told())
    else:
        tell_trackers(chain, console.say)  # those that were away, or are new in the recipe
        console.say(
            f"nothing to do: all {len(nodes)} nodes of {chain.plan.name} are made and probed"
        )
    console.say(f"report: {shown(folder / 'report.html')}")
    return 0


def _planned_anew(chain: Chain, number: int) -> Chain:
    """The chain with what the gate put behind its first `number` nodes.

    Raises:
        PlanError: these are no longer what they were.
    """
    found = chain.again()
    for before, now in zip(chain.plan.nodes[:number], found.plan.nodes, strict=False):
        if before.id != now.id:
            raise PlanError(
                f"{before.name}: was {before.id} and would now be {now.id}: its data or probes changed "
                f"while the chain runs; run the same command again"
            )
    return found


def _until(plan: plans.Plan, until: str | None) -> tuple[plans.Node, ...]:
    if until is None:
        return plan.nodes
    names = [node.name for node in plan.nodes]
    if until not in names:
        raise RecipeError(f"--until {until}: the chain has {', '.join(names)}")
    end = names.index(until) + 1
    while end < len(names) and plan.nodes[end].stands_for == until:  # of its gate
        end += 1
    return plan.nodes[:end]


def _is_told(chain: Chain, nodes: Sequence[plans.Node]) -> bool:
    """Whether the links and the report say what is so; then nothing is touched."""
    return is_linked(chain) and is_current(chain.store.chain(chain.plan.name), chain, nodes)


def _tell(chain: Chain, console: Console) -> None:
    """Write the links and the report; a second run of the chain waits, and then reads what is newest."""
    from eval.report.write import write_report

    with chain.store.chain_lock(chain.plan.name):
        folder = link(chain)
        write_report(folder, chain.store.stages, sibling(folder, console.say))


def _print_report(folder: Path, chain: Chain, node: plans.Node, colour: bool, width: int) -> None:
    from eval.report.gather import gather
    from eval.report.terminal import terminal

    if chain.suite is not None:
        story = gather(folder, chain.store.stages)
        print(terminal(story, node.name, width, colour), file=sys.stdout, flush=True)


def _judged(chain: Chain, node: plans.Node) -> GateStopped | None:
    """Keep the gate's verdict on a node that is measured; what it stops the chain with, if it does."""
    if chain.suite is None:
        return None
    gate = chain.gate
    if node.kind == "base":
        gate.check_splits()
        return None
    verdict = gate.verdict(node)
    gate.record(node, verdict)
    told = "\n".join(f"  {message}" for message in verdict.messages)
    if node.stands_for:  # only now no candidate is needed any more
        remove_candidates(chain.store.stage(node.merged[0]))
    elif verdict.action in ("pass", "warn"):
        remove_candidates(chain.store.stage(node.id))
    if verdict.action != "stop":
        return None
    what, kept = f"the gate stopped the chain after {node.name}", [node.id]
    if node.stands_for:
        what = f"the {node.kind} of {node.stands_for} failed, and the gate stopped the chain"
        kept += node.merged
    places = " and ".join(shown(chain.store.stage(stage_id)) for stage_id in kept)
    are = "checkpoints are" if len(kept) > 1 else "checkpoint is"
    on_the_way = (chain.store.stage(node.id) / CANDIDATES).is_dir()
    more = f", and those on the way to it in its {CANDIDATES}/" if on_the_way else ""
    return GateStopped(f"{what}:\n{told}\nthe {are} kept in {places}{more}")
