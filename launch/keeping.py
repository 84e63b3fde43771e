"""`keep.stages` of a chain: whose weights go, and which stages are made again since something reads them."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cpt import manifest
from cpt.errors import StoreError
from cpt.hooks.lora import stays_apart
from cpt.plan import Node
from cpt.reachable import chains, pinned, reachable, unnamed_work
from cpt.removed_weights import remove_weights, removed_weights
from launch.gc import Busy, lock_if_free, size_text
from launch.opening import Chain

#: What a stage left that is being made again, beside it.
_ASIDE = ".without-weights"


def made_again(chain: Chain, nodes: Sequence[Node]) -> dict[str, str]:
    """Id of each stage without weights that something of these nodes reads -> what does, for people."""
    wanted = chain.plan.recipe.keep.stages
    by_id = {node.id: node for node in chain.plan.nodes}
    readers: dict[str, str] = {}
    again: dict[str, str] = {}
    for node in reversed(nodes):  # children before their parents
        reader = readers.get(node.id, "")
        if not reader and not chain.is_finished(node):
            reader = "its probes"
        if not reader and _is_named(node, wanted):
            reader = "keep.stages"
        is_without = bool(removed_weights(chain.store.stage(node.id)))
        if is_without and reader:
            again[node.id] = reader
        if node.id in again or not chain.store.is_done(node.id):
            for stage_id in _read_by(node, by_id):
                readers.setdefault(stage_id, node.name)
    return again


def told(chain: Chain) -> Iterator[str]:
    """One sentence for each stage that the next run makes again."""
    names = {node.id: node.name for node in chain.plan.nodes}
    for stage_id, reader in made_again(chain, chain.plan.nodes).items():
        yield (
            f"{names[stage_id]}: its weights were removed, and {reader} needs them; cpt run makes it again"
        )


def drop_weights(chain: Chain, say: Callable[[str], None]) -> None:
    """Remove the weights that the recipe does not keep and nothing still reads.

    What another chain names or a person pinned stays, and what somebody works at now.
    """
    policy = chain.plan.recipe.keep.stages
    if policy == "all":
        return
    nodes = chain.plan.nodes
    by_id = {node.id: node for node in nodes}
    try:
        kept = _of_others(chain)
        work = unnamed_work(chain.store, chains(chain.store))
    except StoreError as error:
        say(f"keep.stages: nothing is removed: {error}")
        return
    if work:
        say(
            f"keep.stages: nothing is removed yet: {work[1].told()} makes {work[0]} for no chain yet, "
            f"and may read any of it"
        )
        return
    again = made_again(chain, nodes)
    for node in nodes:
        if node.id in again or not chain.is_finished(node):
            kept |= {node.id, *_read_by(node, by_id)}
    last = nodes[-1].id
    for node in nodes:
        is_kept = node.id == last if policy == "last" else _is_named(node, policy)
        if node.kind != "base" and node.id not in kept and not is_kept:
            _drop(chain, node, say)


def _is_named(node: Node, policy: str | list[str]) -> bool:
    return isinstance(policy, list) and not {node.name, node.stands_for}.isdisjoint(policy)


def _of_others(chain: Chain) -> set[str]:
    """Ids that other chains name, and all that pinned stages came from."""
    store = chain.store
    trees = {name: tree for name, tree in chains(store).items() if name != chain.plan.name}
    named = {str(node["id"]) for tree in trees.values() for node in tree["nodes"]}
    return named | reachable(store, {}, pinned(store))


def _read_by(node: Node, by_id: Mapping[str, Node]) -> set[str]:
    """Ids of the stages whose weights a node is made with: its parents, what its hooks recall, and what
    lies below adapters that these keep apart."""
    found = {*node.parents.values()}
    earlier = [*by_id][: [*by_id].index(node.id)]
    recalled = {name for _, hook in node.hooks for name in hook.recalls()}
    found |= {other for other in earlier if "all" in recalled or by_id[other].name in recalled}
    # What a gate made is recalled under the name of the stage that it stands for.
    found |= {other for other in earlier if by_id[other].stands_for in recalled}
    for stage_id in [*found]:
        below = by_id.get(stage_id)
        while below is not None and (below.stands_for or stays_apart([h for _, h in below.hooks])):
            found.add(below.parents["parent"])
            below = by_id.get(below.parents["parent"])
    return found


def _drop(chain: Chain, node: Node, say: Callable[[str], None]) -> None:
    stage = chain.store.stage(node.id)
    names = [
        name
        for name in manifest.read(stage).files
        if name.startswith("checkpoint/") and name.endswith(".safetensors")
    ]
    if not any((stage / name).is_file() for name in names):
        return
    try:
        with lock_if_free(chain.store, node.id):
            num_bytes = remove_weights(stage, names)
    except Busy as busy:
        say(f"{node.name}: weights stay (keep.stages): {busy}")
        return
    say(f"{node.name}: weights removed (keep.stages), {size_text(num_bytes)}")


@contextmanager
def making_again(chain: Chain, node: Node, say: Callable[[str], None]) -> Iterator[None]:
    """A stage without weights is as if it were not there while the block makes it.

    What only it had (verdicts, results of other suites) comes back where the weights are the same.
    """
    stage = chain.store.stage(node.id)
    aside = stage.with_name(f"{stage.name}{_ASIDE}")
    if removed_weights(stage):
        with chain.store.lock(node.id, say):
            if removed_weights(stage):  # nobody else has begun
                stage.rename(aside)
    yield
    if aside.is_dir() and chain.store.is_done(node.id):
        with chain.store.lock(node.id, say):
            _bring_back(aside, stage, lambda text: say(f"{node.name}: {text}"))


def _bring_back(aside: Path, stage: Path, say: Callable[[str], None]) -> None:
    before, now = (manifest.read(folder).checkpoint_files for folder in (aside, stage))
    weights = [name for name in before if name.endswith(".safetensors")]
    if any(before[name] != now.get(name) for name in weights):
        say("made again with other weights than before; what was made of those stays as it is")
    else:
        for part in ("probes", "gate"):
            for file in sorted((aside / part).glob("*")):
                if not (stage / part / file.name).exists():
                    (stage / part).mkdir(exist_ok=True)
                    file.rename(stage / part / file.name)
    shutil.rmtree(aside)
