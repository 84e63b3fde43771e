"""Large blocks are taken from what was freed, not from the system anew."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from cpt.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    torch.ones(16 * 2**20).add(1)  # two blocks of 64 MiB
for _ in range(8):  # until the heap has found its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_pages_are_not_cleared_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("kept", "returned")
    }
    assert faults["kept"] * 4 < faults["returned"], faults
