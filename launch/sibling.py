"""The chain that a report sets beside its own. Imports little: a report must not wait for planning."""

from collections.abc import Callable
from pathlib import Path

from cpt.chain_file import REPORTED, read_chain
from cpt.errors import StoreError

#: Of several that have run, the first is the one that a report shows; `cpt report --against` names another.
BASELINES = ("naive", "joint")


def sibling(folder: Path, say: Callable[[str], None]) -> Path | None:
    """A chain's baseline, or the chain that it is the baseline of: where it has run, and compares.

    Args:
        folder: the chain's.
        say: told why a sibling that is there is left out.
    """
    chain = read_chain(folder / "chain.json", REPORTED)
    baseline = chain.get("baseline")
    own = chain["name"]
    names = [own.removesuffix(f"-{baseline}")] if baseline else [f"{own}-{b}" for b in BASELINES]
    there = [name for name in names if (folder.with_name(name) / "chain.json").is_file()]
    if not there:
        return None
    name, other = there[0], folder.with_name(there[0])
    try:
        hashes = [
            tree["suite"]["hash"] for tree in (chain, read_chain(other / "chain.json", REPORTED))
        ]
    except StoreError as error:
        say(f"not compared with {name}: {error}")
        return None
    if len(set(hashes)) > 1:
        say(f"not compared with {name}: it was measured with another suite; run it again")
        return None
    return other
