"""An estimate as people read it: two cells of each stage in the plan's table, and what is to do."""

from collections.abc import Mapping
from pathlib import Path

from cpt.estimate import Estimate, Forecast

UNKNOWN = "?"
LENGTHS = "> counts the lengths that settings name; the data decides how long prompts are"


def columns(estimate: Estimate) -> dict[str, dict[str, str]]:
    """Column -> stage -> cell: memory of each process of what is to do, and time, left or taken."""
    stages = estimate.stages
    memory = {name: _memory(stage) for name, stage in stages.items()}
    time = {name: _time(stage) for name, stage in stages.items()}
    return {"memory": memory, "time": time} if any(memory.values()) else {"time": time}


def lines(estimate: Estimate, machine: float | None = None) -> list[str]:
    """What is to do, what of it is not known, and a warning where a stage needs too much memory.

    Args:
        machine: bytes of memory; None for what /proc/meminfo says.
    """
    left = {name: s for name, s in estimate.stages.items() if not (s.is_done and s.is_probed)}
    if not left:
        return ["to do: nothing"]
    makes = {name: stage for name, stage in left.items() if not stage.is_done}
    time, unknown = _time_left(estimate, left)
    needs = [f"about {duration(time)}"] if time is not None else []
    prints = [stage.footprint for stage in makes.values() if stage.footprint]
    peak = ""
    if makes and estimate.size is None:
        unknown.insert(0, f"memory and disk: {estimate.unknown_size}")
    elif makes:
        kept = sum(each.kept for each in prints) + ("base" in makes) * estimate.base_bytes
        passing = max((each.passing for each in prints), default=0.0)
        needs += [f"{gigabytes(kept + passing)} of disk"] if kept + passing else []
        peak = f"; peak {gigabytes(max(p.peak for p in prints))} a process" if prints else ""
        if odd := [name for name, s in makes.items() if s.load and not s.footprint]:
            unknown.append(f"memory and disk of {', '.join(odd)}: unknown for such an optimizer")
    said = [f"to do: {', '.join(needs)}{peak} (estimate)"] if needs else []
    if any(cell.startswith(">") for cell in map(_memory, makes.values())):
        unknown.append(LENGTHS)
    return said + unknown + _warning(estimate, makes, machine)


def _time_left(estimate: Estimate, left: Mapping[str, Forecast]) -> tuple[float | None, list[str]]:
    """(seconds of what is known, what is not)."""
    making = [stage for stage in left.values() if stage.load and not stage.is_done]
    if making and not estimate.has_rate:
        return None, ["time: unknown, no stage was made here yet"]
    if making and estimate.size is None:
        return None, [f"time: {estimate.unknown_size}"]
    seconds = [0.0 if stage.is_done else stage.making for stage in left.values()]
    probing = [0.0 if stage.is_probed else stage.probing for stage in left.values()]
    known = sum(part for part in [*seconds, *probing] if part)
    unknown = []
    odd = {name: s for name, s in left.items() if not s.is_done and s.making is None}
    if trained := [name for name, stage in odd.items() if stage.load]:
        unknown.append(f"time of {', '.join(trained)}: unknown, the data decides how many steps")
    if merged := [name for name, stage in odd.items() if not stage.load]:
        unknown.append(f"time of {', '.join(merged)}: unknown, no such merge was made here yet")
    if None in probing:
        unknown.append("time of the probes: unknown, they were not measured here yet")
    return known or None, unknown


def _memory(stage: Forecast) -> str:
    if stage.is_done:
        return ""
    if stage.footprint is None:
        return UNKNOWN if stage.load else ""
    whole = stage.load is None or stage.load.is_whole
    return ("" if whole else ">") + gigabytes(stage.footprint.peak)


def _time(stage: Forecast) -> str:
    if stage.making is None:
        return UNKNOWN
    if stage.load is None and not stage.making and not stage.probing:
        return ""
    return duration(stage.making + (stage.probing or 0.0))


def _warning(
    estimate: Estimate, training: Mapping[str, Forecast], machine: float | None
) -> list[str]:
    machine = memory_of_machine() if machine is None else machine
    needs = [
        (stage.footprint.peak * estimate.num_processes, name)
        for name, stage in training.items()
        if stage.footprint and stage.load and stage.load.on_cpu  # a GPU's memory is not asked for
    ]
    if not needs or machine is None or max(needs)[0] <= machine:
        return []
    need, name = max(needs)
    return [
        f"warning: {name} needs about {gigabytes(need)} and this machine has {gigabytes(machine)}; "
        f"a smaller micro_batch, train.max_length, or a lora hook needs less"
    ]


def memory_of_machine() -> float | None:
    """Bytes; None where the kernel does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def gigabytes(number: float) -> str:
    """In units of 10^9 bytes, two digits at least."""
    giga = number / 1e9
    return (
        f"{giga:.0f} GB" if giga >= 100 else f"{giga:.1f} GB" if giga >= 0.1 else f"{giga:.3f} GB"
    )


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
