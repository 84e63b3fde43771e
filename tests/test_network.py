"""The hub is gone for a while: asked again, each time later, and then one clear error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpt.data import load_rows
from cpt.data_spec import DataSpec
from cpt.errors import DataError, StoreError
from cpt.model_source import materialise
from cpt.model_spec import ModelSpec
from cpt.net import WAITS, is_passing, resumed, retried
from cpt.settings import validate


class Refused(Exception):  # noqa: N818 - a status, as libraries raise it
    """What an HTTP library raises for a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})()


class ReadTimeout(Exception):  # noqa: N818 - as httpx calls it
    pass


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited; online."""
    found: list[float] = []
    monkeypatch.setattr("cpt.net.time.sleep", found.append)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return found


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, error: Exception, times: int, answer: Any = "answer") -> None:
        self.error, self.times, self.answer = error, times, answer

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return self.answer


def test_what_passes_is_asked_for_again_and_told(
    waited: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    error = ConnectionError("reset by https://me:word@host")
    assert retried(Flaky(error, 3), "model a") == "answer"
    assert waited == [2, 4, 8]
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "cpt: model a: reset by https://[redacted]@host; trying again in 2 s (1 of 5)"


@pytest.mark.parametrize("error", [TimeoutError(), ReadTimeout(), Refused(503), Refused(429)])
def test_it_ends_with_the_error(waited: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        retried(Flaky(error, 100), "x")
    assert waited == list(WAITS)


@pytest.mark.parametrize("error", [Refused(401), Refused(404), ValueError("no split"), KeyError()])
def test_what_does_not_pass_is_told_at_once(waited: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        retried(Flaky(error, 1), "x")
    assert waited == []


def test_the_cause_counts() -> None:
    error = OSError("cannot reach the hub")
    error.__cause__ = ReadTimeout()
    assert is_passing(error)
    assert not is_passing(OSError("no such file"))


def test_offline_nothing_is_tried_again(
    waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError):
        retried(Flaky(ConnectionError(), 1), "x")
    assert waited == []


def test_a_stream_goes_on_where_it_was(waited: list[float]) -> None:
    times = iter([3, 5, 5])

    def start() -> Iterator[int]:
        end = next(times)
        yield from range(end)
        if end == 3 or not waited[1:]:
            raise ConnectionError

    assert [*resumed(start, "x")] == [0, 1, 2, 3, 4]
    assert waited == [2, 2]  # what came in between begins the count anew


def test_data_come_when_the_hub_is_back_else_one_error(
    waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    spec = validate(DataSpec, {"path": "org/set", "revision": "a" * 40}, "d.yaml")
    hub = Flaky(ReadTimeout("too slow"), 2, [{"text": "a"}, {"text": "b"}])
    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert len(load_rows(spec, ("text",)).rows) == 2
    assert waited == [2, 4]
    hub.times = 100
    with pytest.raises(DataError, match=r"too slow; what is finished is kept, .*continues"):
        load_rows(spec, ("text",))


def test_a_model_that_cannot_be_fetched_is_one_error(
    waited: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", Flaky(ReadTimeout("too slow"), 100))
    spec = ModelSpec(path="org/model", revision="a" * 40)
    with pytest.raises(StoreError, match=r"org/model at a+ cannot be fetched: too slow; check"):
        materialise(spec, tmp_path / "checkpoint")
    assert waited == list(WAITS)
