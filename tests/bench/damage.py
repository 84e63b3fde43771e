"""A real model, damaged on purpose: the gate fires, and its repair brings the model back within its margins.

    python -m tests.bench.damage [--scale 0.6] [--layer 12] [--folder KEEP]

SmolLM2-135M-Instruct as the quickstart has it, one sft stage on questions about code, and behind its last
step noise in the weights of one layer: N(0, (scale * std)^2) on each of its matrices, a hook of this file.
The chain is the product's own, with `gate: {on_regression: repair}`; probes choose on a third of their items
and report on the rest, and the base model is measured twice. Written to tests/bench/results/damage.{json,md};
the exit code is 1 where the gate did not fire, or where a probe of what it made lies beyond its margin of the
base, by point estimate: that no fall is shown, as the gate asks, would say little on some 60 items a probe.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.context import StageContext
from eval.noise import sentence
from eval.report.story import Stage, Story

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
PROBES = {
    "code_skill": ("domain", "probe_skill", True),
    "facts": ("knowledge", "probe_facts", False),
    "commonsense": ("reasoning", "probe_commonsense", False),
    "english": ("language", "probe_english", False),
    "prose": ("language", "probe_prose", False),
}


@dataclass
class Damage(Hook):
    """Noise in the weights of one layer, behind the stage's last step."""

    name: ClassVar[str] = "damage"
    order: ClassVar[int] = 9

    layer: int = 12
    scale: float = 0.6

    def merge(self, model: Any, ctx: StageContext) -> Any:
        """Add the noise."""
        import torch

        source = torch.Generator().manual_seed(ctx.seed)
        with torch.no_grad():
            for weight in model.base_model.layers[self.layer].parameters():
                if weight.ndim == 2:
                    noise = torch.randn(weight.shape, generator=source)
                    weight.add_(noise.to(weight) * self.scale * weight.std())
        return model


def main() -> int:
    """Run the chain and write what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.6)
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--steps", type=int, default=16, help="of the sft stage")
    parser.add_argument("--limit", type=int, default=120, help="items of a probe")
    parser.add_argument("--folder", type=Path, default=None, help="work here and keep it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cpt-damage-"))
    folder.mkdir(parents=True, exist_ok=True)
    table.TABLE["damage"] = "tests.bench.damage:Damage"
    story = _run(_recipe(given, folder), folder / "runs")
    result = outcome(story)
    settings = f"--scale {given.scale} --layer {given.layer} --limit {given.limit}"
    result["command"] = f"python -m tests.bench.damage {settings}"
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "damage.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.results / "damage.md").write_text(markdown(result))
    print(markdown(result))
    return 0 if result["fired"] and result["is_within"] else 1


def _recipe(given: argparse.Namespace, folder: Path) -> Path:
    """Suite and chain as files, as a person would write them."""
    code = str(ROOT / "configs/data/code.yaml")
    probes = {
        name: {
            "group": group,
            "chat": chat,
            "margin": 0.05,
            "limit": given.limit,
            "data": {"use": code, "view": view}
            if group == "domain"
            else {"builder": "general", "view": view},
        }
        for name, (group, view, chat) in PROBES.items()
    }
    suite = {"name": "damage", "include": str(ROOT / "eval/tasks"), "dev": 0.33, "probes": probes}
    suite["max_length"] = 1024
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    sft = {
        "kind": "sft",
        "data": str(ROOT / "configs/data/code-questions.yaml"),
        "train": {
            "max_steps": given.steps,
            "batch_size": 2,
            "packing": True,
            "max_length": 256,
            "learning_rate": 4e-5,
        },
        "micro_batch": 2,
        "hooks": [{"damage": {"layer": given.layer, "scale": given.scale}}],
    }
    chain = {
        "name": "damage",
        "model": str(ROOT / "configs/models/smollm2-135m.yaml"),
        "probes": str(folder / "suite.yaml"),
        "gate": {"margin": 0.05, "on_regression": "repair", "attempts": 6, "noise": True},
        "stages": {"sft": sft},
    }
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump(chain, sort_keys=False))
    return file


def _run(recipe: Path, runs: Path) -> Story:
    from cpt.errors import GateStopped
    from eval.report.gather import gather
    from launch.chain import run
    from launch.console import Console
    from launch.opening import open_chain

    chain = open_chain(recipe, [], runs)
    try:
        run(chain, Console())
    except GateStopped as stopped:  # a repair that failed is a result, too
        print(stopped, file=sys.stderr)
    return gather(runs / "chains" / "damage", runs / "stages")


def outcome(story: Story) -> dict[str, Any]:
    """What happened, in numbers."""
    sft = next(stage for stage in story.stages if stage.kind == "sft")
    repaired = next((stage for stage in story.stages if stage.kind == "repair"), None)
    made = repaired.gate if repaired else {}
    repairs = repaired.from_base if repaired else ()
    return {
        "base_twice": sentence(story.noise),
        "num_differing": sum(floor.num_differing for floor in story.noise.values()),
        "fired": sft.verdict is not None and bool(sft.verdict.regressed),
        "is_within": bool(made) and all(change.gain >= -change.margin for change in repairs),
        "num_shown": sum(change.verdict == "held" for change in repairs),
        "messages": list(sft.verdict.messages) if sft.verdict else [],
        "attempts": made.get("attempts", []),
        "chosen": {key: value for key, value in made.items() if key != "attempts"},
        "probes": {
            probe.name: [_score(stage, probe.name) for stage in (story.stages[0], sft, repaired)]
            for probe in story.probes
        },
    }


def _score(stage: Stage | None, probe: str) -> float | None:
    return stage.row.scores[probe].value if stage and stage.row else None


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [f"`{result['command']}`", "", result["base_twice"], ""]
    lines += ["| probe | base | damaged | repaired |", "|---|---:|---:|---:|"]
    for probe, scores in result["probes"].items():
        told = ["-" if score is None else f"{score:.3f}" for score in scores]
        lines.append(f"| {probe} | {' | '.join(told)} |")
    fired = "fired" if result["fired"] else "did not fire"
    within = "within every margin" if result["is_within"] else "not within its margins"
    shown = f"which is shown for {result['num_shown']} of {len(result['probes'])}"
    lines += [
        "",
        f"The gate {fired}; after {len(result['attempts'])} attempts the model is {within} by point "
        f"estimate, {shown} probes.",
    ]
    return "\n".join([*lines, *(f"- {message}" for message in result["messages"])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
