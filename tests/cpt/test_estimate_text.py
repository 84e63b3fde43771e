"""How an estimate reads: cells, the line of what is to do, what is unknown, and the warning."""

from dataclasses import replace

import pytest

from cpt.estimate import Estimate, Forecast
from cpt.estimate_text import columns, duration, gigabytes, lines, memory_of_machine
from cpt.footprint import Footprint, Workload
from cpt.model_size import ModelSize

SIZE = ModelSize({"embed_tokens.weight": (10, 4)})
LOAD = Workload(1, 8, True, 4, 10, False, False, "adamw_torch", True, True)
NEEDS = Footprint({"weights": 3e9, "states": 4e9}, passing=2e9, kept=5e8)
BASE = Forecast(None, None, 0.0, 60.0, is_done=True, is_probed=True)
SFT = Forecast(LOAD, NEEDS, 600.0, 60.0, is_done=False, is_probed=False)
GRPO = replace(
    SFT,
    load=replace(LOAD, is_whole=False),
    footprint=Footprint({"weights": 2e9}, passing=1e9, kept=5e8),
)


def of(has_rate: bool = True, size: ModelSize | None = SIZE, **stages: Forecast) -> Estimate:
    reason = "unknown until the base model is there"
    return Estimate({"base": BASE, **stages}, size, 7e8, reason, has_rate, num_processes=2)


def test_what_is_to_do_is_one_line() -> None:
    dpo = replace(SFT, making=180.0)
    assert lines(of(sft=SFT, dpo=dpo), machine=1e12) == [
        "to do: about 15 min, 3.0 GB of disk; peak 7.0 GB a process (estimate)"
    ]


def test_what_is_done_is_no_longer_to_do() -> None:
    done = replace(SFT, is_done=True, is_probed=True)
    assert lines(of(sft=done), machine=1) == ["to do: nothing"]
    probes = replace(done, is_probed=False)
    assert lines(of(sft=probes), machine=1) == ["to do: about 60 s (estimate)"]
    assert lines(of(base=replace(BASE, is_done=False), sft=done), machine=1) == [
        "to do: 0.7 GB of disk (estimate)"
    ]


def test_cells_show_what_is_left_or_was_taken() -> None:
    done = replace(SFT, is_done=True, is_probed=True)
    unknown = replace(SFT, footprint=None, making=None)
    assert columns(of(done=done, sft=SFT, grpo=GRPO, unknown=unknown)) == {
        "memory": {"base": "", "done": "", "sft": "7.0 GB", "grpo": ">2.0 GB", "unknown": "?"},
        "time": {
            "base": "60 s",
            "done": "11 min",
            "sft": "11 min",
            "grpo": "11 min",
            "unknown": "?",
        },
    }
    assert list(columns(of(sft=done))) == ["time"]


def test_a_lower_bound_is_explained() -> None:
    assert lines(of(grpo=GRPO), machine=1e12)[1:] == [
        "> counts the lengths that settings name; the data decides how long prompts are"
    ]


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (
            of(False, None, sft=replace(SFT, footprint=None, making=None)),
            [
                "memory and disk: unknown until the base model is there",
                "time: unknown, no stage was made here yet",
            ],
        ),
        (
            of(True, None, sft=replace(SFT, footprint=None, making=None)),
            [
                "memory and disk: unknown until the base model is there",
                "time: unknown until the base model is there",
            ],
        ),
        (
            of(False, sft=replace(SFT, making=None, probing=None)),
            [
                "to do: 2.5 GB of disk; peak 7.0 GB a process (estimate)",
                "time: unknown, no stage was made here yet",
            ],
        ),
        (
            of(sft=replace(SFT, making=None), dpo=SFT),
            [
                "to do: about 12 min, 3.0 GB of disk; peak 7.0 GB a process (estimate)",
                "time of sft: unknown, the data decides how many steps",
            ],
        ),
        (
            of(sft=replace(SFT, probing=None)),
            [
                "to do: about 10 min, 2.5 GB of disk; peak 7.0 GB a process (estimate)",
                "time of the probes: unknown, they were not measured here yet",
            ],
        ),
        (
            of(sft=SFT, dpo=replace(SFT, footprint=None)),
            [
                "to do: about 22 min, 2.5 GB of disk; peak 7.0 GB a process (estimate)",
                "memory and disk of dpo: unknown for such an optimizer",
            ],
        ),
    ],
)
def test_what_cannot_be_known_is_said(estimate: Estimate, said: list[str]) -> None:
    assert lines(estimate, machine=1e12) == said


def test_a_stage_beyond_the_machine_warns_with_all_its_processes() -> None:
    (warning,) = lines(of(sft=SFT, grpo=GRPO), machine=13e9)[2:]
    assert warning.startswith("warning: sft needs about 14.0 GB and this machine has 13.0 GB; ")
    assert len(lines(of(sft=SFT), machine=14e9)) == 1
    assert len(lines(of(sft=replace(SFT, is_done=True)), machine=1)) == 1
    on_gpu = replace(SFT, load=replace(LOAD, on_cpu=False))
    assert len(lines(of(sft=on_gpu), machine=1)) == 1


def test_the_machines_memory_is_what_the_kernel_says() -> None:
    memory = memory_of_machine()
    assert memory is None or 1e8 < memory < 1e14


def test_numbers_have_the_unit_that_reads_best() -> None:
    assert [gigabytes(n) for n in (7e6, 3.24e9, 1.234e11)] == ["0.007 GB", "3.2 GB", "123 GB"]
    assert [duration(n) for n in (4, 89, 840, 7200)] == ["4 s", "89 s", "14 min", "2.0 h"]
