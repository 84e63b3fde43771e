"""A checkpoint too large for one device, spread over the processes to be measured.

Each process reads its own rows of every tensor from the files, so that none ever holds the whole model, on
its accelerator or off it. Where a whole copy fits, every process has one: that is faster, and the numbers
are the same to rounding (`tests/launch/test_spread.py`).

Source: torch 2.13, `torch.distributed.fsdp.fully_shard` on a model without storage.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpt.errors import StoreError
from cpt.world import World

if TYPE_CHECKING:
    from torch import Tensor

#: A model that is measured holds its weights and what a forward pass and its caches take.
ROOM = 1.25


def fits_one(folder: Path, world: World) -> bool:
    """Whether every process has room for a whole copy; the same on each.

    On a CPU there is no telling: the processes of a machine share its memory, and swap.
    """
    import torch

    device = torch.device(world.device)
    if device.type != "cuda":
        return True
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return world.agree_all(ROOM * size < torch.cuda.mem_get_info(device)[0])


def load_spread(folder: Path, settings: Mapping[str, Any], world: World) -> Any:
    """A checkpoint's model for evaluation, each of its blocks whole only while it computes.

    Args:
        folder: a Hugging Face folder.
        settings: a job's `load`: dtype, attention, trust_remote_code.
        world: the processes; all of them call this.

    Raises:
        StoreError: a parameter is under another name on the disk, so that its part cannot be read alone.
    """
    import torch
    from accelerate import init_empty_weights
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    from cpt.checkpoint import load_config

    trust = bool(settings.get("trust_remote_code", False))
    options: dict[str, Any] = {"trust_remote_code": trust}
    if attention := settings.get("attention"):
        options["attn_implementation"] = attention
    config = load_config(str(folder), trust)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, settings.get("dtype", "float32")), **options
        )
    model.tie_weights()
    device = torch.device(world.device)
    mesh = init_device_mesh(device.type, (world.size,))
    for block in list(model.modules()):
        if type(block).__name__ in (model._no_split_modules or ()):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    buffers = {name: buffer.to(device) for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    model.tie_weights()
    for name, buffer in buffers.items():  # computed from the config, and in no file
        module, _, own = name.rpartition(".")
        model.get_submodule(module).register_buffer(own, buffer, persistent=False)
    _read(model, folder)
    model._is_fsdp_managed_module = True  # `generate` then keeps all processes in every pass
    model.config._name_or_path = str(folder)
    return model.requires_grad_(False).eval()


def _read(model: Any, folder: Path) -> None:
    """Fill the parts of this process from the files."""
    import torch
    from safetensors import safe_open

    files = _files(folder)
    opened: dict[str, Any] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in files:
                raise StoreError(
                    f"{folder}: does not fit on one device, and holds no tensor {name!r} that could be read "
                    f"in parts; measure it on fewer, larger devices"
                )
            file = files[name]
            if file not in opened:
                opened[file] = safe_open(str(folder / file), "pt")
            part = parameter.to_local()
            part.copy_(_rows(opened[file].get_slice(name), parameter))


def _rows(there: Any, parameter: Any) -> "Tensor":
    """This process's rows of a tensor in a file."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    found: Tensor = there[offset[0] : offset[0] + shape[0]]
    return found


def _files(folder: Path) -> dict[str, str]:
    """Name of a tensor -> file that holds it."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    with safe_open(str(folder / "model.safetensors"), "pt") as tensors:
        return dict.fromkeys(tensors.keys(), "model.safetensors")
