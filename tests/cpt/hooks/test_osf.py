"""The directions of the largest singular values stay as they are, under AdamW too."""

from typing import Any

import pytest
import torch

from cpt.errors import HookError, RecipeError
from cpt.hooks import table
from cpt.hooks.context import StageContext
from cpt.hooks.osf import OSF
from cpt.params import View, trainable
from cpt.world import World
from tests.tiny_stages import TinyStages, equal, weights_of

CTX = StageContext("sft", "sft", ("messages",), 5, World(), "")
IDS = torch.arange(10, 40)[None]


def logits(model: Any) -> torch.Tensor:
    """Of one sequence."""
    model.eval()
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


def descend(hook: OSF, model: Any, steps: int, tracks: bool = True) -> list[float]:
    """AdamW on one sequence. Returns: losses."""
    optimizer = torch.optim.AdamW([p for _, p in trainable(model)], lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        if tracks:
            hook.track(View(model, World()), CTX)
        losses.append(float(loss.detach()))
    return losses


def leak(hook: OSF, share: float) -> float:
    """The largest share of a weight's change that lies in its protected directions."""
    from peft.tuners.osf.utils import decompose_weight_matrix

    found = []
    for layer in hook.layers.values():
        weight = layer.get_base_layer().weight
        parts = decompose_weight_matrix(weight.data, int(min(weight.shape) * share))
        factors = {name: p.detach().double() for name, p in layer.osf_svd_params["default"].items()}
        begun = [getattr(layer, f"_osf_{name}_init")["default"].double() for name in factors]
        change = (factors["U_low"] * factors["S_low"]) @ factors["V_low"]
        change = change - (begun[0] * begun[1]) @ begun[2]
        for inside in (parts["U_high"].double().T @ change, change @ parts["V_high"].double().T):
            found.append(float(inside.norm() / change.norm()))
    return max(found)


def test_a_fresh_split_gives_the_same_model(tiny_model: Any) -> None:
    before = logits(tiny_model)
    model = OSF().adapt(tiny_model, CTX)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 7 * 3


def test_nothing_leaks_under_adamw(tiny_model: Any) -> None:
    hook = OSF(effective_rank=0.5)
    model = hook.adapt(tiny_model, CTX)
    losses = descend(hook, model, 12)
    assert losses[-1] < losses[0] - 0.05
    assert leak(hook, 0.5) < 1e-5


def test_without_the_projection_a_good_part_leaks(tiny_model: Any) -> None:
    hook = OSF(effective_rank=0.5)
    model = hook.adapt(tiny_model, CTX)
    descend(hook, model, 12, tracks=False)
    assert leak(hook, 0.5) > 0.1


def test_merged_it_is_an_ordinary_model(tiny_model: Any) -> None:
    names = {name for name, _ in tiny_model.named_parameters()}
    hook = OSF(effective_rank=4, targets=["q_proj", "mlp.down_proj"])
    model = hook.adapt(tiny_model, CTX)
    descend(hook, model, 4)
    unmerged = logits(model)
    merged = hook.merge(model, CTX)
    assert {name for name, _ in merged.named_parameters()} == names
    torch.testing.assert_close(logits(merged), unmerged, rtol=0, atol=1e-5)
    assert not hasattr(merged, "peft_config")


def test_a_split_that_turned_continues_from_the_saved_one(tiny_folder: Any) -> None:
    """Another SVD may give the singular vectors other signs."""
    from cpt.checkpoint import load_model

    first, again = OSF(), OSF()
    model = first.adapt(load_model(str(tiny_folder)), CTX)
    descend(first, model, 2)
    other: Any = again.adapt(load_model(str(tiny_folder)), CTX)
    for layer in again.layers.values():
        layer._osf_U_low_init["default"].neg_()
        layer._osf_V_low_init["default"].neg_()
    other.load_state_dict(model.state_dict())
    again.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert logits(other).equal(logits(model))


class TestRefusals:
    @pytest.mark.parametrize("rank", [0, -1, 0.0, 1.0, 1.5, float("nan")])
    def test_a_rank_that_is_no_number_and_no_share(self, rank: float) -> None:
        with pytest.raises(RecipeError, match=r"sft.yaml: hooks.osf: "):
            table.build("osf", {"effective_rank": rank}, "sft.yaml")

    def test_weights_in_16_bits(self, tiny_model: Any) -> None:
        with pytest.raises(HookError, match=r"singular vectors in bfloat16 are not orthogonal"):
            OSF().adapt(tiny_model.bfloat16(), CTX)

    def test_nothing_left_to_train(self, tiny_model: Any) -> None:
        with pytest.raises(HookError, match=r"32 protects all of .*q_proj, of shape \(32, 32\)"):
            OSF(effective_rank=32, targets=["q_proj"]).adapt(tiny_model, CTX)

    def test_nothing_protected(self, tiny_model: Any) -> None:
        with pytest.raises(HookError, match=r"effective_rank: 0.01: "):
            OSF(effective_rank=0.01).adapt(tiny_model, CTX)

    def test_a_target_that_is_not_there(self, tiny_model: Any) -> None:
        with pytest.raises(HookError, match=r"osf: targets: 'q_prj' matches no module"):
            OSF(targets=["q_prj"]).adapt(tiny_model, CTX)


def test_a_stage_changes_nothing_in_the_protected_directions(stages: TinyStages) -> None:
    job = stages.job(
        "sft", {"osf": {"effective_rank": 0.5}}, optim="adamw_torch", learning_rate=3e-2
    )
    trained = stages.train(job)
    assert not (job.output / "adapter").exists()
    before = weights_of(stages.sft.output / "checkpoint")
    assert not equal(before, trained.weights)
    name = "model.layers.0.mlp.up_proj.weight"
    change = trained.weights[name].double() - before[name].double()
    left, _, right = torch.linalg.svd(before[name].double(), full_matrices=False)
    assert float((left[:, :16].T @ change).norm() / change.norm()) < 1e-4
    assert float((change @ right[:16].T).norm() / change.norm()) < 1e-4
