"""Against mergekit, on the methods and settings in which both mean the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cpt.merging.merge import Folders, merge
from cpt.merging.spec import Dare, Slerp, Soup, TaskArithmetic, Ties

pytest.importorskip("mergekit", reason="mergekit is no dependency but of these tests: make install")

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (
        Soup(method="soup", weights=[0.3, 0.7]),
        {"merge_method": "linear", "weights": [0.3, 0.7]},
    ),
    "slerp": (
        Slerp(method="slerp", t=0.3),
        {"merge_method": "slerp", "parameters": {"t": 0.3}},
    ),
    "task_arithmetic": (
        TaskArithmetic(method="task_arithmetic", base="base", weights=[0.7, -0.4]),
        {"merge_method": "task_arithmetic", "weights": [0.7, -0.4], "normalize": False},
    ),
    "ties": (
        Ties(method="ties", base="base", density=0.5, scope="tensor", strength=0.8),
        {"merge_method": "ties", "density": 0.5, "normalize": True, "lambda": 0.8},
    ),
    "ties, weighted": (
        Ties(method="ties", base="base", density=0.5, scope="tensor", weights=[1, 2]),
        {"merge_method": "ties", "density": 0.5, "normalize": True, "weights": [1.0, 2.0]},
    ),
    "dare_linear": (
        Dare(method="dare_linear", base="base", drop=0, weights=[0.5, 0.25]),
        {"merge_method": "dare_linear", "weights": [0.5, 0.25], "normalize": False},
    ),
    "dare_ties": (
        Dare(method="dare_ties", base="base", drop=0),
        {"merge_method": "dare_ties", "normalize": True},
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Path]:
    """A base, two models near it, and one far from it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {"base": tiny_folder}
    for seed, (name, far) in enumerate({"a": 0.02, "b": 0.02, "far": 0.5}.items()):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += far * torch.randn(parameter.shape, generator=generator)
        found[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(found[name])
        AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(found[name])
    return found


@pytest.mark.parametrize("case", CASES)
def test_as_mergekit_does(tmp_path: Path, models: dict[str, Path], case: str) -> None:
    method, settings = CASES[case]
    (tmp_path / "ours").mkdir()
    # Of tensors whose cosine is above 0.9995 mergekit takes the line: close to the circle, but not on it.
    pair = ("a", "far") if case == "slerp" else ("a", "b")
    given = Folders(tuple((name, models[name]) for name in pair), ("base", models["base"]))
    merge(given, method, 0, tmp_path / "ours")
    by_mergekit(tmp_path / "theirs", models, pair, settings)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2e-6, msg=name)


def by_mergekit(
    out: Path, models: dict[str, Path], pair: tuple[str, str], settings: dict[str, Any]
) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    weights = settings.get("weights", [1.0, 1.0])
    density = settings.get("density", 1.0)
    parameters = dict(settings.get("parameters", {}))
    parameters |= {key: settings[key] for key in ("normalize", "lambda") if key in settings}
    if settings["merge_method"] == "linear":
        parameters["normalize"] = False
    tree: dict[str, Any] = {
        "merge_method": settings["merge_method"],
        "dtype": "float32",
        "parameters": parameters,
        "models": [
            {"model": str(models[name]), "parameters": {"weight": weight, "density": density}}
            for name, weight in zip(pair, weights, strict=True)
        ],
    }
    if settings["merge_method"] == "slerp":
        tree["base_model"] = str(models["a"])
    elif settings["merge_method"] != "linear":
        tree["base_model"] = str(models["base"])
    options = MergeOptions(
        device="cpu",
        copy_tokenizer=False,
        lazy_unpickle=True,
        write_model_card=False,
        quiet=True,
        random_seed=0,
    )
    run_merge(MergeConfiguration.model_validate(tree), out_path=str(out), options=options)
