"""The noise floor: how far two measurements of one checkpoint lie apart."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.matrix import Row, read_row
from eval.means import paired_difference
from eval.pairs import paired_items
from eval.split import only


@dataclass(frozen=True)
class Noise:
    """Two measurements of one probe on the same checkpoint.

    Args:
        num_items, num_differing: items of both measurements, and those whose values differ.
        largest: the largest difference of one item.
        shift: difference of the two scores, second minus first, over the items that are reported.
        stderr: what repeating adds to the standard error of a change: the larger of |shift| and the
            standard error of the shift. Noise that hits items alone is in the paired differences of a
            change already and is counted twice; a shift of all items together is in none of them,
            and is seen here once.
    """

    probe: str
    num_items: int
    num_differing: int
    largest: float
    shift: float
    stderr: float


def noise_floor(first: Row, second: Row) -> dict[str, Noise]:
    """Compare two measurements of the same checkpoint, probe by probe, over the probes of both.

    Raises:
        ProbeError: they were measured differently, or share no item of a probe that is reported.
    """
    tested = only(first, "test"), only(second, "test")
    found = {}
    for probe in first.scores:
        if probe in second.scores:
            before, after = paired_items(first, second, probe)
            apart = [abs(b.value - a.value) for a, b in zip(before, after, strict=True)]
            shift, stderr = paired_difference(*paired_items(*tested, probe))
            found[probe] = Noise(
                probe=probe,
                num_items=len(apart),
                num_differing=sum(difference > 0 for difference in apart),
                largest=max(apart),
                shift=shift,
                stderr=max(abs(shift), stderr),
            )
    return found


def second_of(result: Path) -> Path:
    """Where the second measurement of a checkpoint lies, beside the first."""
    return result.with_suffix(".again.json")


def firsts(results: Iterable[Path]) -> list[Path]:
    """Those result files that are no second measurement."""
    return [file for file in results if not file.name.endswith(".again.json")]


def read_noise(result: Path, suite_hash: str) -> dict[str, Noise]:
    """The noise floor of a checkpoint that was measured twice; empty where it was not.

    Raises:
        ProbeError: a file is damaged, or the two were measured differently.
    """
    second = second_of(result)
    if not second.is_file():
        return {}
    return noise_floor(
        read_row("first", "", result, suite_hash), read_row("second", "", second, suite_hash)
    )


def sentence(noise: Mapping[str, Noise]) -> str:
    """Such as "Measured twice, the base model gave the same answer to all 1,204 items."."""
    many = sum(floor.num_items for floor in noise.values())
    if is_silent(noise):
        return f"Measured twice, the base model gave the same results for all {many:,} items."
    loud = [
        f"{floor.num_differing} of {floor.num_items} in {name}"
        for name, floor in noise.items()
        if floor.num_differing
    ]
    return (
        f"Measured twice, the base model gave other results for {', '.join(loud)} items; standard errors "
        f"take that in."
    )


def is_silent(noise: Mapping[str, Noise]) -> bool:
    """Whether both measurements gave the same items everywhere."""
    return not any(floor.num_differing for floor in noise.values())
