"""The smoke chain from end to end: what it leaves, that it survives a move, that it runs nothing twice."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.chain

SMOKE = Path(__file__).parent.parent / "recipes" / "smoke"
STAGES = ("pretrain", "sft", "dpo", "grpo")
HEAVY = ("torch", "transformers", "trl", "datasets", "lm_eval", "peft", "accelerate", "deepspeed")
# The command, and after it what was imported.
LIGHT_ONLY = f"""
import sys
from launch.cli import main
code = main(sys.argv[1:])
heavy = {{name.partition(".")[0] for name in sys.modules}} & {{*{HEAVY}}}
assert not heavy, heavy
sys.exit(code)
"""


# Of the processor, since wall time is also that of other processes. On an idle machine each verb answers
# within a second and a finished chain within two; a machine slower than that of the README may take this.
MOST_SECONDS = 3.0


def light(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A cold `cpt`, which imports nothing heavy and answers at once."""
    before = children_seconds()
    done = subprocess.run(
        [sys.executable, "-c", LIGHT_ONLY, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds = children_seconds() - before
    assert seconds < MOST_SECONDS, f"{arguments[0]}: {seconds:.1f} s of processor time"
    return done


def children_seconds() -> float:
    """Processor time of all ended children of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its inode and time of change; links are files."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(Path(place, name))
            found[str(Path(place, name))] = (status.st_ino, status.st_mtime_ns)
    return found


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestWhatAChainLeaves:
    def test_every_stage_is_whole_and_nothing_else_is_there(self, finished: Any) -> None:
        for name, stage_id in finished.ids.items():
            folder = finished.stage(name)
            left = {path.name for path in folder.iterdir()}
            expected = {"manifest.json", "checkpoint", "probes"}
            if name != "base":
                expected |= {"metrics.jsonl", "exemplars.jsonl", "log.txt", "gate"}
            assert left - {"adapter", "memory"} == expected, name
            assert stage_id.startswith(f"{'base' if name == 'base' else name}-")
        stages = {path.name for path in (finished.runs / "stages").iterdir()}
        assert stages == set(finished.ids.values())

    def test_manifests_tell_where_each_checkpoint_comes_from(self, finished: Any) -> None:
        names = list(finished.ids)
        for number, name in enumerate(names[1:], start=1):
            entry = manifest(finished.stage(name))
            assert [ancestor["name"] for ancestor in entry["past"]] == names[:number]
            for ancestor in entry["past"]:
                assert not ancestor["folder"].startswith("/")
                place = (finished.stage(name) / ancestor["folder"]).resolve()
                assert place == finished.stage(ancestor["name"]).resolve()
            assert entry["parents"]["parent"] == finished.ids[names[number - 1]]
            assert entry["id"] == finished.ids[name]
            assert entry["packages"]["torch"]
            assert entry["world"]["size"] == 1
            assert {"load", "train", "save"} <= entry["seconds"].keys()
            assert all(part["rows"] > 0 for part in entry["data"])
            assert len(entry["files"]["checkpoint/model.safetensors"]) == 64
            assert {"exemplars.jsonl", "metrics.jsonl"} <= entry["files"].keys()
        assert manifest(finished.stage("dpo"))["parents"]["reference"] == finished.ids["sft"]
        assert manifest(finished.stage("grpo"))["parents"]["reference"] == finished.ids["sft"]

    def test_references_are_the_declared_stages(self, finished: Any) -> None:
        """KL to the reference before the first step: 0 when it is the parent, not 0 when it is not."""
        assert manifest(finished.stage("dpo"))["checks"]["kl_to_reference_at_start"] == 0
        assert manifest(finished.stage("grpo"))["checks"]["kl_to_reference_at_start"] > 0

    def test_rates_of_eos_before_and_after_are_kept(self, finished: Any) -> None:
        for name in ("sft", "dpo", "grpo"):
            entry = manifest(finished.stage(name))
            rates = [entry["checks"][f"eos_rate_{when}"] for when in ("before", "after")]
            assert all(rate * 8 in range(9) for rate in rates), (name, rates)
            warned = any(note.startswith("EOS") for note in entry["notes"])
            assert warned is (rates[0] - rates[1] >= 0.2)
        assert "eos_rate_after" not in manifest(finished.stage("pretrain"))["checks"]

    def test_checkpoints_open_alone(self, finished: Any, tmp_path: Path) -> None:
        import shutil

        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        before = None
        for name in finished.ids:
            alone = tmp_path / name
            shutil.copytree(finished.stage(name) / "checkpoint", alone)
            model, info = AutoModelForCausalLM.from_pretrained(alone, output_loading_info=True)
            assert not info["missing_keys"]
            assert not info["unexpected_keys"]
            tokenizer = AutoTokenizer.from_pretrained(alone)
            assert tokenizer.chat_template
            logits = model(**tokenizer("def", return_tensors="pt")).logits
            assert torch.isfinite(logits).all()
            assert before is None or not torch.equal(before, logits), f"{name} learnt nothing"
            before = logits

    def test_the_adapter_is_kept_beside_the_merged_weights(self, finished: Any) -> None:
        """W_dpo = W_sft + (alpha / rank) B A."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(finished.stage("sft") / "checkpoint")
        adapted = PeftModel.from_pretrained(base, finished.stage("dpo") / "adapter")
        merged = adapted.merge_and_unload().state_dict()
        model = AutoModelForCausalLM.from_pretrained(finished.stage("dpo") / "checkpoint")
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, merged[name], rtol=0, atol=1e-6)
        others = [name for name in finished.ids if name != "dpo"]
        assert not any((finished.stage(name) / "adapter").exists() for name in others)

    def test_curves_have_the_hooks_terms_and_the_held_out_loss(self, finished: Any) -> None:
        for name, steps in (("pretrain", 6), ("sft", 6), ("dpo", 4), ("grpo", 4)):
            logged = [row for row in rows(finished.stage(name)) if "loss" in row]
            assert [row["step"] for row in logged] == list(range(1, steps + 1)), name
            assert manifest(finished.stage(name))["num_steps"] == steps
        terms = [row["hook/kl"] for row in rows(finished.stage("sft")) if "loss" in row]
        assert terms[0] == pytest.approx(0, abs=1e-7)  # the policy is its own reference
        assert all(term > 0 for term in terms[1:])
        for name in ("pretrain", "sft"):
            held_out = [row for row in rows(finished.stage(name)) if "eval_loss" in row]
            assert [row["step"] for row in held_out] == [0, 6]
            assert held_out[1]["eval_loss"] < held_out[0]["eval_loss"]

    def test_exemplars_are_rows_that_the_stage_trained_on(self, finished: Any) -> None:
        columns = {"pretrain": "text", "sft": "messages", "dpo": "chosen", "grpo": "prompt"}
        for name, column in columns.items():
            lines = (finished.stage(name) / "exemplars.jsonl").read_text().splitlines()
            assert lines
            assert all(column in json.loads(line) for line in lines)

    def test_replay_has_its_share(self, finished: Any) -> None:
        parts = manifest(finished.stage("pretrain"))["data"]
        shares = {part["replayed"]: part["share"] for part in parts}
        assert shares[True] == pytest.approx(0.25, abs=0.15)  # to the nearest whole row of 4 x 6
        assert sum(shares.values()) == pytest.approx(1)

    def test_every_checkpoint_is_probed_and_the_report_shows_it(self, finished: Any) -> None:
        for name, stage_id in finished.ids.items():
            (file,) = (finished.stage(name) / "probes").glob("smoke-*.json")
            result = json.loads(file.read_text())
            assert result["stage"] == stage_id
            assert all(cell["num_items"] > 0 for cell in result["probes"].values())
        chain = finished.runs / "chains" / "smoke"
        page, text = (chain / "report.html").read_text(), (chain / "report.md").read_text()
        for name in STAGES:
            assert name in page
            assert name in text
            assert f"smoke   {name} after " in finished.output
        assert "http" not in page.replace("http://www.w3.org", "")
        assert len((chain / "matrix.csv").read_text().splitlines()) >= 1 + len(finished.ids)

    def test_links_survive_a_move(self, finished: Any, tmp_path: Path) -> None:
        import shutil

        moved = tmp_path / "elsewhere" / "runs"
        shutil.copytree(finished.runs, moved, symlinks=True)
        for number, name in enumerate(finished.ids):
            link = moved / "chains" / "smoke" / f"{number}-{name}"
            assert link.is_symlink()
            assert link.resolve() == moved.resolve() / "stages" / finished.ids[name]
        done = light("run", SMOKE / "chain.yaml", "--runs", moved)
        assert done.returncode == 0, done.stderr
        assert "nothing to do" in done.stderr


class TestRunningAgain:
    def test_a_finished_chain_says_so_without_torch_and_touches_nothing(
        self, finished: Any
    ) -> None:
        before = files_of(finished.runs)
        done = light("run", SMOKE / "chain.yaml", "--runs", finished.runs)
        assert done.returncode == 0, done.stderr
        assert "nothing to do: all 5 nodes of smoke are made and probed" in done.stderr
        assert files_of(finished.runs) == before

    @pytest.mark.parametrize("verb", ["plan", "ls", "report"])
    def test_what_only_reads_needs_no_torch(self, finished: Any, verb: str) -> None:
        words: dict[str, list[str | Path]] = {
            "plan": [SMOKE / "chain.yaml"],
            "ls": [],
            "report": ["smoke"],
        }
        done = light(verb, *words[verb], "--runs", finished.runs)
        assert done.returncode == 0, done.stderr
        for name in finished.ids:
            assert name in done.stdout

    def test_help_answers_at_once(self) -> None:
        done = light("--help")
        assert done.returncode == 0
        assert "cpt run" in done.stdout

    def test_a_changed_stage_retrains_itself_and_what_follows(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs")
        before = files_of(runs / "stages")
        ended = processes.smoke(runs, "stages.dpo.train.learning_rate=2e-3")
        assert ended.code == 0, ended.output
        tree = json.loads((runs / "chains" / "smoke" / "chain.json").read_text())
        ids = {node["name"]: node["id"] for node in tree["nodes"]}
        same = [name for name in ids if ids[name] == finished.ids[name]]
        assert same == ["base", "pretrain", "sft"]
        after = files_of(runs / "stages")
        assert {file: after.get(file) for file in before} == before, "a finished stage was touched"
        for name in same:
            assert f"{name}: step" not in ended.output
        weights = "checkpoint/model.safetensors"
        for name in ("dpo", "grpo"):
            new = (runs / "stages" / ids[name] / weights).read_bytes()
            assert new != (finished.stage(name) / weights).read_bytes()

        again = light("run", SMOKE / "chain.yaml", "--runs", runs)
        assert again.returncode == 0
        assert "nothing to do" in again.stderr  # the first variant is still there

    def test_until_stops_after_a_stage(self, finished: Any, tmp_path: Path) -> None:
        runs = finished.copy(tmp_path / "runs", until="sft")
        done = light("run", SMOKE / "chain.yaml", "--until", "sft", "--runs", runs)
        assert done.returncode == 0, done.stderr
        links = {path.name for path in (runs / "chains" / "smoke").iterdir() if path.is_symlink()}
        assert links == {"0-base", "1-pretrain", "2-sft"}
        assert (runs / "chains" / "smoke" / "report.html").is_file()
        refused = light("run", SMOKE / "chain.yaml", "--until", "stf", "--runs", runs)
        assert refused.returncode == 2
        assert "sft" in refused.stderr

    def test_a_missing_probe_result_is_measured_again_and_nothing_trains(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs")
        (file,) = (runs / "stages" / finished.ids["sft"] / "probes").iterdir()
        file.unlink()
        ended = processes.smoke(runs)
        assert ended.code == 0, ended.output
        assert ": step" not in ended.output
        finished.assert_equal(runs)


class TestBaseline:
    def test_naive_shares_the_base_trains_without_hooks_and_is_compared(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs")
        own = processes.smoke(runs)
        assert own.code == 0, own.output
        before = files_of(runs / "stages")
        ended = processes.smoke(runs, "baseline=naive", "--until", "sft")
        assert ended.code == 0, ended.output
        folder = runs / "chains" / "smoke-naive"
        tree = json.loads((folder / "chain.json").read_text())
        ids = {node["name"]: node["id"] for node in tree["nodes"]}
        assert [name for name in ids if ids[name] == finished.ids[name]] == ["base"]
        assert not any(node["hooks"] for node in tree["nodes"])
        after = files_of(runs / "stages")
        assert {file: after.get(file) for file in before} == before
        entry = manifest(runs / "stages" / ids["sft"])
        assert entry["hooks"] == []
        assert not any(part["replayed"] for part in entry["data"])
        assert not any(
            key.startswith("hook/") for row in rows(runs / "stages" / ids["sft"]) for key in row
        )
        assert "smoke-naive" in (folder / "report.md").read_text()
        report = light("report", "smoke", "--against", "smoke-naive", "--runs", runs)
        assert report.returncode == 0, report.stderr
        assert "smoke-naive" in (runs / "chains" / "smoke" / "report.md").read_text()

    def test_joint_trains_on_all_labelled_text_from_the_base_model(
        self, finished: Any, processes: Any, tmp_path: Path
    ) -> None:
        runs = finished.copy(tmp_path / "runs", until="base")
        ended = processes.smoke(runs, "baseline=joint", "--until", "sft")
        assert ended.code == 0, ended.output
        tree = json.loads((runs / "chains" / "smoke-joint" / "chain.json").read_text())
        nodes = {node["name"]: node for node in tree["nodes"]}
        assert nodes["sft"]["parents"] == ["base"]
        assert nodes["dpo"]["parents"] == ["sft"]
        stages = {name: runs / "stages" / nodes[name]["id"] for name in ("pretrain", "sft")}
        entry = manifest(stages["sft"])
        assert entry["parents"] == {"parent": nodes["base"]["id"]}
        assert [part["stage"] for part in entry["data"]] == ["pretrain", "sft"]
        # Both have 6 steps of 4 rows; packed rows of 128 tokens and conversations stand in one stream.
        assert (entry["num_steps"], manifest(stages["pretrain"])["num_steps"]) == (12, 6)
        assert sum(part["share"] for part in entry["data"]) == pytest.approx(1, abs=1e-4)
        listed = light("ls", "--runs", runs)
        assert "smoke-joint" in listed.stdout
