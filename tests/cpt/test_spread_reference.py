"""A frozen reference that is spread over two CPU processes computes what a whole copy computes."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.backend import accelerate_command, backend, environment

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


def spread_over_two(model: Any, backend: str) -> Any:
    """Stands for the model that is trained, as the backend prepares it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if backend == "fsdp2":
        return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    from accelerate import Accelerator
    from trl.models import prepare_deepspeed

    accelerator = Accelerator()
    plugin = accelerator.state.deepspeed_plugin
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "train_batch_size": 4,
        "gradient_clipping": 1.0,
        # The trained model's number type is not the reference's.
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
    }
    plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return prepare_deepspeed(model, accelerator).module


def compared(rank: int, is_tied: bool, backend: str) -> dict[str, Any]:
    """What one process finds out."""
    import torch
    from torch.distributed.fsdp import FSDPModule

    from cpt.errors import HookError
    from cpt.hooks.backbone import FrozenReference, check_apart
    from cpt.spread import own_part
    from cpt.tokens import OutputHead, token_kl

    whole, student = FrozenReference(tiny(is_tied)), tiny(is_tied)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.add_(0.5)
    trained = copy.deepcopy(student)
    trained = spread_over_two(trained, backend)
    spread = FrozenReference(tiny(is_tied), trained)
    check_apart(spread, trained, "kl")
    shared = FrozenReference(trained)
    try:
        check_apart(shared, trained, "kl")
        refused = False
    except HookError:
        refused = True
    trained.requires_grad_(True)

    local = sum(own_part(p).numel() for p in spread.model.parameters())
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
            kl.backward()  # type: ignore[no-untyped-call]
            kls.append(kl.detach())
            gradients.append(hidden.grad)
        pairs = (states, kls, gradients)
        equal.append(all(torch.equal(*pair) for pair in pairs) and float(kls[0]) > 0)
        if backend == "fsdp2":
            held.append(len(spread.model._get_fsdp_state()._comm_ctx.post_forward_order))
    after = sum(own_part(p).numel() for p in spread.model.parameters())
    return {
        "equal": equal,
        "local": local,
        "after": after,
        "whole": sum(p.numel() for p in whole.model.parameters()),
        "groups": groups,
        "held": held,
        "refused": refused,
    }


@pytest.fixture(scope="module", params=["fsdp2 tied", "fsdp2 untied", "zero3 tied", "zero3 untied"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("spread")
    name, tied = request.param.split()
    chosen = backend(name)
    arguments = [str(folder), tied, name]
    command = accelerate_command(
        chosen, "tests.cpt.test_spread_reference", arguments, num_processes=2
    )
    added = environment(chosen) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **added},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # one that waits for another one waits for ever
            process.wait()
    assert process.returncode == 0, said[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_it_computes_what_a_whole_copy_computes_to_the_bit(found: list[dict[str, Any]]) -> None:
    """Hidden states, KL and its gradient, at three steps and with other lengths on each process."""
    assert [rank["equal"] for rank in found] == [[True] * 3] * 2


def test_each_process_holds_its_half_before_and_behind_a_step(found: list[dict[str, Any]]) -> None:
    assert sum(rank["local"] for rank in found) == found[0]["whole"]
    for rank in found:
        assert rank["local"] == rank["after"] == rank["whole"] / 2


def test_layers_are_groups_and_nothing_is_remembered_for_a_backward_pass(
    found: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    is_fsdp = request.node.callspec.params["found"].startswith("fsdp2")
    for rank in found:
        assert rank["groups"] == (4 if is_fsdp else 0)  # three layers, and the rest
        assert rank["held"] == ([0, 0, 0] if is_fsdp else [])


def test_the_trained_model_itself_is_still_refused(found: list[dict[str, Any]]) -> None:
    assert all(rank["refused"] for rank in found)


def main(folder: Path, is_tied: bool, name: str) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP"):
        import tests.fsdp_on_cpu  # noqa: F401 - patches accelerate
    from cpt.world import current, leave

    world = current()
    (folder / f"{world.rank}.json").write_text(json.dumps(compared(world.rank, is_tied, name)))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "tied", sys.argv[3])
