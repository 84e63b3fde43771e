"""Code that runs in the workers of a launch before anything else: a crash, a wait, a number that is none."""

import os
from pathlib import Path

from launch.backend import ROOT

HEAD = """
import os, time
rank = int(os.environ.get("RANK", "-1"))
if {alone} or rank >= 0:
    from cpt.hooks.trainer import _Hooks

    def before_each_step(act):
        step = _Hooks.training_step

        def acting(self, *args, **kwargs):
            act(self, self.state.global_step + 1)
            return step(self, *args, **kwargs)

        _Hooks.training_step = acting

"""


def planted(folder: Path, code: str, alone: bool = False) -> dict[str, str]:
    """Variables for a chain whose workers run `code`, which knows `rank` and `before_each_step(act)`.

    Python imports `sitecustomize` when it starts, from the first place that has one.

    Args:
        alone: the chain trains itself, and has no workers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    indented = "".join(f"    {line}\n" for line in code.strip().splitlines())
    (folder / "sitecustomize.py").write_text(HEAD.replace("{alone}", str(alone)) + indented)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{folder}:{ROOT}"}
