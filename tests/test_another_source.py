"""Teach it your own code base: one line in `configs/data/code.yaml`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

ROOT = Path(__file__).parent.parent


def test_a_chain_learns_and_probes_a_folder_of_python_files(
    finished: Any, processes: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    for folder in ("configs", "recipes/smoke", "eval/tasks"):
        shutil.copytree(ROOT / folder, mine / folder)
    (mine / "code").mkdir()
    for number in range(10):
        lines = [
            f"def weigh_{number}_{n}(apple, pear_{n}=None):\n    return apple\n" for n in range(12)
        ]
        (mine / "code" / f"fruit_{number}.py").write_text("\n\n".join(lines))
    config = mine / "configs" / "data" / "code.yaml"
    before = config.read_text()
    assert "source: stdlib\n" in before
    config.write_text(before.replace("source: stdlib\n", "source: ../../code\n"))

    runs = finished.copy(tmp_path / "runs", until="base")
    cache = f"import os; os.environ['CPT_CACHE'] = {str(tmp_path / 'cache')!r}"
    arguments = ["run", mine / "recipes/smoke/chain.yaml", "--until", "pretrain", "--runs", runs]
    ended = processes.run(*arguments, code=cache)
    assert ended.code == 0, ended.output
    (stage,) = (runs / "stages").glob("pretrain-*")
    assert stage.name != finished.ids["pretrain"]
    rows = [json.loads(line) for line in (stage / "exemplars.jsonl").read_text().splitlines()]
    assert any("weigh_" in row["text"] for row in rows)
    assert not any("import " in row["text"] and "weigh_" not in row["text"] for row in rows)
    (result,) = (stage / "probes").glob("smoke-*.json")
    skill = json.loads(result.read_text())["probes"]["code_skill"]
    assert skill["items"]
    assert all("weigh_" in item["text"] for item in skill["items"])
    assert result.name not in os.listdir(finished.stage("base") / "probes")  # another suite
