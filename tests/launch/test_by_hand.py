"""A stage by hand has the roles that its kind uses, as a chain's stages have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpt.errors import CptError, PlanError, RecipeError
from cpt.manifest import Ancestor, Manifest
from launch.by_hand import job_by_hand
from stages.base import Job

STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "rows.jsonl"},
    "dpo": {"data": "rows.jsonl"},
    "grpo": {"data": "rows.jsonl", "rewards": ["exact_match"], "train": {"num_generations": 4}},
}


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., Job]:
    """Write a stage of a kind and read it as `launch.stage` does; its parent is a folder `parent`."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1?"}) + "\n")
    for name in ("parent", "other"):
        (tmp_path / name).mkdir()

    def job(kind: str, *arguments: str) -> Job:
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump({"kind": kind, **STAGES[kind]}))
        places = (f"parent={tmp_path / 'parent'}", f"output={tmp_path / 'output'}")
        return job_by_hand([str(file), *places, *arguments])

    return job


@pytest.mark.parametrize(
    ("kind", "arguments", "reference"),
    [
        ("sft", [], None),
        ("dpo", [], "parent"),
        ("dpo", ["reference={folder}/other"], "other"),
        ("grpo", [], None),
        ("grpo", ["train.beta=0.1"], "parent"),
        ("grpo", ["train.beta=0.1", "reference={folder}/other"], "other"),
    ],
)
def test_the_reference_is_what_the_kind_uses(
    kind: str, arguments: list[str], reference: str | None, by_hand: Any, tmp_path: Path
) -> None:
    job = by_hand(kind, *(argument.format(folder=tmp_path) for argument in arguments))
    expected = {} if reference is None else {"reference": str(tmp_path / reference)}
    assert job.roles == expected
    assert job.parents.keys() == {"parent", *expected}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sft", "sft.yaml: reference: a sft stage has no reference"),
        ("grpo", "is unused as train: is set; remove reference, or change train:"),
    ],
)
def test_a_reference_without_a_use_is_refused(
    kind: str, words: str, by_hand: Any, tmp_path: Path
) -> None:
    with pytest.raises(CptError) as failed:
        by_hand(kind, f"reference={tmp_path / 'other'}")
    assert words in str(failed.value)


