"""Time and memory of what looks at every row, on rows that are made as they are needed.

    python -m tests.bench.scale [--rows 10000000] [--near-rows 1000000] [--folder DIR] [--result FOLDER]

Five measures, each in a process of its own: a JSON Lines file opened, read in order and in a random one
(`table`); two sources mixed into one stream (`mixing`); exact duplicates (`exact`), items of probes
(`decontamination`) and near duplicates (`near`) looked for in rows of 60 words of 20,000. Every tenth row is
a copy of an earlier one (of near ones with a word changed), every thousandth holds an item. The time is that
of the code, without the making of rows. Memory is told apart: what the process holds for itself (RssAnon)
when half of the rows were looked at and at the end, whose difference is the growth a row; pages of mapped
files (RssFile), which the system takes back when it needs them; and files on disk. What is planted must be
found: the exit code is 1 where it is not, or where memory grows by more than 60 bytes a row.

The file of `table` takes 580 bytes a row, tables of exact duplicates 27 to 53 and near ones 1.2 kB; a disk
with too little room is refused at the beginning. Written to scale.json and scale.md.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cpt.machine import machine

RESULTS = Path(__file__).parent / "results"
WORDS = np.array([f"word{number}" for number in range(20_000)])
NUM_WORDS, BLOCK, FAR = 60, 1000, 10_000
NUM_ITEMS, ITEM_WORDS = 5000, 40
MOST_GROWTH = 60
#: Of fewer rows the second half still fills the texts that copies are made of.
FEWEST_FOR_GROWTH = 40_000
#: Bytes of disk a row, for the check beforehand.
DISK = {"table": 620, "mixing": 0, "exact": 110, "decontamination": 0, "near": 1500}

Row = dict[str, Any]


def blocks(number: int, change: Callable[[random.Random, str], str]) -> Iterator[Any]:
    """(rows, how many of them are copies), 1000 rows at a time; each tenth is `change` of an earlier one."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    earlier: list[str] = []
    for start in range(0, number, BLOCK):
        texts = WORDS[numbers.integers(0, len(WORDS), (min(BLOCK, number - start), NUM_WORDS))]
        rows, copies = [], 0
        for place, text in enumerate(map(" ".join, texts.tolist())):
            if place % 10 == 9:
                text = change(draw, earlier[draw.randrange(len(earlier))])
                copies += 1
            elif len(earlier) < FAR:
                earlier.append(text)
            elif place % 10 == 0:
                earlier[draw.randrange(FAR)] = text
            rows.append({"text": text})
        yield rows, copies


def same(draw: random.Random, text: str) -> str:
    """An exact copy."""
    return text


def changed(draw: random.Random, text: str) -> str:
    """Another last word: 55 of 57 shingles are the same."""
    return f"{text.rpartition(' ')[0]} other{draw.randrange(1 << 30)}"


class Watch:
    """Seconds of what is measured, and memory when half of it is done and at the end."""

    def __init__(self, number: int) -> None:
        self.number, self.done, self.seconds = number, 0, 0.0
        self.at_half = self.at_end = (0, 0)

    def time(self, rows: int, work: Callable[[], Any]) -> Any:
        """Do a part of it."""
        began = time.perf_counter()
        result = work()
        self.seconds += time.perf_counter() - began
        before, self.done = self.done, self.done + rows
        if before < self.number // 2 <= self.done:
            self.at_half = memory()
        self.at_end = memory() if self.done >= self.number else self.at_end
        return result

    def told(self) -> dict[str, float]:
        """What was measured, a row."""
        half = self.number - self.number // 2
        return {
            "rows": self.number,
            "us_a_row": round(self.seconds / self.number * 1e6, 2),
            "memory_mb": round(self.at_end[0] / 1e6, 1),
            "growth_bytes_a_row": round((self.at_end[0] - self.at_half[0]) / half, 1),
            "mapped_mb": round(self.at_end[1] / 1e6, 1),
        }


