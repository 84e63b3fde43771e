"""When a stage is looked at, and what of it is part of the stage's id."""

from typing import Any

import pytest

from cpt.watch import WatchSpec


@pytest.mark.parametrize(
    ("settings", "num_steps", "expected"),
    [
        ({"every": 4, "early": False}, 10, [0, 4, 8, 10]),
        ({"every": 4}, 10, [0, 1, 2, 4, 8, 10]),
        ({"every": 50}, 120, [0, 1, 2, 4, 8, 16, 32, 50, 64, 100, 120]),
        ({"early": False}, 100, [*range(0, 101, 5)]),  # a twentieth
        ({"early": False}, 3, [0, 1, 2, 3]),
    ],
)
def test_looks_are_before_after_and_between(
    settings: dict[str, Any], num_steps: int, expected: list[int]
) -> None:
    assert WatchSpec(**settings).steps(num_steps) == expected


def test_a_look_may_end_a_stage_between_its_ends() -> None:
    assert WatchSpec(every=4, early=False, stop=True).stops(10) == [4, 8]
    assert WatchSpec(every=4, early=False).stops(10) == []


def test_looks_that_only_look_change_no_id() -> None:
    assert WatchSpec(every=7, suite="s.yaml", margin=0.1).content("12ab") == {}
    found = WatchSpec(every=7, suite="s.yaml", margin=0.1, stop=True).content("12ab")
    assert (found["rules"], found["every"]) == ("12ab", 7)
    assert "prompts" not in found


class TestInAChain:
    def test_the_chains_is_every_stages_unless_it_has_its_own(self, chain: Any) -> None:
        chain.chain["watch"] = {"every": 5}
        chain.stages["dpo"]["watch"] = {"every": 9, "margin": 0.01}
        chain.stages["grpo"]["watch"] = False
        plan = chain.plan()
        watched = {node.name: node.spec.watch for node in plan.nodes[1:]}
        assert (watched["sft"].every, watched["sft"].margin) == (5, None)
        assert (watched["dpo"].every, watched["dpo"].margin) == (9, 0.01)
        assert watched["grpo"] is None

    def test_files_are_found_from_the_recipe_that_names_them(self, chain: Any) -> None:
        chain.chain["watch"] = {"suite": "./small.yaml", "text": {"path": "./general.jsonl"}}
        watch = chain.load().watch
        assert watch.suite == str(chain.folder / "small.yaml")
        assert watch.text.path == str(chain.folder / "general.jsonl")
        changed = chain.load("stages.sft.watch={every: 3, text: /tmp/other.jsonl}")
        assert changed.stages["sft"].watch.text.path == "/tmp/other.jsonl"
        changed = chain.load("watch.text=/tmp/other.jsonl")
        assert changed.watch.text.path == "/tmp/other.jsonl"

    def test_a_merge_has_no_steps(self, chain: Any, refused: Any) -> None:
        chain.chain["stages"]["both"] = "both.yaml"
        merge = {"kind": "merge", "from": ["sft", "dpo"], "merge": {"method": "soup"}}
        chain.stages["both"] = {**merge, "watch": {"every": 2}}
        assert "both.yaml: watch: a merge stage has no steps" in refused(chain.plan)
        chain.chain["watch"] = {"every": 2}
        chain.stages["both"] = merge
        assert chain.plan().node("both").spec.watch is None

    def test_ids_stay_unless_a_look_can_end_the_stage(self, chain: Any) -> None:
        before = [node.id for node in chain.plan().nodes]
        chain.chain["watch"] = {"every": 5}
        assert [node.id for node in chain.plan().nodes] == before
        chain.chain["watch"]["stop"] = True
        assert not {node.id for node in chain.plan().nodes[1:]} & {*before}

    @pytest.mark.parametrize("baseline", ["naive", "joint"])
    def test_no_look_ends_a_stage_of_a_baseline(self, chain: Any, baseline: str) -> None:
        """It shows what all of its steps do; so its ids are those without a look."""
        without = [node.id for node in chain.plan(f"baseline={baseline}").nodes]
        chain.chain["watch"] = {"every": 5, "stop": True}
        plan = chain.plan(f"baseline={baseline}")
        assert not any(node.spec.watch.stop for node in plan.nodes[1:])
        assert [node.id for node in plan.nodes] == without
