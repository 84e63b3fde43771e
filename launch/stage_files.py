"""Whether two stage folders hold the same result: weights, adapters and exemplars, bit for bit."""

from collections.abc import Callable, Iterator
from pathlib import Path


def files_that_differ(one: Path, other: Path, digest: Callable[[Path], str]) -> list[str]:
    """A line for every file of a result that the two do not share; of weights, which tensor and by how much.

    Times, logs and probe results are no part of the result, and configs may name a version.
    """
    lines = []
    ours, theirs = {*_results(one)}, {*_results(other)}
    for name in sorted(ours ^ theirs):
        lines.append(f"{name}: is in {one if name in ours else other} only")
    for name in sorted(ours & theirs):
        if digest(one / name) != digest(other / name):
            what = _tensors(one / name, other / name) if name.endswith(".safetensors") else ""
            lines.append(f"{name}: other bytes{what}")
    return lines


def _results(stage: Path) -> Iterator[str]:
    for place in ("checkpoint", "adapter"):
        for file in (stage / place).glob("*.safetensors"):
            yield f"{place}/{file.name}"
    if (stage / "exemplars.jsonl").is_file():
        yield "exemplars.jsonl"


def _tensors(one: Path, other: Path) -> str:
    """How many tensors differ, and the one with the largest difference."""
    from safetensors import safe_open

    largest, which, num_different, num_tensors = 0.0, "", 0, 0
    with safe_open(str(one), "pt") as left, safe_open(str(other), "pt") as right:
        names = [*left.keys()]
        if names != [*right.keys()]:
            return ", which hold other tensors"
        for name in names:
            a, b = left.get_tensor(name), right.get_tensor(name)
            num_tensors += 1
            if a.shape != b.shape or a.dtype != b.dtype:
                return f": {name} is {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
            if not a.equal(b):
                num_different += 1
                by = float((a.double() - b.double()).abs().max())
                if by >= largest:
                    largest, which = by, name
    if not num_different:
        return ", equal tensors"
    return f": {num_different} of {num_tensors} tensors differ, {which} by up to {largest:.3g}"