class TestWhatAChainChecksToo:
    """Settings, hooks and backend are checked as those of a chain's stages."""

    def test_a_refusal_of_the_backend(self, by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        arguments = ["hooks=[{kl: {beta: 0.1}}]", "train.batch_size=4"]
        by_hand("sft", *arguments)
        monkeypatch.setattr("cpt.hooks.kl.KL.facts", frozenset({"freezes_later"}))
        with pytest.raises(PlanError, match=r"sft\.yaml: launch: zero2: parameters are sharded"):
            by_hand("sft", *arguments)

    def test_deterministic_or_not_it_is_the_same_stage(self, by_hand: Any) -> None:
        one, other = by_hand("sft"), by_hand("sft", "deterministic=true")
        assert (one.deterministic, other.deterministic) == (False, True)
        assert one.id == other.id
        with pytest.raises(
            RecipeError, match=r"sft\.yaml: deterministic: 'yes' is neither true nor"
        ):
            by_hand("sft", "deterministic=yes")

    def test_checkpoints_between_two_rollouts(self, by_hand: Any) -> None:
        with pytest.raises(PlanError, match=r"grpo\.yaml: checkpoint_every 3: .*every 2 steps"):
            by_hand("grpo", "train.num_iterations=2", "checkpoint_every=3")

    def test_a_batch_that_does_not_split(
        self, by_hand: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(PlanError, match=r"sft\.yaml: batch_size 3 does not split over 2"):
            by_hand("sft", "train.batch_size=3")

    @pytest.mark.parametrize(
        ("change", "other", "needs"),
        [
            ("train.use_liger_kernel=true", "false", "use_liger_kernel needs liger-kernel"),
            ("train.optim=adamw_8bit", "sgd", "adamw_8bit needs bitsandbytes"),
        ],
    )
    def test_what_is_not_installed(
        self, by_hand: Any, monkeypatch: pytest.MonkeyPatch, change: str, other: str, needs: str
    ) -> None:
        monkeypatch.setattr("launch.installed.is_installed", lambda package: False)
        with pytest.raises(PlanError, match=needs):
            by_hand("sft", change)
        by_hand("sft", f"{change.partition('=')[0]}={other}")


class TestThePastIsAskedBeforeWeightsLoad:
    """As a plan asks the stages of a chain, so does a stage by hand the manifests of its past."""

    def parent(self, folder: Path, kind: str = "sft", **hooks: dict[str, Any]) -> None:
        listed = tuple({"name": name, "settings": given} for name, given in hooks.items())
        entry = Manifest(id=f"{kind}-1", kind=kind, name="first", hooks=listed)
        entry.write(folder / "parent")

    def test_a_bare_parent_left_no_rows(self, by_hand: Any) -> None:
        with pytest.raises(PlanError, match=r"sft\.yaml: hooks\.gem: .* base model left no rows"):
            by_hand("sft", "hooks=[gem]")

    def test_prompts_alone_have_nothing_to_rehearse(self, by_hand: Any, tmp_path: Path) -> None:
        self.parent(tmp_path, "grpo")
        with pytest.raises(PlanError, match=r"hooks\.agem: first left no row with an answer"):
            by_hand("sft", "hooks=[{agem: {of: first}}]")

    def test_a_path_is_measured_by_who_lists_si(self, by_hand: Any, tmp_path: Path) -> None:
        self.parent(tmp_path)
        with pytest.raises(PlanError, match=r"hooks\.si: of: first does not list si"):
            by_hand("sft", "hooks=[{si: {of: first}}]")
        # A data set stands in a manifest by its content, from which no hook can be built.
        replayed = {"source": {"content": "ab12"}}
        self.parent(tmp_path, si={"of": [], "strength": 1.0}, replay=replayed)
        by_hand("sft", "hooks=[{si: {of: first}}]")

    def test_an_adapter_is_continued_where_there_is_one(self, by_hand: Any, tmp_path: Path) -> None:
        further = "hooks=[{lora: {after: continue}}]"
        self.parent(tmp_path, lora={"rank": 16})
        with pytest.raises(PlanError, match=r"hooks\.lora: .*first merged its adapter"):
            by_hand("sft", further)
        self.parent(tmp_path, lora={"rank": 16, "after": "keep"})
        by_hand("sft", further)

    def test_a_hook_that_is_not_installed_here(self, by_hand: Any, tmp_path: Path) -> None:
        self.parent(tmp_path, centralise={})
        by_hand("sft")  # only the stage that listed it needed it


class TestIds:
    def test_a_bare_parent_is_its_content(self, by_hand: Any, tmp_path: Path) -> None:
        """Not its path: retrained weights are another parent, the same ones elsewhere are not."""
        weights = tmp_path / "parent" / "model.safetensors"
        weights.write_text("one")
        (tmp_path / "other" / weights.name).write_text("one")
        first = by_hand("sft").id
        assert by_hand("sft", f"parent={tmp_path / 'other'}").id == first
        weights.write_text("other")
        assert by_hand("sft").id != first

    def test_a_bare_reference_is_its_content(self, by_hand: Any, tmp_path: Path) -> None:
        weights = tmp_path / "other" / "model.safetensors"
        reference = f"reference={tmp_path / 'other'}"
        weights.write_text("one")
        first = by_hand("dpo", reference).id
        weights.write_text("other")
        assert by_hand("dpo", reference).id != first

    def test_another_number_type_is_another_stage(self, by_hand: Any, tmp_path: Path) -> None:
        plain = by_hand("sft")
        assert plain.load["dtype"] == "float32"
        assert by_hand("sft", "dtype=float32").id == plain.id
        other = by_hand("sft", "dtype=bfloat16")
        assert other.load["dtype"] == "bfloat16"
        assert other.id != plain.id
        made(tmp_path / "output", other)
        with pytest.raises(CptError, match="name a new folder"):
            by_hand("sft")
        with pytest.raises(RecipeError, match="no 'bfloat61'; did you mean 'bfloat16'"):
            by_hand("sft", "dtype=bfloat61")

    def test_a_stage_has_the_number_type_of_its_parent(self, by_hand: Any, tmp_path: Path) -> None:
        """What a chain's base was loaded in is in the ids already; a stage by hand said it itself."""
        parent = tmp_path / "parent"
        inputs: dict[str, Any] = {"kind": "base", "dtype": "bfloat16"}
        Manifest(id="base-1", kind="base", name="base", inputs=inputs).write(parent)
        job = by_hand("sft")
        assert job.load["dtype"] == "bfloat16"
        assert "load" not in job.inputs
        assert by_hand("sft", "dtype=float32").inputs["load"] == {"dtype": "float32"}
        inputs = {"kind": "sft", "load": {"dtype": "float16"}}
        Manifest(id="sft-1", kind="sft", name="sft", inputs=inputs).write(parent)
        assert by_hand("sft").load["dtype"] == "float16"


def made(folder: Path, job: Job) -> None:
    folder.mkdir()
    Manifest(id=job.id, kind=job.spec.kind, name=job.name).write(folder)


class TestMerges:
    """A stage that merges is given its models as a list, and what they come from beside it."""

    @pytest.fixture
    def merge(self, tmp_path: Path) -> Callable[..., Job]:
        """Stages a and b, both from c; `merge` is read as `launch.stage` does."""
        for name in ("c", "a", "b"):
            past = () if name == "c" else (Ancestor("c", "base-c", "base", "../c"),)
            kind = "sft" if past else "base"
            Manifest(id=f"{kind}-{name}", kind=kind, name=name, past=past).write(tmp_path / name)

        def job(settings: dict[str, Any], *arguments: str) -> Job:
            file = tmp_path / "merge.yaml"
            file.write_text(yaml.safe_dump({"kind": "merge", "merge": settings}))
            parents = f"parent=[{tmp_path / 'a'}, {tmp_path / 'b'}]"
            return job_by_hand([str(file), parents, f"output={tmp_path / 'output'}", *arguments])

        return job

    def test_models_and_base_are_roles(self, merge: Any, tmp_path: Path) -> None:
        job = merge({"method": "ties", "base": "c"})
        assert job.parent == str(tmp_path / "a")
        assert job.roles == {"parent.2": str(tmp_path / "b"), "base": str(tmp_path / "c")}
        assert job.parents == {"parent": "sft-a", "parent.2": "sft-b", "base": "base-c"}
        assert merge({"method": "ties", "base": "c"}, f"base={tmp_path / 'c'}").id == job.id
        assert merge({"method": "ties", "base": "c", "density": 0.5}).id != job.id

    def test_what_is_refused(self, merge: Any, by_hand: Any, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"merge\.weights: 3 numbers for 2 models"):
            merge({"method": "soup", "weights": [0.5, 0.25, 0.25]})
        with pytest.raises(PlanError, match=r"merge\.base: sft-a is no ancestor"):
            merge({"method": "ties", "base": "a"})
        merge({"method": "ties", "base": "a", "unrelated": True})
        with pytest.raises(PlanError, match="have no ancestor in common"):
            merge({"method": "soup"}, f"parent=[{tmp_path / 'a'}, {tmp_path / 'parent'}]")
        with pytest.raises(RecipeError, match="a sft stage continues one stage, not 2"):
            by_hand("sft", f"parent=[{tmp_path / 'a'}, {tmp_path / 'b'}]")

    def test_one_process_is_enough(self, merge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(PlanError, match="runs in one process, not 2"):
            merge({"method": "soup"})

    def test_bare_folders_are_merged_and_published(self, tiny_folder: Path, tmp_path: Path) -> None:
        import shutil

        from safetensors.torch import load_file, save_file

        from launch.console import Console
        from launch.stage import execute

        for name, factor in (("one", 1.0), ("two", 3.0)):
            shutil.copytree(tiny_folder, tmp_path / name)
            weights = load_file(tiny_folder / "model.safetensors")
            scaled = {key: tensor * factor for key, tensor in weights.items()}
            save_file(scaled, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        file = tmp_path / "merge.yaml"
        file.write_text(yaml.safe_dump({"kind": "merge", "merge": {"method": "soup"}}))
        arguments = [str(file), f"parent=[{tmp_path / 'one'}, {tmp_path / 'two'}]"]
        arguments += [
            f"output={tmp_path / 'out'}",
            "merge.unrelated=true",
            "merge.shard_bytes=5000",
        ]
        job = job_by_hand(arguments)
        execute(job, Console())
        entry = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert entry["id"] == job.id
        assert entry["past"] == []  # folders that are no stages
        from cpt.checkpoint import load_model, verify_stage

        verify_stage(tmp_path / "out")
        assert len(list((tmp_path / "out" / "checkpoint").glob("*.safetensors"))) > 2
        found = load_model(str(tmp_path / "out" / "checkpoint")).state_dict()
        for key, tensor in weights.items():
            assert found[key].sub(2 * tensor).abs().max() < 1e-6
        again = job_by_hand(arguments)
        assert again.id == job.id
        execute(again, Console())  # done already
