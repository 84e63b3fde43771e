"""A job as text, for the workers of a process group."""

import json
from pathlib import Path
from typing import Any

from cpt import read_recipe as recipes
from cpt.gate_spec import GateSpec
from cpt.joint import Joined
from stages.base import Job


def job_to_json(job: Job) -> str:
    """A job as one JSON text, for a worker in another process."""
    tree: dict[str, Any] = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    tree["spec"] = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree["gate"] = job.gate and job.gate.model_dump(mode="json")
    tree["file"] = job.spec.file
    tree["joined"] = [
        {
            "name": each.name,
            "seed": each.seed,
            "file": each.spec.file,
            "spec": each.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        for each in job.joined
    ]
    return json.dumps(
        {key: str(value) if isinstance(value, Path) else value for key, value in tree.items()}
    )


def job_from_json(text: str) -> Job:
    """The inverse of `job_to_json`."""
    tree = json.loads(text)
    tree["spec"] = recipes.check_stage(tree["spec"], tree.pop("file"))
    tree["trackers"] = tuple(tree["trackers"])
    tree["gate"] = GateSpec.model_validate(tree["gate"]) if tree["gate"] else None
    tree["joined"] = tuple(
        Joined(each["name"], recipes.check_stage(each["spec"], each["file"]), each["seed"])
        for each in tree["joined"]
    )
    for name in ("output", "suite", "store"):
        tree[name] = Path(tree[name]) if tree[name] is not None else None
    return Job(**tree)
