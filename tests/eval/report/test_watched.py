"""What happened within stages, what they cost, and the report as data."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.report import kl, ledger
from eval.report.content import content
from eval.report.gather import gather
from eval.report.markdown import markdown
from eval.report.model_card import model_card
from eval.report.page import html
from eval.report.write import write_report


class TestLooks:
    def test_curves_and_gaps_are_on_the_page(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True)
        page = html(gather(fake.chain, fake.stages))
        assert page.count("<h4>While it trained<small> suite small</small></h4>") == 4
        assert "KL from the base model over steps: kl from 0 to 0.8" in page
        assert "facts (look)" in page
        assert "KL against forgetting" in page
        assert "pretrain: replay, ema; sft: replay, kl" in page
        assert "R^2 = " in page

    def test_gaps_are_in_markdown(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True)
        text = markdown(gather(fake.chain, fake.stages))
        assert re.search(r"\| facts \| 0\.900 \| 0\.400 \(.*\| 10 \| 0\.500 \(.*\| never \|", text)

    def test_lowest_scores_are_on_the_page_and_in_markdown(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True)
        story = gather(fake.chain, fake.stages)
        assert re.search(r"\| min-ACC \| 0\.400 \| .* \| facts; shares of 1 \|", markdown(story))
        assert html(story).count(">min-ACC<") == 8  # four stages, two units
        assert story.stages[1].looks.lowest[0].worst_case is None

    def test_a_damaged_look_is_told_and_ends_nothing(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True)
        (file,) = fake.stages.glob("sft-*/watch/*/step-000010.json")
        file.write_text("{")
        story = gather(fake.chain, fake.stages)
        for text in (html(story), markdown(story)):
            assert text.count("is not a whole probe result") == 1

    def test_nothing_of_it_where_nobody_looked(self, fake_chain: Any) -> None:
        fake = fake_chain()
        story = gather(fake.chain, fake.stages)
        assert "While it trained" not in html(story) + markdown(story)
        assert kl.section(story) == ""

    def test_what_a_file_says_stays_text(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True, answer="<script>alert(1)</script>")
        assert "<script>" not in html(gather(fake.chain, fake.stages))


def with_base(stages: Path) -> None:
    """The base model measured with the suite of the looks: as the first stage began."""
    (first,) = stages.glob("pretrain-*/watch/small-ab/step-000000.json")
    (base,) = stages.glob("base-*/probes")
    (base / "small-ab.json").write_text(first.read_text())


class TestForgetting:
    def test_both_kinds_are_paired_with_the_kl_of_a_look(self, fake_chain: Any) -> None:
        fake = fake_chain(watched=True)
        with_base(fake.stages)
        story = gather(fake.chain, fake.stages)
        first, *_ = kl.paths(story)
        assert [kl for kl, _ in first.points] == [0, 0.5, 0.8]
        assert [lost for _, lost in first.points] == pytest.approx([0, 0.5, 0.05])
        assert (first.stage, first.hooks) == ("pretrain", ("replay", "ema"))
        loss, *_ = kl.paths(story, "general_loss_rise")
        assert loss.points == ((0.0, 0.0), (0.5, 0.2), (0.8, 0.1))
        tree = content(story)["kl_against_forgetting"]
        assert tree["old_drop"]["fit"]["num_points"] == 12
        text = markdown(story)
        assert (
            "| mean drop of old probes, shares of 1 | pretrain | replay, ema | 3 | 0.800 |" in text
        )
        assert "mean drop of old probes" in html(story).lower()

    def test_a_parabola_through_the_base_is_found(self) -> None:
        points = [(x, 0.3 * x + 0.2 * x * x) for x in (0.1, 0.5, 0.9, 1.5)]
        found = kl.fit([kl.Path("a", tuple(points[:2]), ()), kl.Path("b", tuple(points[2:]), ())])
        assert found is not None
        assert (found.linear, found.quadratic) == pytest.approx((0.3, 0.2))
        assert found.r_squared == pytest.approx(1)
        assert found.num_points == 4

    def test_nothing_is_fitted_to_too_little(self) -> None:
        for points in (((0.1, 0.2), (0.2, 0.3)), ((0.0, 0.0),) * 5, ((0.5, 0.1), (0.5, 0.2)) * 2):
            assert kl.fit([kl.Path("a", points, ())]) is None


class TestLedger:
    def test_tokens_are_counted_as_often_as_they_are_seen(self, tmp_path: Path) -> None:
        data = [{"tokens": 1000, "epochs": 2.5}, {"tokens": 400, "epochs": 0.5}, {"tokens": 7}]
        found = ledger.entry("sft", {"data": data, "num_steps": 8}, {}, {}, tmp_path)
        assert (found.tokens, found.steps) == (2700, 8)
        assert ledger.entry("base", {}, {}, {}, tmp_path).tokens is None

    def test_disk_is_told_by_what_it_is_for(self, tmp_path: Path) -> None:
        for name, size in {"checkpoint/a": 300, "checkpoint/b/c": 200, "log.txt": 5}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x" * size)
        (tmp_path / "probes").symlink_to(tmp_path / "checkpoint")  # elsewhere, so it costs nothing
        assert ledger.disk(tmp_path) == {"checkpoint": 500, "other": 5}
        assert ledger.disk(tmp_path / "gone") == {}

    def test_what_a_gate_made_trained_nothing_and_its_links_cost_nothing(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "own").write_bytes(b"x" * 7)
        (tmp_path / "exemplars.jsonl").write_bytes(b"x" * 90)
        (tmp_path / "another").hardlink_to(tmp_path / "exemplars.jsonl")
        data = [{"tokens": 100, "epochs": 2.0}]
        manifest = {"data": data, "inputs": {"stands_for": {"name": "sft"}}}
        found = ledger.entry("sft.repair", manifest, {}, {}, tmp_path)
        assert (found.tokens, found.disk) == (None, {"other": 7})
        assert ledger.entry("sft", {"data": data, "inputs": {}}, {}, {}, tmp_path).tokens == 200

    def test_only_columns_that_say_something(self) -> None:
        def of(seconds: dict[str, float], memory: dict[str, float]) -> ledger.Entry:
            return ledger.Entry("sft", 10, 2, seconds, memory, {})

        assert ledger.heads([of({"train": 2.0}, {})]) == [
            "steps",
            "tokens",
            "train",
            "total",
            "disk",
        ]
        both = [of({"train": 2.0, "probe": 3.0}, {"peak": 2.0**30}), of({"merge": 1.0}, {})]
        heads = ledger.heads(both)
        assert heads[2:] == ["train", "merge", "probe", "total", "peak memory, host", "disk"]
        assert ledger.cells(both[0], heads) == [
            "2",
            "10",
            "2.0 s",
            "",
            "3.0 s",
            "5.0 s",
            "1.00 GiB",
            "",
        ]
        on_a_gpu = of({}, {"peak": 2.0**30, "accelerator": 2.0**31})
        heads = ledger.heads([on_a_gpu, *both])
        assert heads[-3:] == ["peak memory, host", "peak memory, accelerator", "disk"]
        assert ledger.cells(on_a_gpu, heads)[-3:] == ["1.00 GiB", "2.00 GiB", ""]
        assert ledger.cells(both[0], heads)[-3:] == ["1.00 GiB", "", ""]
        assert ledger.total(both).startswith("All together 6.0 s, 50% of it probes; 20 tokens")


class TestContent:
    def test_it_is_json_with_every_number(self, fake_chain: Any) -> None:
        ours, other = fake_chain(watched=True), fake_chain(name="quickstart-naive", naive=True)
        story = gather(ours.chain, ours.stages, other.chain)
        tree = json.loads(json.dumps(content(story)))
        assert tree["stages"][1]["looks"]["gaps"][0]["recovery"]["value"] == pytest.approx(0.45)
        change = tree["stages"][4]["from_base"][0]
        own = story.stages[4].from_base[0]
        assert (change["probe"], change["delta"]) == (own.probe, own.delta)
        assert tree["matrix"]["rows"][0]["stage"] == "base"
        assert tree["comparison"]["chain"] == "quickstart-naive"
        assert tree["stages"][1]["cost"]["seconds"]["train"] == 148.0 + 9 * len("pretrain")

    def test_it_has_flips_terms_and_packages(self, fake_chain: Any) -> None:
        fake = fake_chain()
        story = gather(fake.chain, fake.stages)
        tree, text = content(story), markdown(story)
        assert tree["flips"]["lost"] == len(story.flips.lost) > 0
        assert len(tree["flips"]["examples"]["lost"]) == 4
        (term,) = tree["stages"][2]["logged"]
        values = next(one.values for one in story.stages[2].series if one.name == "hook/kl")
        assert (term["name"], term["first"], term["last"]) == ("kl", values[0], values[-1])
        assert term["mean"] == pytest.approx(sum(values) / len(values))
        assert tree["packages"]["trl"] == ["1.16.0"]
        assert "torch 2.13.0; transformers 5.23.0; trl 1.16.0" in text
        assert "recipe.yaml" in text
        assert f"From base to grpo: {len(story.flips.lost)} right to wrong" in text
        assert re.search(r"\| term \| first \| last \| mean \| values \|", text)

    def test_what_is_no_number_is_null(self, fake_chain: Any) -> None:
        fake = fake_chain()
        story = replace(
            gather(fake.chain, fake.stages), margin=float("nan"), recipe={"a": [float("inf")]}
        )
        tree = json.loads(json.dumps(content(story), allow_nan=False))
        assert (tree["gate"]["margin"], tree["recipe"]) == (None, {"a": [None]})

    def test_all_files_are_written(self, fake_chain: Any) -> None:
        fake = fake_chain()
        write_report(fake.chain, fake.stages)
        names = {"report.html", "report.md", "report.json", "matrix.csv", "model_card.md"}
        assert names <= {file.name for file in fake.chain.iterdir()}


class TestModelCard:
    def test_front_matter_is_yaml_that_the_hub_reads(self, fake_chain: Any) -> None:
        fake = fake_chain()
        text = model_card(gather(fake.chain, fake.stages))
        front = yaml.safe_load(text.split("---\n")[1])
        (model,) = front["model-index"]
        assert {result["dataset"]["name"] for result in model["results"]} >= {"python_qa"}
        assert front["tags"] == ["continual-post-training", "pretrain", "sft", "dpo", "grpo"]
        assert "| python\\_qa" in text or "python_qa" in text

    def test_it_names_no_data_set_that_is_none_and_the_base_s_revision(
        self, fake_chain: Any
    ) -> None:
        fake = fake_chain()
        story = gather(fake.chain, fake.stages)
        recipe = {"model": {"path": "org/model", "revision": "ab12"}}
        text = model_card(replace(story, recipe=recipe))
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["base_model"] == "org/model"
        (dataset, *_) = [result["dataset"] for result in front["model-index"][0]["results"]]
        assert dataset["type"] == "cpt probe suite quickstart"
        assert dataset["args"] == {"suite": "quickstart", "suite_hash": "5d2e91ab"}
        assert "Base model: `org/model`, revision `ab12`." in text
        local = {"model": {"path": "./here", "revision": "ab12"}}
        assert "Base model" not in model_card(replace(story, recipe=local))

    def test_there_is_none_before_a_stage_is_probed(self, fake_chain: Any) -> None:
        fake = fake_chain(probed=1)
        assert model_card(gather(fake.chain, fake.stages)) == ""

    def test_text_of_models_cannot_break_out(self, fake_chain: Any) -> None:
        fake = fake_chain(answer="a | b\n---\n<script>")
        text = model_card(gather(fake.chain, fake.stages))
        assert "<script>" not in text
        assert text.count("\n---\n") == 1