def memory() -> tuple[int, int]:
    """Bytes of this process's own pages, and of pages of files."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


def exact(number: int, folder: Path) -> dict[str, Any]:
    """Exact duplicates."""
    return _duplicates(number, folder, near=False)


def near(number: int, folder: Path) -> dict[str, Any]:
    """Near duplicates."""
    return _duplicates(number, folder, near=True)


def _duplicates(number: int, folder: Path, near: bool) -> dict[str, Any]:
    from cpt.recipe import HygieneSpec
    from stages.hygiene import Hygiene

    spec = HygieneSpec(duplicates="near" if near else "exact")
    hygiene = Hygiene(spec, None, folder)
    look, watch, planted = hygiene.of("rows", is_new=True), Watch(number), 0
    for rows, copies in blocks(number, changed if near else same):
        planted += copies
        watch.time(len(rows), partial(_keep, look, rows))
    duplicates: Any = hygiene._duplicates
    files = len(duplicates._seen._map)
    if near:
        index = duplicates._near
        files += len(index._latest._map)
        files += sum(file.seek(0, 2) for file in (index._previous, index._shingles))
    found = look.num_near if near else look.num_exact
    return {**watch.told(), "disk_mb": round(files / 1e6, 1), "planted": planted, "found": found}


def _keep(look: Any, rows: list[Row]) -> None:
    for row in rows:
        look.keeps(row)


def decontamination(number: int, folder: Path) -> dict[str, Any]:
    """Items of probes."""
    from cpt.recipe import HygieneSpec
    from cpt.replay.hygiene import ProbeItems
    from stages.hygiene import Hygiene

    numbers = np.random.default_rng(1)
    items = WORDS[numbers.integers(0, len(WORDS), (NUM_ITEMS, ITEM_WORDS))].tolist()
    probes = ProbeItems(map(" ".join, items))
    look = Hygiene(HygieneSpec(probes="drop"), lambda: probes).of("rows", is_new=True)
    watch, planted, draw = Watch(number), 0, random.Random(2)
    for rows, _ in blocks(number, same):
        rows[0] = {"text": f"{rows[0]['text']} {' '.join(draw.choice(items)[7:20])}"}
        planted += 1
        watch.time(len(rows), partial(_keep, look, rows))
    return {**watch.told(), "planted": planted, "found": look.num_probes}


def _draw(mixer: Any, number: int) -> None:
    for _ in range(number):
        mixer.draw()


def mixing(number: int, folder: Path) -> dict[str, Any]:
    """Two sources of which one is replayed, a stream of as many rows as both have."""
    from cpt.stream import Mixer, Source

    def amounts(rows: int, seed: int) -> "array[int]":
        return array("q", np.random.default_rng(seed).integers(20, 500, rows).tolist())

    old = number // 4
    watch = Watch(number)
    new = Source("new", amounts(number - old, 0), 0.8)
    mixer = watch.time(0, lambda: Mixer([new, Source("old", amounts(old, 1), 0.2, False)], 17))
    for start in range(0, number, 100_000):
        drawn = min(100_000, number - start)
        watch.time(drawn, partial(_draw, mixer, drawn))
    shares = [0, 0]
    for source, row in zip(mixer.sources, mixer.rows, strict=True):
        shares[source] += mixer._given_sources[source].amounts[row]
    share = shares[1] / sum(shares)
    return {**watch.told(), "planted": 0.2, "found": round(share, 4)}


def table(number: int, folder: Path) -> dict[str, Any]:
    """A file of rows opened, read in order and in a random one."""
    from cpt.data import load_rows
    from cpt.data_spec import DataSpec
    from cpt.settings import validate

    file, letters = folder / "rows.jsonl", 0
    with file.open("w", encoding="ascii") as stream:
        for rows, _ in blocks(number, same):
            stream.writelines(json.dumps(row) + "\n" for row in rows)
            letters += sum(len(row["text"]) for row in rows)
    spec = validate(DataSpec, {"path": str(file)}, "scale")
    before = memory()
    watch = Watch(number)
    found = watch.time(number, lambda: load_rows(spec, ("text",)).rows)
    told = watch.told()
    told["growth_bytes_a_row"] = round((memory()[0] - before[0]) / number, 1)
    again = Watch(number)
    read = again.time(number, lambda: sum(len(row["text"]) for row in found))
    told["again_us_a_row"] = again.told()["us_a_row"]
    order = random.Random(0).choices(range(number), k=min(number, 100_000))
    shuffled = Watch(len(order))
    shuffled.time(len(order), lambda: [found[place] for place in order])
    told["random_us_a_row"] = shuffled.told()["us_a_row"]
    told["disk_mb"] = round(file.stat().st_size / 1e6, 1)
    file.unlink()
    return {**told, "planted": letters, "found": read}


MEASURES = {each.__name__: each for each in (table, mixing, exact, decontamination, near)}


def problems(name: str, told: dict[str, Any]) -> list[str]:
    """What of a measure is not as it must be."""
    found = []
    # Of near copies a few are missed by their bands (one in 10^4); none is invented.
    least = 0.999 * told["planted"] if name == "near" else told["planted"]
    off = abs(told["found"] - 0.2) > 1e-3 if name == "mixing" else None
    if off if off is not None else not least <= told["found"] <= told["planted"]:
        found.append(f"{name}: found {told['found']} of {told['planted']}")
    if told["rows"] >= FEWEST_FOR_GROWTH and told["growth_bytes_a_row"] > MOST_GROWTH:
        found.append(f"{name}: memory grows by {told['growth_bytes_a_row']} bytes a row")
    return found


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [
        "# Scaling with data",
        "",
        f"`{result['command']}` on {result['machine']['cpu']} ({result['machine']['cores']} cores), "
        f"{result['at']}.",
        "",
        "| what | rows | us a row | memory MB | growth bytes a row | mapped MB | disk MB | planted | found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, told in result["measures"].items():
        cells = [
            f"{told['rows']:,}",
            told["us_a_row"],
            told["memory_mb"],
            told["growth_bytes_a_row"],
            told["mapped_mb"],
            told.get("disk_mb", 0),
            f"{told['planted']:,}",
            f"{told['found']:,}",
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    opened = result["measures"].get("table")
    if opened:
        lines += [
            "",
            f"A row of the table is read again in {opened['again_us_a_row']} us in order and in "
            f"{opened['random_us_a_row']} us in a random one.",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure all, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--near-rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for files (default: a temporary folder)")
    parser.add_argument("--result", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=MEASURES, help="one of them, printed as JSON")
    given = parser.parse_args()
    if given.measure:
        number = given.near_rows if given.measure == "near" else given.rows
        print(json.dumps(MEASURES[given.measure](number, given.folder)))
        return 0
    result: dict[str, Any] = {
        "command": f"python -m tests.bench.scale --rows {given.rows} --near-rows {given.near_rows}",
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "measures": {},
    }
    wrong = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        need = max(DISK[n] * (given.near_rows if n == "near" else given.rows) for n in MEASURES)
        if shutil.disk_usage(folder).free < need:
            print(f"{folder}: needs {need / 1e9:.1f} GB of disk; name another --folder")
            return 2
        for name in MEASURES:
            command = [sys.executable, "-m", "tests.bench.scale", "--measure", name]
            command += ["--rows", str(given.rows), "--near-rows", str(given.near_rows)]
            done = subprocess.run(
                [*command, "--folder", folder], stdout=subprocess.PIPE, text=True, check=True
            )
            told = json.loads(done.stdout)
            result["measures"][name] = told
            wrong += problems(name, told)
            print(name, told, flush=True)
    given.result.mkdir(parents=True, exist_ok=True)
    (given.result / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    (given.result / "scale.md").write_text(markdown(result))
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
