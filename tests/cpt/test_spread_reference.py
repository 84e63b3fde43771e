"""A frozen reference that FSDP2 spreads over two CPU processes computes what a whole copy computes."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def tiny(is_tied: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        tie_word_embeddings=is_tied,
    )
    return LlamaForCausalLM(config)


def compared(rank: int, is_tied: bool) -> dict[str, Any]:
    """What one process finds out."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    from cpt.errors import HookError
    from cpt.hooks.backbone import FrozenReference, check_apart
    from cpt.tokens import OutputHead, token_kl

    whole, student = FrozenReference(tiny(is_tied)), tiny(is_tied)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.add_(0.5)
    trained = copy.deepcopy(student)
    fully_shard(trained, mesh=init_device_mesh("cpu", (2,)))
    spread = FrozenReference(tiny(is_tied), trained)
    check_apart(spread, trained, "kl")
    shared = FrozenReference(trained)
    try:
        check_apart(shared, trained, "kl")
        refused = False
    except HookError:
        refused = True
    trained.requires_grad_(True)

    local = sum(p.to_local().numel() for p in spread.model.parameters())
    groups = sum(isinstance(module, FSDPModule) for module in spread.model.modules())
    equal, held = [], []
    for step in range(3):
        torch.manual_seed(10 * step + rank)
        ids = torch.randint(50, (2, 5 + 3 * rank))  # other lengths, and so other numbers of chunks
        forward = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        kls, gradients, states = [], [], []
        for reference in (whole, spread):
            hidden = student.model(**forward).last_hidden_state.detach().requires_grad_()
            with torch.no_grad():
                states.append(reference.hidden(forward))
            weight = torch.full(ids.shape, 0.1)
            kl = token_kl(
                hidden,
                OutputHead(student),
                states[-1],
                reference.head,
                weight,
                "reverse",
                chunk=4,
            )
            kl.backward()
            kls.append(kl.detach())
            gradients.append(hidden.grad)
        pairs = (states, kls, gradients)
        equal.append(all(torch.equal(*pair) for pair in pairs) and float(kls[0]) > 0)
        state = spread.model._get_fsdp_state()
        held.append(len(state._comm_ctx.post_forward_order))
    after = sum(p.to_local().numel() for p in spread.model.parameters())
    is_parted = all(hasattr(p, "to_local") for p in spread.model.parameters())
    return {
        "equal": equal,
        "local": local,
        "after": after,
        "whole": sum(p.numel() for p in whole.model.parameters()),
        "groups": groups,
        "held": held,
        "refused": refused,
        "is_parted": is_parted,
    }


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("spread")
    command = [sys.executable, "-m", "tests.cpt.test_spread_reference", str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(int(request.param))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for another one waits for ever
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_it_computes_what_a_whole_copy_computes_to_the_bit(found: list[dict[str, Any]]) -> None:
    """Hidden states, KL and its gradient, at three steps and with other lengths on each process."""
    assert [rank["equal"] for rank in found] == [[True] * 3] * 2


def test_each_process_holds_its_half_before_and_behind_a_step(found: list[dict[str, Any]]) -> None:
    assert sum(rank["local"] for rank in found) == found[0]["whole"]
    for rank in found:
        assert rank["is_parted"]
        assert rank["local"] == rank["after"] == rank["whole"] / 2


def test_layers_are_groups_and_nothing_is_remembered_for_a_backward_pass(
    found: list[dict[str, Any]],
) -> None:
    for rank in found:
        assert rank["groups"] == 4  # three layers, and the rest
        assert rank["held"] == [0, 0, 0]


def test_the_trained_model_itself_is_still_refused(found: list[dict[str, Any]]) -> None:
    assert all(rank["refused"] for rank in found)


def main(folder: Path, rank: int, is_tied: bool) -> None:
    from torch import distributed

    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    (folder / f"{rank}.json").write_text(json.dumps(compared(rank, is_tied)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])))
