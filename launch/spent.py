"""Where the time of a run went, and the most memory that a process took; one line at the end of `cpt run`."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence

from cpt import manifest
from cpt.plan import Node
from eval.head import head_of
from eval.probe import result_path
from eval.report.text import duration
from launch.opening import Chain


class Spent:
    """Watches a run from its start.

    Parts are those of the manifests (load, train, merge, save) and probe, summed over what this run made;
    `other` is the rest of its time: imports, the base model, reports, waiting.
    """

    def __init__(self, chain: Chain, nodes: Sequence[Node]) -> None:
        self.began = time.monotonic()
        self.known: set[str] = set()
        self.made: list[str] = []
        self.probed: list[str] = []
        self.watch(chain, nodes)

    def watch(self, chain: Chain, nodes: Sequence[Node]) -> None:
        """Take in nodes that were not in the plan before."""
        self.chain = chain
        new = [node.id for node in nodes if node.id not in self.known]
        self.known.update(new)
        self.made += [stage_id for stage_id in new if not chain.store.is_done(stage_id)]
        self.probed += [stage_id for stage_id in new if not chain.probed(stage_id)]

    def parts(self) -> dict[str, float]:
        """Seconds by part of what was made since the start."""
        store, found = self.chain.store, dict[str, float]()
        for stage_id in filter(store.is_done, self.made):
            for part, seconds in manifest.read(store.stage(stage_id)).seconds.items():
                found[part] = found.get(part, 0.0) + seconds
        for stage_id in self.probed:
            if self.chain.suite and self.chain.probed(stage_id):
                result = result_path(store.stage(stage_id), self.chain.suite)
                found["probe"] = found.get("probe", 0.0) + float(
                    head_of(result).get("seconds") or 0.0
                )
        return found

    def told(self) -> str:
        """The line."""
        return line(self.parts(), time.monotonic() - self.began, peak_memory())


def line(parts: Mapping[str, float], total: float, peak: int) -> str:
    """`time: load 3.1 s, train 8 min 20 s, other 20.0 s; together 8 min 43 s; peak memory 6.20 GiB`."""
    rest = max(0.0, total - sum(parts.values()))
    told = [f"{part} {duration(seconds)}" for part, seconds in {**parts, "other": rest}.items()]
    return (
        f"time: {', '.join(told)}; together {duration(total)}; peak memory {peak / 2**30:.2f} GiB"
    )


def peak_memory() -> int:
    """Bytes of the largest process so far: this one, or one that it waited for, with its own children."""
    unit = 1 if sys.platform == "darwin" else 1024
    users = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(user).ru_maxrss for user in users) * unit
