"""What only reads files answers at once: it imports neither torch nor anything built on it."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "lm_eval",
    "peft",
    "accelerate",
    "deepspeed",
    "numpy",
)
LIGHT = (
    "cpt.recipe",
    "cpt.read_recipe",
    "cpt.plan",
    "cpt.store",
    "cpt.manifest",
    "cpt.data",
    "cpt.hooks.table",
    "stages",
    "stages.trl_fields",
    "stages.trl_args",
    "eval.suite",
    "eval.matrix",
    "eval.compare",
    "eval.continual",
    "eval.by_group",
    "eval.gate",
    "eval.choice",
    "eval.noise",
    "eval.report",
    "eval.stability",
    "launch.backend",
    "launch.comparing",
    "launch.honoured",
    "launch.nearest",
    "launch.nodes",
    "launch.topology",
    "launch.verdicts",
    "launch.installed",
    "launch.methods",
    "launch.methods_text",
    "launch.slurm.command",
    "launch.hang",
    "launch.signals",
    "launch.regression",
    "launch.verify",
    "launch.gc",
    "launch.export",
    "cpt.locks",
    "cpt.verified",
    "cpt.reachable",
    "cpt.retention",
    "launch.reproduce",
    "cpt.estimate",
    "cpt.machine_spec",
    "cpt.plan_table",
    "stages.workload",
    "stages.candidates",
    "stages.beats",
    "stages.stopping",
    "stages.repair",
)

# Importing a blocked module is an error, not merely noticed: nothing can catch up later.
BLOCK = f"""
import importlib, importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("module", LIGHT)
def test_module_imports_nothing_heavy(module: str) -> None:
    run(f"importlib.import_module({module!r})")


def test_the_methods_and_their_cards_are_listed_without_torch() -> None:
    run(
        "from launch.methods import methods\n"
        "from launch.methods_text import card_text, table_text\n"
        "found = methods()\n"
        "assert len(table_text(found).splitlines()) > len(found)\n"
        "assert all(card_text(each) for each in found)\n"
    )


def test_every_hook_and_stage_kind_loads_without_torch() -> None:
    run(
        "from cpt.hooks import table\n"
        "from stages import KINDS\n"
        "for place in [*table.TABLE.values(), *KINDS.values()]:\n"
        "    module, _, name = place.partition(':')\n"
        "    getattr(importlib.import_module(module), name)\n"
    )
