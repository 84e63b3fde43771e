import json
import socket

from cpt.machine import machine, parsed


def test_what_can_change_numbers_is_told_and_not_the_host() -> None:
    found = machine()
    assert {*found} == {"system", "python", "cpu", "cores", "memory", "gpus", "driver"}
    assert found["cores"] >= 1
    assert found["memory"] > 2**20
    assert found["cpu"]
    assert socket.gethostname() not in json.dumps(found)


def test_what_nvidia_smi_says() -> None:
    text = "NVIDIA H200, 143771, 570.86.15\nNVIDIA H200, [N/A], 570.86.15\nodd\n"
    assert parsed(text) == [
        ("NVIDIA H200", 143771 * 2**20, "570.86.15"),
        ("NVIDIA H200", 0, "570.86.15"),
    ]
    assert parsed("") == []
