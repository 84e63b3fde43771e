"""False alarms and power of the verdicts, on simulated probe matrices with known truth.

    python -m tests.bench.false_alarms [--matrices 1000] [--seed 0] [--result FOLDER]

A matrix has 15 probes and 4 stages, each compared with the base at a margin of 0.02 and a level of 0.05
for all 60 verdicts: right or wrong items, 100 to 500, with many, few or no wins; bits per byte with
weights and skewed differences, on 60 texts too; a bounded score most of whose items do not change; right or
wrong items in clusters, ten of them at the least; a number of which neither way is better. Four truths:
nothing changed, at the margin and at none; every probe of every stage fell by exactly the margin, the
hardest case in which no alarm is right; and every probe fell by the margin and the fall that was printed
as detectable when nothing had changed, each judged as if it fell alone. The verdicts are those of
`eval.compare.changes`, on rows like any other. Noise of measuring (`eval.noise`) is not simulated. Written to
statistics.json and statistics.md; the exit code is 1 where something that is promised is missed.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from eval.change import Change
from eval.compare import changes
from eval.matrix import Item, Row, Score

MARGIN, LEVEL, STAGES, POWER = 0.02, 0.05, 4, 0.8
HARDEST = "every fall is the margin"
RESULTS = Path(__file__).parent / "results"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A simulated probe.

    Args:
        base: draws the base row's values.
        later: draws a later row's from the base row's, with a true fall.
    """

    num_items: int
    base: Callable[[np.random.Generator, int], Array]
    later: Callable[[np.random.Generator, Array, float], Array]
    higher: bool = True
    per_cluster: int = 1
    weighted: bool = False
    is_drift: bool = False


def binary(num_items: int, right: float, wins: float) -> Kind:
    """Right or wrong items; `wins` of all items turn right in every stage, by chance alone."""

    def later(rng: np.random.Generator, before: Array, fall: float) -> Array:
        draw = rng.random(len(before))
        lost, won = (wins + fall) / right, wins / (1 - right)
        return np.where(before == 1, draw >= lost, draw < won).astype(float)

    return Kind(num_items, lambda rng, n: (rng.random(n) < right).astype(float), later)


def bits(num_items: int, shape: str) -> Kind:
    """Bits per byte of texts of 80 to 600 bytes; differences have a spread of 0.05 about the fall."""
    noise: Mapping[str, Callable[[np.random.Generator, int], Array]] = {
        "even": lambda rng, n: rng.standard_normal(n),
        "rare losses": lambda rng, n: rng.exponential(size=n) - 1,
        "rare gains": lambda rng, n: 1 - rng.exponential(size=n),
        "very rare gains": lambda rng, n: (math.exp(0.5) - rng.lognormal(size=n)) / 2,
    }

    def later(rng: np.random.Generator, before: Array, fall: float) -> Array:
        found: Array = before + fall + 0.05 * noise[shape](rng, len(before))
        return found

    return Kind(num_items, lambda rng, n: rng.gamma(9, 0.12, n), later, False, weighted=True)


def lengths(num_items: int) -> Kind:
    """Numbers of which neither way is better; differences have a spread of 0.05 about the rise."""

    def later(rng: np.random.Generator, before: Array, fall: float) -> Array:
        found: Array = before - fall + 0.05 * rng.standard_normal(len(before))
        return found

    return Kind(num_items, lambda rng, n: 2 + rng.gamma(4, 0.5, n), later, is_drift=True)


def bounded(num_items: int) -> Kind:
    """A score between 0 and 1, mean 0.4: a tenth is answered anew each time, what falls goes to 0."""

    def later(rng: np.random.Generator, before: Array, fall: float) -> Array:
        anew = rng.random(len(before)) < 0.1
        after = np.where(anew, rng.beta(2, 3, len(before)), before)
        return np.where(rng.random(len(before)) < fall / 0.4, 0.0, after)

    return Kind(num_items, lambda rng, n: rng.beta(2, 3, n), later)


