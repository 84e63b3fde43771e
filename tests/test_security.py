"""Nothing that a recipe, a model folder or an adapter brings is run, unless it was declared as code."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from cpt.checkpoint import load_model
from cpt.errors import CptError, RecipeError, StoreError
from cpt.model_source import materialise
from cpt.model_spec import ModelSpec
from cpt.yaml12 import parse
from stages.interruption import newest_checkpoint
from tests.spoiled import Evil


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def copy(folder: Path, target: Path, *names: str) -> Path:
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if not file.name.startswith(names):
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_model_in_a_pickle_is_not_loaded(tmp_path: Path, tiny_folder: Path, mark: Path) -> None:
    from eval.loading import load

    folder = copy(tiny_folder, tmp_path / "model", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(StoreError, match=r"pytorch_model\.bin: pickled weights are not loaded"):
        load_model(str(folder))
    with pytest.raises(CptError, match="pickled weights are not loaded"):
        load(str(folder))
    with pytest.raises(CptError, match=r"no \.safetensors weights; other formats are not loaded"):
        ModelSpec(path=str(folder)).content()
    with pytest.raises(StoreError, match="pickled weights are not loaded"):
        materialise(ModelSpec(path=str(folder)), tmp_path / "base")
    assert not mark.exists()


def test_pickles_beside_the_weights_are_not_touched(
    tmp_path: Path, tiny_folder: Path, mark: Path
) -> None:
    folder = copy(tiny_folder, tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    load_model(str(folder))
    assert not mark.exists()


def test_an_adapter_beside_a_model_is_not_put_on_top_of_it(
    tmp_path: Path, tiny_folder: Path, tiny_model: Any
) -> None:
    """transformers does so, without a word, and trains that."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = copy(tiny_folder, tmp_path / "model")
    load_model(str(folder))
    adapter = get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"]))
    adapter.save_pretrained(str(tmp_path / "adapter"))
    for file in (tmp_path / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert any("lora" in name for name, _ in model.named_parameters())
    for load in (
        lambda: load_model(str(folder)),
        lambda: materialise(ModelSpec(path=str(folder)), tmp_path / "base"),
    ):
        with pytest.raises(
            StoreError, match=r"has an adapter_config\.json.*merge it into the weights"
        ):
            load()
    assert not (tmp_path / "base").exists()


def test_an_adapter_in_a_pickle_is_not_loaded(
    tmp_path: Path, tiny_folder: Path, tiny_model: Any, mark: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from stages.candidates import write_candidate

    adapter = tmp_path / "step-2"
    get_peft_model(tiny_model, LoraConfig(r=1, target_modules=["q_proj"])).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(StoreError, match=r"has adapter_model\.bin, which can run any code"):
        write_candidate(adapter, tiny_folder, str(tiny_folder), tmp_path / "made", {})
    assert not mark.exists()


def test_trainer_state_that_others_could_have_planted_is_not_continued(
    tmp_path: Path, mark: Path
) -> None:
    from cpt.store import mark_complete
    from cpt.world import World

    partial = tmp_path / "sft-1.partial"
    planted = partial / "trainer" / "checkpoint-4"
    planted.mkdir(parents=True)
    (planted / "optimizer.pt").write_bytes(pickle.dumps(Evil(mark)))
    mark_complete(planted)
    assert newest_checkpoint(partial, World(), print) == str(planted)
    (planted / "optimizer.pt").chmod(0o666)
    with pytest.raises(StoreError, match="can be written by anyone"):
        newest_checkpoint(partial, World(), print)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [MARK]",
        "a: !!python/name:os.system",
        "!!python/module:os",
        "a: !function os.system",
    ],
)
def test_yaml_names_no_code(text: str, mark: Path) -> None:
    with pytest.raises(RecipeError):
        parse(text.replace("MARK", str(mark)), "chain.yaml")
    assert not mark.exists()


@pytest.mark.parametrize("value", ["os:system", "../../evil:run", "/tmp/evil:run"])
def test_a_hook_is_a_name_that_is_known(value: str) -> None:
    from cpt.hooks.table import build

    with pytest.raises(RecipeError, match="no hook"):
        build(value, {}, "sft.yaml")
