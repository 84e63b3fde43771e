"""How an estimate reads: cells, the line of what is to do, what is unknown, and the warning."""

from dataclasses import replace

import pytest

from cpt.estimate import Estimate, Forecast
from cpt.estimate_text import columns, disk_left, duration, gigabytes, lines, shortfalls
from cpt.fitting import Shortfall
from cpt.footprint import Footprint
from cpt.machine_spec import Machine
from cpt.model_size import ModelSize
from cpt.workload import Workload

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
    assert lines(of(sft=SFT, dpo=dpo)) == [
        "to do: about 15 min, 3.0 GB of disk; peak 7.0 GB a process (estimate)"
    ]


def test_what_is_done_is_no_longer_to_do() -> None:
    done = replace(SFT, is_done=True, is_probed=True)
    assert lines(of(sft=done)) == ["to do: nothing"]
    probes = replace(done, is_probed=False)
    assert lines(of(sft=probes)) == ["to do: about 60 s (estimate)"]
    assert lines(of(base=replace(BASE, is_done=False), sft=done)) == [
        "to do: 0.7 GB of disk (estimate)"
    ]


def test_cells_show_what_is_left_or_was_taken() -> None:
    done = replace(SFT, is_done=True, is_probed=True)
    unknown = replace(SFT, footprint=None, making=None)
    assert columns(of(done=done, sft=SFT, grpo=GRPO, unknown=unknown)) == {
        "memory": {"base": "", "done": "", "sft": "7.0 GB", "grpo": ">2.0 GB", "unknown": "?"},
        "disk": {"base": "", "done": "", "sft": "0.5 GB", "grpo": "0.5 GB", "unknown": ""},
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
    assert lines(of(grpo=GRPO))[1:] == [
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
    assert lines(estimate) == said


HERE = Machine(host_memory_gb=13.0, disk_gb=100.0)


def test_a_stage_beyond_the_machine_warns_with_what_would_fit() -> None:
    short = Shortfall("host", 14e9, 13e9)
    big = replace(SFT, short=short, remedy="micro_batch: 2")
    found = replace(of(sft=big, grpo=GRPO), machine=HERE)
    assert shortfalls(found) == [
        "sft needs about 14.0 GB of the host's memory and this machine has 13.0 GB; it would fit with "
        "micro_batch: 2"
    ]
    assert lines(found)[-1] == f"warning: {shortfalls(found)[0]}"
    none = replace(of(sft=replace(big, remedy="")), machine=HERE)
    assert shortfalls(none)[0].endswith("; no setting that was tried helps")
    gpu = replace(big, short=Shortfall("GPU", 95e9, 85e9))
    on_gpu = replace(of(sft=gpu), machine=Machine(gpu="NVIDIA H100", gpus=8))
    assert "sft needs about 95.0 GB on a GPU and NVIDIA H100 has 85.0 GB" in shortfalls(on_gpu)[0]
    assert shortfalls(of(sft=big)) == []


def test_a_disk_that_is_too_small_warns() -> None:
    found = replace(of(sft=SFT, dpo=SFT), machine=Machine(disk_gb=2.0))
    assert disk_left(found) == 2 * 5e8 + 2e9  # of what passes only one is there at a time
    assert shortfalls(found) == [
        "about 3.0 GB are to be written and 2.0 GB are free; name another folder with --runs"
    ]
    assert shortfalls(replace(found, machine=Machine(disk_gb=3.1))) == []


def test_a_guess_is_marked_and_explained() -> None:
    guessed = replace(SFT, is_guess=True)
    found = replace(of(False, sft=guessed, dpo=GRPO), machine=Machine(tflops=0.166))
    assert columns(found)["time"] == {"base": "60 s", "sft": "~11 min", "dpo": "11 min"}
    assert lines(found)[-1] == (
        "~ is a guess, since no such stage was made here yet: 6 N operations a token at 40% of "
        "0.166 TFLOP/s"
    )


def test_numbers_have_the_unit_that_reads_best() -> None:
    assert [gigabytes(n) for n in (7e6, 3.24e9, 1.234e11)] == ["0.007 GB", "3.2 GB", "123 GB"]
    assert [duration(n) for n in (4, 89, 840, 7200)] == ["4 s", "89 s", "14 min", "2.0 h"]