def clustered(num_items: int, wins: float, per_cluster: int = 5, alike: float = 0.1) -> Kind:
    """Right or wrong items in clusters that are right, lost and won more alike than others."""

    def rates(rng: np.random.Generator, mean: float, n: int) -> Array:
        if mean == 0:
            return np.zeros(n)
        size = 1 / alike - 1
        drawn = rng.beta(mean * size, (1 - mean) * size, n // per_cluster)
        return np.asarray(drawn.repeat(per_cluster))

    def base(rng: np.random.Generator, n: int) -> Array:
        return (rng.random(n) < rates(rng, 0.5, n)).astype(float)

    def later(rng: np.random.Generator, before: Array, fall: float) -> Array:
        n, draw = len(before), rng.random(len(before))
        lost, won = rates(rng, min(0.98, 2 * (wins + fall)), n), rates(rng, 2 * wins, n)
        return np.where(before == 1, draw >= lost, draw < won).astype(float)

    return Kind(num_items, base, later, per_cluster=per_cluster)


KINDS: dict[str, Kind] = {
    "right or wrong, 100 items, no wins": binary(100, 0.8, 0.0),
    "right or wrong, 100 items, 5 % wins": binary(100, 0.5, 0.05),
    "right or wrong, 200 items, 1 % wins": binary(200, 0.6, 0.01),
    "right or wrong, 300 items, 10 % wins": binary(300, 0.5, 0.1),
    "right or wrong, 500 items, no wins": binary(500, 0.7, 0.0),
    "right or wrong, 500 items, 3 % wins": binary(500, 0.9, 0.03),
    "bits per byte, 200 items": bits(200, "even"),
    "bits per byte, 150 items, rare gains": bits(150, "rare gains"),
    "bits per byte, 400 items, rare losses": bits(400, "rare losses"),
    "bounded score, 200 items": bounded(200),
    "60 clusters of 5, 3 % wins": clustered(300, 0.03),
    "100 clusters of 5, 1 % wins": clustered(500, 0.01),
    "bits per byte, 60 items, very rare gains": bits(60, "very rare gains"),
    "10 clusters of 20, 5 % wins": clustered(200, 0.05, 20),
    "neither way is better, 200 items": lengths(200),
}


#: truth: the fall of every probe, and the margin it is held to
TRUTHS = {
    "nothing changed": (0.0, MARGIN),
    "nothing changed, no margin": (0.0, 0.0),
    HARDEST: (MARGIN, MARGIN),
}
#: The level of one test among all, which is Holm's first step.
FIRST = LEVEL / (STAGES * len(KINDS))


class World:
    """Rows of one simulated chain."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.values = {name: kind.base(rng, kind.num_items) for name, kind in KINDS.items()}
        self.weights = {
            name: rng.integers(80, 600, kind.num_items).astype(float)
            if kind.weighted
            else np.ones(kind.num_items)
            for name, kind in KINDS.items()
        }
        self.base = self._row("base", self.values)

    def later(self, falls: Mapping[str, float]) -> Row:
        """A stage after which every probe truly fell by so much."""
        drawn = {n: k.later(self.rng, self.values[n], falls[n]) for n, k in KINDS.items()}
        return self._row("stage", drawn)

    def _row(self, stage: str, values: Mapping[str, Array]) -> Row:
        return Row(stage, stage, {name: self._score(name, drawn) for name, drawn in values.items()})

    def _score(self, name: str, values: Array) -> Score:
        kind, weights = KINDS[name], self.weights[name]
        size = kind.per_cluster
        items = tuple(
            Item(str(n), value, weight, "", "", cluster=f"c{n // size}" if size > 1 else "")
            for n, (value, weight) in enumerate(zip(values.tolist(), weights.tolist(), strict=True))
        )
        mean = float(np.average(values, weights=weights))
        metric = "words" if kind.is_drift else "acc" if kind.higher else "bits_per_byte"
        drift = {"margin": MARGIN, "is_drift": True} if kind.is_drift else {"margin": None}
        return Score(
            probe=name,
            metric=metric,
            group="language",
            higher_is_better=kind.higher,
            value=mean,
            stderr=0.0,
            items=items,
            fingerprint="f",
            **drift,
        )


def simulate(num_matrices: int, seed: int = 0) -> dict[str, Any]:
    """Counts of alarms and findings over that many matrices."""
    started = time.perf_counter()
    alarms = {truth: 0 for truth in TRUTHS}
    improved = {truth: 0 for truth in TRUTHS if not TRUTHS[truth][0]}
    per_kind: dict[str, dict[str, Any]] = {
        name: {"alone": 0, "corrected": 0, "held": 0, "found": 0, "detectable": 0.0}
        for name in KINDS
    }
    for number in range(num_matrices):
        world = World(np.random.default_rng([seed, number]))
        for truth, (fall, margin) in TRUTHS.items():
            falls = dict.fromkeys(KINDS, fall)
            stages = [_judged(world, falls, margin) for _ in range(STAGES)]
            flat = [change for stage in stages for change in stage]
            alarms[truth] += any(change.verdict == "regressed" for change in flat)
            if not fall:
                improved[truth] += any(change.improved for change in flat)
            if truth == HARDEST:
                for change in flat:
                    per_kind[change.probe]["alone"] += change.p_value < LEVEL
                    per_kind[change.probe]["corrected"] += change.p_value < FIRST
                    per_kind[change.probe]["held"] += change.verdict == "held"
            elif margin:
                printed = {change.probe: change.detectable for change in stages[0]}
        falls = {name: MARGIN + excess for name, excess in printed.items()}
        for change in _judged(world, falls):
            # Holm's first step: what the probe meets that alone fell
            per_kind[change.probe]["found"] += change.p_value < FIRST
            per_kind[change.probe]["detectable"] += printed[change.probe]
    tested = STAGES * num_matrices
    found = sum(kind["found"] for kind in per_kind.values())
    return {
        "matrices": num_matrices,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "margin": MARGIN,
        "level": LEVEL,
        "stages": STAGES,
        "probes": len(KINDS),
        "false_alarms": {truth: _rate(count, num_matrices) for truth, count in alarms.items()},
        "false_improved": {truth: _rate(count, num_matrices) for truth, count in improved.items()},
        "found": _rate(found, num_matrices * len(KINDS)),
        "by_probe": {
            name: {
                "alone": _rate(kind["alone"], tested),
                "corrected": _rate(kind["corrected"], tested),
                "held": _rate(kind["held"], tested),
                "found": _rate(kind["found"], num_matrices),
                "detectable": kind["detectable"] / num_matrices,
            }
            for name, kind in per_kind.items()
        },
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as text."""
    rises = result["false_improved"]
    lines = [
        "# False alarms and power of the verdicts",
        "",
        f"`python -m tests.bench.false_alarms --matrices {result['matrices']} --seed {result['seed']}`: "
        f"{result['matrices']} matrices of {result['probes']} probes and {result['stages']} stages, "
        f"margin {result['margin']}, level {result['level']} for a whole matrix. "
        f"Intervals are exact, 95 %.",
        "",
        "| truth | matrices with a false `regressed` | with a false `improved` |",
        "| :--- | ---: | ---: |",
        *(
            f"| {truth} | {_percent(rate)} | {_percent(rises[truth]) if truth in rises else '-'} |"
            for truth, rate in result["false_alarms"].items()
        ),
        "",
        f"A fall of the margin and what was printed as detectable is found in "
        f"{_percent(result['found'])} of cases, at the level of one test among "
        f"{result['probes'] * result['stages']}.",
        "",
        f"| probe | detectable | found | false `regressed` alone, at {LEVEL} | at {100 * FIRST:.3f} % | "
        f"false `held` |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, kind in result["by_probe"].items():
        cells = [f"{100 * kind['detectable']:.1f}"]
        cells += [_percent(kind[key]) for key in ("found", "alone", "corrected", "held")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Detectable: mean, beyond the margin, in hundredths of the probe's unit. The last three columns "
        f"are of a true fall of exactly the margin. The first two should be {100 * LEVEL:.0f} % and "
        f"{100 * FIRST:.3f} % (the level of one test among all) at most, false `held` {50 * LEVEL:.1f} %.",
    ]
    if missing := missed(result):
        lines += ["", "Missed:", "", *(f"- {text}" for text in missing)]
    return "\n".join(lines) + "\n"


def missed(result: Mapping[str, Any]) -> list[str]:
    """What the result does not keep of what is promised."""
    found = [
        f"{truth}: {rate['rate']:.3f} of the matrices have a false alarm, more than {LEVEL}"
        for truth, rate in result["false_alarms"].items()
        if rate["rate"] > LEVEL
    ]
    found += [
        f"{truth}: {rate['rate']:.3f} of the matrices have a false `improved`, more than {LEVEL}"
        for truth, rate in result["false_improved"].items()
        if rate["rate"] > LEVEL
    ]
    for name, kind in {"all probes": result, **result["by_probe"]}.items():
        if kind["found"]["rate"] < POWER:
            found.append(f"{name}: {kind['found']['rate']:.3f} are found, less than {POWER}")
    promised = {"alone": LEVEL, "corrected": FIRST, "held": LEVEL / 2}
    for name, kind in result["by_probe"].items():
        for key, level in promised.items():
            if kind[key]["low"] > level:
                what = "`held`" if key == "held" else "`regressed`"
                rate = f"{kind[key]['rate']:.4f} ({kind[key]['low']:.4f} at least)"
                found.append(f"{name}: false {what} in {rate}, more than {level:.4f}")
    return found


def main() -> None:
    """Simulate, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--matrices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args()
    result = simulate(given.matrices, given.seed)
    given.result.mkdir(parents=True, exist_ok=True)
    (given.result / "statistics.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.result / "statistics.md").write_text(markdown(result))
    print(markdown(result))
    if missed(result):
        raise SystemExit("\n".join(f"missed: {text}" for text in missed(result)))


def _judged(world: World, falls: Mapping[str, float], margin: float = MARGIN) -> tuple[Change, ...]:
    """The verdicts of one stage; a drift keeps the margin of its own."""
    return changes(world.base, world.later(falls), margin, LEVEL, num_pairs=STAGES)


def _rate(count: int, total: int) -> dict[str, float]:
    """A share with the exact interval of Clopper and Pearson."""
    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
    return {"rate": count / total, "low": low, "high": high}


def _percent(rate: Mapping[str, float]) -> str:
    return f"{100 * rate['rate']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


if __name__ == "__main__":
    main()
