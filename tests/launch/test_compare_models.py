"""`cpt compare` with models: what is missing is measured, prompts are answered, a judge decides."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import answering, cli
from tests.chat_server import Server, failed
from tests.reading_suite import numbered, write_task

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """One probe with its own task: bits per byte of a few texts."""
    write_task(tmp_path / "tasks", "reads", numbered(range(3)))
    probes = {"reads": {"group": "language", "metric": "bits_per_byte", "margin": 0.01}}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"name": "small", "include": "tasks", "probes": probes}))
    return file


@pytest.fixture
def models(tmp_path: Path, tiny_folder: Path) -> tuple[str, str]:
    """Two checkpoints; the second one's head is upside down."""
    from safetensors.torch import load_file, save_file

    for name in ("one", "other"):
        shutil.copytree(tiny_folder, tmp_path / name)
        config = tmp_path / name / "config.json"
        tree = json.loads(config.read_text()) | {"max_position_embeddings": 2048}
        config.write_text(json.dumps(tree))
    file = tmp_path / "other" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = -weights["lm_head.weight"]
    save_file(weights, file, {"format": "pt"})
    return "one", "other"


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPT_RUNS", raising=False)
    monkeypatch.setattr("launch.quiet.hush", lambda verbose: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_what_is_missing_is_measured_once(
    call: Call, suite: Path, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call("compare", *models)
    assert (code, out) == (2, "")
    assert "no suite in common: one has none; other has none; --suite FILE" in err
    code, out, err = call("compare", *models, "--suite", str(suite), "--json")
    assert code == 0, err
    change = json.loads(out)["models"][1]["changes"]["reads"]
    assert change["num_items"] == 3
    assert change["delta"] != 0

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("launch.probing.probe_checkpoint", not_again)
    again = json.loads(call("compare", *models, "--json")[1])  # without a suite: the stored results
    assert again["models"][1]["changes"]["reads"] == change
    code, out, _ = call("probe", "other", "--against", "one", "--suite", str(suite))
    assert code == (3 if change["verdict"] == "regressed" else 0)
    assert call("probe", "one", "--against", "./other/../other", "--suite", str(suite))[0] in (0, 3)


def test_a_judge_behind_an_address_is_asked_once(
    call: Call, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("asked.jsonl").write_text('{"prompt": "why?"}\n{"prompt": "how?"}\n')
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    options = ["--prompts", "asked.jsonl", "--max-new-tokens", "4"]
    server = Server()
    try:
        judged = [*options, "--judge", server.url, "--judge-model", "big"]
        code, out, err = call("compare", *models, *judged)
        assert (code, len(server.seen)) == (0, 4), err
        assert "judge: big at 127.0.0.1:" in out
        assert "the two orders disagree in 100%, in 100% for whichever stands first" in " ".join(
            out.split()
        )
        assert f"are sent to {server.url}/chat/completions" in err
        assert "secret" not in out + err
        assert call("compare", *models, *judged)[:2] == (0, out)
        assert len(server.seen) == 4
        server.script = [failed(404, "no such model")]
        code, out, err = call("compare", *models, *judged[:-1], "small")
        assert (code, out) == (1, "")
        assert "HTTP 404: no such model; check the address and --judge-model small" in err
    finally:
        server.close()
    assert call("compare", *models, *options)[0] == 0


def test_answers_and_a_judge_stand_beside_the_probes(
    call: Call, models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [{"prompt": f"<script>{n}</script>"} for n in range(3)]
    Path("asked.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    options = ["--prompts", "asked.jsonl", "--max-new-tokens", "4", "--num", "2"]
    judged = [*options, "--judge", "one", "--output", "beside.html"]
    code, out, err = call("compare", *models, *judged)
    assert code == 0, err
    assert "note: no probes shown: none in common" in err
    assert "answers to 2 prompts (greedy, at most 4 tokens)" in out
    assert "other is preferred to one in " in out
    files = sorted(Path("runs/cache/answers").iterdir())
    assert [len(file.read_text().splitlines()) for file in files] == [2, 2]
    page = Path("beside.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;0&lt;/script&gt;" in page

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded again")

    monkeypatch.setattr(answering, "_load", not_again)
    assert call("compare", *models, *judged)[:2] == (0, out)
    tree = json.loads(call("compare", *models, *judged, "--json")[1])
    assert "suite" not in tree
    (rate,) = tree["judge"]["win_rates"]
    assert rate["wins"] + rate["ties"] + rate["losses"] == 2
    assert (rate["model"], rate["against"]) == ("other", "one")
    code, _, err = call("compare", *models, *options, "--temperature", "1")
    assert (code, "loaded again" in err) == (1, True)
