"""An estimate as people read it: two cells of each stage in the plan's table, and what is to do."""

from collections.abc import Mapping

from cpt.estimate import Estimate, Forecast
from cpt.first_guess import assumption

UNKNOWN = "?"
LENGTHS = "> counts the lengths that settings name; the data decides how long prompts are"


def columns(estimate: Estimate) -> dict[str, dict[str, str]]:
    """Column -> stage -> cell: of what is to do the memory of each process, with a GPU that of the host
    beside it, and the disk that it takes for good; and time, left or taken."""
    stages = estimate.stages
    cells = {
        "memory": {name: _memory(stage) for name, stage in stages.items()},
        "host": {name: _host(stage) for name, stage in stages.items()},
        "disk": {name: _disk(stage) for name, stage in stages.items()},
    }
    shown = {column: of for column, of in cells.items() if any(of.values())}
    return shown | {"time": {name: _time(stage) for name, stage in stages.items()}}


def lines(estimate: Estimate) -> list[str]:
    """What is to do, what of it is not known, and a warning where the machine has too little for it."""
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
        disk = disk_left(estimate)
        needs += [f"{gigabytes(disk)} of disk"] if disk else []
        peak = f"; peak {gigabytes(max(p.peak for p in prints))} a process" if prints else ""
        if odd := [name for name, s in makes.items() if s.load and not s.footprint]:
            unknown.append(f"memory and disk of {', '.join(odd)}: unknown for such an optimizer")
    said = [f"to do: {', '.join(needs)}{peak} (estimate)"] if needs else []
    if any(cell.startswith(">") for cell in map(_memory, makes.values())):
        unknown.append(LENGTHS)
    if estimate.machine and any(stage.is_guess for stage in makes.values()):
        unknown.append(assumption(estimate.machine))
    return said + unknown + [f"warning: {sentence}" for sentence in shortfalls(estimate)]


def _time_left(estimate: Estimate, left: Mapping[str, Forecast]) -> tuple[float | None, list[str]]:
    """(seconds of what is known, what is not)."""
    making = [stage for stage in left.values() if stage.load and not stage.is_done]
    if making and not estimate.has_rate and all(stage.making is None for stage in making):
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


def _host(stage: Forecast) -> str:
    if stage.is_done or stage.footprint is None or not stage.footprint.host_peak:
        return ""
    return gigabytes(stage.footprint.host_peak)


def _disk(stage: Forecast) -> str:
    if stage.is_done or stage.footprint is None:
        return ""
    return gigabytes(stage.footprint.kept)


def _time(stage: Forecast) -> str:
    if stage.making is None:
        return UNKNOWN
    if stage.load is None and not stage.making and not stage.probing:
        return ""
    return "~" * stage.is_guess + duration(stage.making + (stage.probing or 0.0))


def disk_left(estimate: Estimate) -> float:
    """Bytes on disk of what is to do: what stays of all stages, and what passes of the one with most."""
    makes = {name: stage for name, stage in estimate.stages.items() if not stage.is_done}
    prints = [stage.footprint for stage in makes.values() if stage.footprint]
    kept = sum(each.kept for each in prints) + ("base" in makes) * estimate.base_bytes
    return kept + max((each.passing for each in prints), default=0.0)


def shortfalls(estimate: Estimate) -> list[str]:
    """One sentence for what the machine has too little of: memory of each stage, and disk."""
    machine, found = estimate.machine, []
    if machine is None:
        return []
    if machine.gpus and estimate.num_processes > machine.gpus:
        found.append(
            f"{estimate.num_processes} processes are to share {machine.name}, which has {machine.gpus} "
            f"GPUs; set num_processes"
        )
    for name, stage in estimate.stages.items():
        if stage.short is None:
            continue
        short = stage.short
        where = f"on a GPU and {machine.gpu or 'one'}" if short.where == "GPU" else ""
        where = where or f"of the host's memory and {machine.name}"
        way = (
            f"it would fit with {stage.remedy}"
            if stage.remedy
            else "no setting that was tried helps"
        )
        found.append(
            f"{name} needs about {gigabytes(short.needs)} {where} has {gigabytes(short.has)}; {way}"
        )
    disk, free = disk_left(estimate), machine.disk_gb * 1e9
    if free and disk > free:
        found.append(
            f"about {gigabytes(disk)} are to be written and {gigabytes(free)} are free; name another "
            f"folder with --runs"
        )
    return found


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
