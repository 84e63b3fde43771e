"""The shipped recipe for continual pretraining, on a tiny model: both ways, and the instruction delta."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "continual-pretraining" / "chain.yaml"
CONFIGS = ROOT / "configs"


def test_pretraining_on_an_aligned_model_and_on_its_base_with_the_delta_added_back(
    processes: Any, tmp_path: Path
) -> None:
    import torch

    documents = f"{{use: {CONFIGS / 'data' / 'code-documents.yaml'}, limit: 100}}"
    ended = processes.run(
        "run",
        RECIPE,
        f"model={CONFIGS / 'models' / 'tiny.yaml'}",
        f"probes={CONFIGS / 'probes' / 'smoke.yaml'}",
        f"stages.aligned.data={documents}",
        f"stages.domain.data={documents}",
        "--runs",
        tmp_path,
    )
    assert ended.code == 0, ended.output
    chain = tmp_path / "chains" / "continual-pretraining"
    nodes = json.loads((chain / "chain.json").read_text())["nodes"]
    folder = {node["name"]: tmp_path / "stages" / node["id"] for node in nodes}
    past = {
        name: [each["name"] for each in manifest(folder[name])["past"]]
        for name in ("aligned", "domain")
    }
    assert past == {"aligned": ["base", "instruct"], "domain": ["base"]}
    for name, replayed in (("aligned", [0.2, 0.1]), ("domain", [0.2])):
        shares = [each["share"] for each in manifest(folder[name])["data"] if each["replayed"]]
        assert sorted(shares, reverse=True) == pytest.approx(replayed, abs=0.1)
        log = [json.loads(line) for line in (folder[name] / "metrics.jsonl").open()]
        rates = [row["learning_rate"] for row in log if "loss" in row]
        assert (len(rates), rates[:2]) == (8, [0.0, pytest.approx(3e-4)])
        assert 3e-5 < rates[-1] < 1e-4
    base, instruct, domain, rebased = (
        weights(folder[name]) for name in ("base", "instruct", "domain", "rebased")
    )
    for name, weight in rebased.items():
        expected = domain[name] + (instruct[name] - base[name])
        torch.testing.assert_close(weight, expected, atol=1e-7, rtol=1e-6)
    assert any(not rebased[name].equal(domain[name]) for name in rebased)
    matrix = (chain / "matrix.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in matrix] == [node["name"] for node in nodes]


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "checkpoint" / "model.safetensors"))
