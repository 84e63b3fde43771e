"""Whole merges from disk to disk."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cpt.errors import EdgeError
from cpt.merging.merge import Folders, merge
from cpt.merging.shards import Checkpoint
from cpt.merging.spec import Dare, Layerwise, Slerp, Soup, TaskArithmetic, Ties
from cpt.merging.task_vectors import disjoint_mean, trim
from cpt.merging.threshold import threshold_of

SHAPES = {
    "model.embed_tokens.weight": (4, 6),
    "model.layers.0.w": (5, 6),
    "model.layers.1.w": (5, 6),
    "model.layers.2.w": (5, 6),
    "model.norm.weight": (6,),
}


def tensors(seed: int, dtype: Any = torch.float32, scale: float = 1.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * scale).to(dtype)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def three(folders: Any) -> Folders:
    """Two models near a base."""
    base = tensors(0)
    near = [{n: base[n] + d for n, d in tensors(s, scale=0.1).items()} for s in (1, 2)]
    saved = [folders.save(name, model) for name, model in zip("ab", near, strict=True)]
    models = tuple(zip("ab", saved, strict=True))
    return Folders(models, ("base", folders.save("base", base)))


def merged(tmp_path: Path, given: Folders, method: Any, seed: int = 5) -> dict[str, Any]:
    folder = tmp_path / "made"
    folder.mkdir()
    merge(given, method, seed, folder)
    with Checkpoint(folder, "made") as made:
        found = {name: made.tensor(name).clone() for name in made.entries}
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return found


def read(entry: tuple[str, Path] | None) -> dict[str, Any]:
    assert entry is not None
    return dict(load_file(entry[1] / "model.safetensors"))


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def soup(**settings: Any) -> Soup:
    return Soup(method="soup", **settings)


METHODS = [
    soup(),
    Slerp(method="slerp", t=0.3),
    Layerwise(method="layerwise", tilts=[1, 0, 0, -1]),
    TaskArithmetic(method="task_arithmetic", base="base", weights=[0.7, -0.4]),
    Ties(method="ties", base="base", density=0.4),
    Ties(method="ties", base="base", density=0.4, scope="tensor"),
    Dare(method="dare_linear", base="base", drop=0.5),
    Dare(method="dare_ties", base="base", drop=0.5),
]


def called(method: Any) -> str:
    return f"{method.name}-{getattr(method, 'scope', '')}"


@pytest.mark.parametrize("method", METHODS, ids=called)
def test_files_of_any_size_hold_the_same_merge(tmp_path: Path, three: Folders, method: Any) -> None:
    whole = merged(tmp_path, three, method)
    sharded = merged(tmp_path, three, method.model_copy(update={"shard_bytes": 100}))
    assert_same(sharded, whole)
    assert any(not whole[name].equal(read(three.models[0])[name]) for name in whole)


@pytest.mark.parametrize("method", METHODS, ids=called)
def test_the_order_of_tensors_in_files_does_not_matter(
    tmp_path: Path, three: Folders, folders: Any, method: Any
) -> None:
    whole = merged(tmp_path, three, method)
    # Mixed widths lie in another order in the file; fp64 of fp32 values are the same values.
    turned = read(three.models[0])
    turned["model.norm.weight"] = turned["model.norm.weight"].double()
    given = Folders((("a", folders.save("turned", turned)), three.models[1]), three.base)
    other = merged(tmp_path, given, method)
    assert [*other] != [*whole]
    for name, tensor in whole.items():
        torch.testing.assert_close(other[name].float(), tensor, rtol=0, atol=0)


def test_a_soup_of_one_model_with_itself_is_the_model(tmp_path: Path, three: Folders) -> None:
    given = Folders((three.models[0],) * 3)
    assert_same(merged(tmp_path, given, soup()), read(three.models[0]))
    assert_same(merged(tmp_path, three, soup(weights=[0, 1])), read(three.models[1]))


def test_sixteen_bf16_models_are_rounded_once(tmp_path: Path, folders: Any) -> None:
    # Accumulated in bf16 the error is several times that (methods.md F34).
    models = [tensors(seed, torch.bfloat16) for seed in range(16)]
    given = Folders(
        tuple((str(seed), folders.save(f"m{seed}", model)) for seed, model in enumerate(models))
    )
    made = merged(tmp_path, given, soup())
    for name, tensor in made.items():
        exact = torch.stack([model[name].double() for model in models]).mean(0)
        assert tensor.dtype == torch.bfloat16
        # Half a unit in the last of 8 bits, and what fp32 loses.
        assert ((tensor.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
        in_fp32 = torch.stack([model[name].float() for model in models]).mean(0).bfloat16()
        assert (tensor == in_fp32).float().mean() > 0.95


def test_small_changes_of_bf16_models_are_not_lost(tmp_path: Path, folders: Any) -> None:
    base = {"w": torch.full((4,), 1.0, dtype=torch.bfloat16)}
    model = {"w": torch.full((4,), 1.0078125, dtype=torch.bfloat16)}  # the next number
    given = Folders((("a", folders.save("a", model)),), ("base", folders.save("base", base)))
    method = TaskArithmetic(method="task_arithmetic", base="base", weights=[1])
    assert_same(merged(tmp_path, given, method), model)


def test_ties_trims_over_the_whole_model_as_the_paper_does(tmp_path: Path, three: Folders) -> None:
    base, models = read(three.base), [read(entry) for entry in three.models]
    deltas = [{name: model[name] - base[name] for name in base} for model in models]
    limits = [
        threshold_of(torch.cat([delta[name].flatten() for name in delta]), 0.4) for delta in deltas
    ]
    method = Ties(method="ties", base="base", density=0.4, strength=0.5)
    made = merged(tmp_path, three, method)
    for name in base:
        trimmed = [trim(d[name], limit) for d, limit in zip(deltas, limits, strict=True)]
        assert made[name].equal(base[name] + 0.5 * disjoint_mean(trimmed, [1, 1]))
    assert any(
        not made[name].equal(tensor)
        for name, tensor in merged(
            tmp_path, three, method.model_copy(update={"scope": "tensor"})
        ).items()
    )


def test_without_drops_dare_is_the_method_that_it_prepares(tmp_path: Path, three: Folders) -> None:
    for name, other in (
        ("dare_linear", TaskArithmetic(method="task_arithmetic", base="base", weights=[1, 1])),
        ("dare_ties", Ties(method="ties", base="base", density=1)),
    ):
        dare = Dare.model_validate({"method": name, "base": "base", "drop": 0.0})
        assert_same(merged(tmp_path, three, dare), merged(tmp_path, three, other))
    nothing = Dare(method="dare_linear", base="base", drop=1)
    assert_same(merged(tmp_path, three, nothing), read(three.base))


def test_dare_draws_what_its_seed_says(tmp_path: Path, three: Folders) -> None:
    method = Dare(method="dare_linear", base="base", drop=0.5)
    first = merged(tmp_path, three, method, seed=1)
    assert_same(merged(tmp_path, three, method, seed=1), first)
    other = merged(tmp_path, three, method, seed=2)
    assert any(not other[name].equal(first[name]) for name in first)


def test_each_block_has_its_own_share(tmp_path: Path, three: Folders) -> None:
    method = Layerwise(method="layerwise", alpha=0.2, tilts=[2, 0, -1, 0.5])
    made, (one, other) = merged(tmp_path, three, method), map(read, three.models)
    for name, block in zip(SHAPES, (0, 0, 1, 2, 3), strict=True):
        share = method.alphas()[block]
        expected = share * one[name] + (1 - share) * other[name]
        torch.testing.assert_close(made[name], expected, rtol=0, atol=1e-6)


def test_a_change_is_put_onto_another_base_with_more_tokens(
    tmp_path: Path, three: Folders, folders: Any
) -> None:
    onto = tensors(7)
    embeddings = "model.embed_tokens.weight"
    onto[embeddings] = torch.randn(6, 6, generator=torch.Generator().manual_seed(8))
    folder = folders.save("onto", onto, vocab_size=6)
    given = Folders(three.models[:1], three.base, ("onto", folder))
    out = tmp_path / "out"
    out.mkdir()
    method = TaskArithmetic(method="task_arithmetic", base="base", onto="onto", weights=[0.5])
    told = merge(given, method, 0, out)
    made, model, base = read(("", out)), read(three.models[0]), read(three.base)
    assert made[embeddings][4:].equal(onto[embeddings][4:])
    for name in SHAPES:
        rows = slice(0, 4) if name == embeddings else slice(None)
        expected = onto[name][rows] + 0.5 * (model[name] - base[name])
        torch.testing.assert_close(made[name][rows], expected, rtol=0, atol=1e-6)
    assert "rows 4 to 5 copied from onto" in told.notes[0]
    assert Checkpoint(out, "out").num_rows == 6  # its config came along


def test_norms_and_cosines_of_the_changes_are_told(tmp_path: Path, folders: Any) -> None:
    base = folders.save("base", {"w": torch.zeros(3), "v": torch.zeros(1)})
    one = folders.save("a", {"w": torch.tensor([3.0, 0, 0]), "v": torch.tensor([4.0])})
    other = folders.save("b", {"w": torch.tensor([0.0, 2, 0]), "v": torch.zeros(1)})
    (tmp_path / "out").mkdir()
    method = TaskArithmetic(method="task_arithmetic", base="base", weights=[1, 1, 1])
    given = Folders((("a", one), ("b", other), ("a", one)), ("base", base))
    told = merge(given, method, 0, tmp_path / "out").checks["task_vectors"]
    assert told["norms"] == [5, 2, 5]
    assert told["cosines"] == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_integers_are_copied_where_they_are_equal(tmp_path: Path, folders: Any) -> None:
    one = folders.save("a", {"w": torch.zeros(2), "steps": torch.tensor(3)})
    same = folders.save("b", {"w": torch.ones(2), "steps": torch.tensor(3)})
    other = folders.save("c", {"w": torch.ones(2), "steps": torch.tensor(4)})
    made = merged(tmp_path, Folders((("a", one), ("b", same))), soup())
    assert (made["steps"].item(), made["w"].tolist()) == (3, [0.5, 0.5])
    with pytest.raises(EdgeError, match="a and c: steps holds integers and differs"):
        merged(tmp_path, Folders((("a", one), ("c", other))), soup())


def test_numbers_beyond_fp16_are_refused(tmp_path: Path, folders: Any) -> None:
    base = folders.save("base", {"w": torch.zeros(2, dtype=torch.float16)})
    far = folders.save("a", {"w": torch.full((2,), 60000, dtype=torch.float16)})
    method = TaskArithmetic(method="task_arithmetic", base="base", weights=[1.5])
    with pytest.raises(EdgeError, match="w: a merged number is beyond float16"):
        merged(tmp_path, Folders((("a", far),), ("base", base)), method)


def test_a_soup_of_adapters_averages_what_they_make_not_their_factors(
    tmp_path: Path, folders: Any
) -> None:
    # Stages leave dense weights, so a soup of stages is this one.
    base = torch.zeros(2, 2)
    factors = [torch.tensor([[1.0], [0]]), torch.tensor([[0.0], [1]])]
    dense = [folders.save(n, {"w": base + b @ b.T}) for n, b in zip("ab", factors, strict=True)]
    made = merged(tmp_path, Folders((("a", dense[0]), ("b", dense[1]))), soup())
    assert made["w"].tolist() == [[0.5, 0], [0, 0.5]]
    mean = (factors[0] + factors[1]) / 2
    assert not made["w"].equal(mean @ mean.T)


@pytest.mark.parametrize("method", METHODS, ids=called)
def test_of_every_model_one_tensor_is_in_memory_at_a_time(
    tmp_path: Path, folders: Any, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Bytes that were read and are still alive, counted: at most one tensor of each model, of 40."""
    names = [f"model.layers.{layer}.w" for layer in range(40)]
    saved = [
        folders.save(name, {key: torch.randn(64) for key in names}, tie_word_embeddings=False)
        for name in ("a", "b", "base")
    ]
    alive = peak = 0

    def ended(size: int) -> None:
        nonlocal alive
        alive -= size

    original = Checkpoint.tensor

    def counted(self: Checkpoint, name: str) -> Any:
        nonlocal alive, peak
        tensor = original(self, name).clone()
        size = tensor.numel() * tensor.element_size()
        alive, peak = alive + size, max(peak, alive + size)
        weakref.finalize(tensor, ended, size)
        return tensor

    monkeypatch.setattr(Checkpoint, "tensor", counted)
    given = Folders((("a", saved[0]), ("b", saved[1])), ("base", saved[2]))
    merged(tmp_path, given, method.model_copy(update={"shard_bytes": 2000}))
    # What a loop's variable still holds of the tensor before counts as well: twice three.
    assert 0 < peak <= 6 * 64 * 4
