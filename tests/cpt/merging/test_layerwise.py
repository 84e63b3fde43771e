import pytest

from cpt.errors import EdgeError
from cpt.merging.layerwise import block_alphas, blocks_of


def test_the_shares_of_the_card() -> None:
    # methods.md P068; its numbers are those of epsilon 0.
    assert block_alphas(0.2, [2, 0, -1], 0) == pytest.approx([0.3203, 0.1818, 0.0978], abs=5e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.7])
@pytest.mark.parametrize("tilts", [[0, 0, 0, 0], [3.2, -1.4, 0.3, -7], [-800, 800, 1], [5.0]])
def test_their_mean_is_the_given_share(alpha: float, tilts: list[float]) -> None:
    alphas = block_alphas(alpha, tilts, 0.2)
    assert sum(alphas) / len(alphas) == pytest.approx(alpha, abs=1e-12)


@pytest.mark.parametrize("num_layers", [3, 26, 30, 80])
def test_blocks_are_of_equal_depth_whatever_the_number_of_layers(num_layers: int) -> None:
    layers = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(num_layers)]
    ends = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    placed = blocks_of([*ends, *layers], 3)
    counts = [sum(placed[name] == block for name in layers) for block in range(4)]
    assert counts[3] == 0
    assert max(counts[:3]) - min(counts[:3]) <= 1
    assert [placed[name] for name in layers] == sorted(placed[name] for name in layers)
    assert [placed[name] for name in ends] == [0, 3, 3]


def test_other_families_names_are_known() -> None:
    placed = blocks_of(["transformer.wte.weight", "transformer.h.0.x", "transformer.h.1.x"], 2)
    assert [*placed.values()] == [0, 0, 1]


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(EdgeError, match=r"no tensor is called layers\.<number>"):
        blocks_of(["embed.weight"], 3)
    with pytest.raises(EdgeError, match="3, and the model has 2 layers; write 2 or fewer"):
        blocks_of(["layers.0.w", "layers.1.w"], 3)
