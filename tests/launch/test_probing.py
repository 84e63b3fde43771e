"""`cpt probe` measures stages, folders and hub models, each once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpt import checkpoint
from cpt.manifest import Manifest
from cpt.store import Store
from eval.probe import probe_checkpoint
from launch import cli, probing
from tests.reading_suite import numbered, write_suite

COMMITS = ("0123456789abcdef0123456789abcdef01234567", "76543210" * 5)
Probe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """One probe with its own task: bits per byte of a few texts."""
    return write_suite(tmp_path, "small", numbered(range(3)), metric="bits_per_byte")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was measured: name and settings of every real measurement."""
    found: list[dict[str, Any]] = []

    def watched(model: str, suite: Any, **options: Any) -> Any:
        kept = ("dtype", "revision", "trust_remote_code")
        found.append({"model": model} | {name: options[name] for name in kept})
        return probe_checkpoint(model, suite, **options)

    monkeypatch.setattr(probing, "probe_checkpoint", watched)
    return found


@pytest.fixture
def probe(
    suite: Path,
    measured: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Probe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPT_RUNS", raising=False)
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(model: str | Path, *more: str) -> tuple[int, str, str]:
        code = cli.main(["probe", str(model), "--suite", str(suite), *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def stage(tmp_path: Path, tiny_folder: Path) -> Path:
    """A stage in a store, and a chain's link to it: the link."""
    store = Store(tmp_path / "runs")
    for kind, parents in (("base", {}), ("sft", {"parent": "base-1"})):
        partial = store.partial(f"{kind}-1")
        shutil.copytree(tiny_folder, partial / "checkpoint")
        inputs = {"kind": kind, "dtype": "float32"} if kind == "base" else {"kind": kind}
        past: Any = ()
        if parents:
            from cpt.manifest import Ancestor

            past = (Ancestor("base", "base-1", "base", "../base-1"),)
        files = checkpoint.digests(partial / "checkpoint")
        Manifest(f"{kind}-1", kind, kind, parents, past, inputs, files=files).write(partial)
        store.publish(f"{kind}-1")
    nodes = [{"name": "base", "id": "base-1"}, {"name": "sft", "id": "sft-1"}]
    return store.link_chain("a", nodes, {"name": "a"}) / "1-sft"


def test_a_stage_keeps_its_result_and_is_measured_once(
    probe: Probe, stage: Path, measured: list[dict[str, Any]]
) -> None:
    code, first, err = probe(stage)
    assert code == 0, err
    assert first.startswith("reads  ")
    assert "bits_per_byte, 3 items" in first
    (file,) = (stage / "probes").iterdir()
    assert json.loads(file.read_text())["stage"] == "sft-1"
    for name in (stage, "sft-1", stage / "checkpoint"):
        assert probe(name)[:2] == (0, first)
    place = str(stage.resolve() / "checkpoint")
    assert measured == [
        {"model": place, "dtype": "float32", "revision": None, "trust_remote_code": False}
    ]
    assert not Path("runs", "cache", "probes").exists()


def test_a_result_of_other_packages_is_measured_again_but_a_chain_s_own(
    probe: Probe, stage: Path, measured: list[dict[str, Any]], tiny_folder: Path
) -> None:
    """The id of what a gate made follows from a chain's results: an upgrade must not train stages anew."""
    assert (probe(stage)[0], probe(tiny_folder)[0]) == (0, 0)
    (own,), (cached,) = (stage / "probes").iterdir(), Path("runs/cache/probes").iterdir()
    for file in (own, cached):
        found = json.loads(file.read_text())
        found["packages"]["torch"] = "0"
        file.write_text(json.dumps(found))
    measured.clear()
    code, _, err = probe(stage)
    assert (code, measured) == (0, [])
    assert "was measured with other versions of lm_eval, transformers, torch, datasets" in err
    assert json.loads(own.read_text())["packages"]["torch"] == "0"
    assert probe(tiny_folder)[0] == 0
    assert len(measured) == 1
    assert json.loads(cached.read_text())["packages"]["torch"] != "0"


def test_a_stage_in_another_number_type_is_another_result(
    probe: Probe, stage: Path, measured: list[dict[str, Any]]
) -> None:
    _, first, _ = probe(stage)
    code, other, err = probe(stage, "--dtype", "bfloat16")
    assert code == 0, err
    assert other != first
    assert probe(stage, "--dtype", "bfloat16")[1] == other
    assert probe(stage, "--dtype", "float32")[1] == first
    assert [entry["dtype"] for entry in measured] == ["float32", "bfloat16"]
    assert len(list((stage / "probes").iterdir())) == 1
    assert len(list(Path("runs", "cache", "probes").iterdir())) == 1


def test_a_folder_is_known_by_its_content(
    probe: Probe, tiny_folder: Path, measured: list[dict[str, Any]]
) -> None:
    shutil.copytree(tiny_folder, "one")
    shutil.copytree(tiny_folder, "other")
    code, first, err = probe("one")
    assert code == 0, err
    assert probe("one") == (0, first, "")
    assert probe("./other")[1] == first
    assert len(measured) == 1
    for _ in range(2):
        assert probe("one", "--dtype", "bfloat16")[1] != first
    assert [entry["dtype"] for entry in measured] == ["auto", "bfloat16"]
    from safetensors.torch import load_file, save_file

    file = Path("one", "model.safetensors")
    weights = load_file(file)
    weights["lm_head.weight"] = weights["lm_head.weight"] * 2
    save_file(weights, file, {"format": "pt"})
    code, second, _ = probe("one")
    assert code == 0
    assert second != first
    assert len(measured) == 3


def test_a_result_goes_to_a_file_of_ones_own_too(
    probe: Probe, tiny_folder: Path, stage: Path, measured: list[dict[str, Any]]
) -> None:
    for model, name in ((tiny_folder, tiny_folder.name), (stage, "sft-1")):
        for _ in range(2):
            Path("mine.json").unlink(missing_ok=True)
            code, out, err = probe(model, "--output", "mine.json")
            assert code == 0, err
            result = json.loads(Path("mine.json").read_text())
            assert result["stage"] == name
            assert f"{result['probes']['reads']['value']:.4f}" in out
    assert len(measured) == 2
    assert (stage / "probes").is_dir()


def test_a_hub_model_is_known_by_its_commit(
    probe: Probe,
    tiny_folder: Path,
    tmp_path: Path,
    measured: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub's cache stands in for the hub; main is the first commit."""
    model = tmp_path / "hub" / "models--someone--tiny"
    for commit in COMMITS:
        shutil.copytree(tiny_folder, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMITS[0])
    for place in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, first, err = probe("someone/tiny")
    assert code == 0, err
    for revision in ("main", COMMITS[0]):
        assert probe("someone/tiny", "--revision", revision)[1] == first
    assert len(measured) == 1
    assert probe("someone/tiny", "--revision", COMMITS[1])[:2] == (0, first)
    assert [entry["revision"] for entry in measured] == [None, COMMITS[1]]
    assert probe("someone/tiny", "--trust-remote-code")[0] == 0
    assert measured[-1]["trust_remote_code"] is True
    assert len(measured) == 3
    code, _, err = probe("someone/other")
    assert code == 1
    assert err.startswith("cpt: someone/other: is no folder here, and cannot be fetched")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./nowhere"], "cpt: ./nowhere: no such folder"),
        (["tiny", "--revision", "main"], "cpt: --revision main: tiny is a folder"),
        (["tiny", "--suite", "none.yaml"], "cpt: none.yaml: no such file"),
    ],
)
def test_bad_input_is_one_message(
    probe: Probe, tiny_folder: Path, arguments: list[str], words: str
) -> None:
    Path("tiny").symlink_to(tiny_folder)
    code, _, err = probe(*arguments)
    assert code == 2
    assert err.startswith(words)
    assert err.count("\n") == 1


def test_a_damaged_result_is_named(probe: Probe, stage: Path) -> None:
    assert probe(stage)[0] == 0
    (file,) = (stage / "probes").iterdir()
    file.write_text("{")
    code, _, err = probe(stage)
    assert code == 1
    assert str(file.resolve()) in err


def test_damaged_weights_are_not_measured(
    probe: Probe, stage: Path, measured: list[dict[str, Any]]
) -> None:
    file = stage / "checkpoint" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for more in ([], ["--dtype", "bfloat16"]):
        code, _, err = probe(stage, *more)
        assert code == 1
        assert "is damaged" in err
    assert measured == []
