"""Bytes of a stage, from a closed form worked out by hand for a tiny model."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from cpt.footprint import LIBRARIES, Footprint, footprint
from cpt.hooks.agem import AGEM
from cpt.hooks.base import Hook, Need
from cpt.hooks.der import DER
from cpt.hooks.ema import EMA
from cpt.hooks.ewc import EWC
from cpt.hooks.freeze import Freeze
from cpt.hooks.gem import GEM
from cpt.hooks.kl import KL
from cpt.hooks.l2_sp import L2SP
from cpt.hooks.lora import Lora
from cpt.hooks.lwf import LwF
from cpt.hooks.o_lora import OLora
from cpt.hooks.osf import OSF
from cpt.hooks.replay import Replay
from cpt.hooks.si import SI
from cpt.model_size import of_config
from cpt.plan import Node
from cpt.quantised import Quantisation
from cpt.workload import Workload

# V = 100, H = 8, I = 16, two layers: 2,120 parameters, of which an adapter of rank 2 adds 544.
SIZE = of_config(
    {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    }
)
N, A = 2120, 544
LOAD = Workload(
    sequences=2,
    length=10,
    is_whole=True,
    per_step=4,
    steps=5,
    half=False,
    checkpointing=False,
    optimizer="adamw_torch_fused",
    checkpoints=2,
    on_cpu=False,
)
BASE = Node("base", "base", "base-1")


def bytes_of(
    *hooks: Hook,
    load: Workload = LOAD,
    dtype: str = "float32",
    backend: str = "single",
    world: int = 1,
    reference: bool = False,
    parent: Node = BASE,
) -> Footprint:
    parents = {"parent": parent.id} | ({"reference": parent.id} if reference else {})
    named = tuple((hook.name, hook) for hook in hooks)
    node = Node("sft", "sft", "sft-1", parents=parents, hooks=named)
    assert SIZE is not None
    found = footprint(SIZE, node, parent, load, dtype, backend, world)
    assert found is not None
    return found


def test_adamw_in_32_bits_is_four_numbers_for_each_parameter() -> None:
    found = bytes_of()
    assert found.parts == {
        "weights": 4 * N,
        "buffers": 0,
        "gradients": 4 * N,
        "states": 8 * N,
        "frozen": 0,
        "hooks": 0,
        "activations": 20 * 2 * (40 * 8 + 16 * 16),
        "head": 2 * 20 * 100 * 4 + 4 * 100 * 8,
        "sampling": 0,
        "libraries": 0,
        "freed": 0,
    }
    assert found.peak == 16 * N + 23040 + 19200
    assert (found.kept, found.passing) == (4 * N, 3 * 12 * N)
    on_cpu = bytes_of(load=replace(LOAD, on_cpu=True, checkpoints=0))
    assert on_cpu.peak == pytest.approx(1.25 * found.peak + LIBRARIES)
    assert on_cpu.passing == 0


def test_an_adapter_is_all_that_is_trained() -> None:
    found = bytes_of(Lora(rank=2), dtype="bfloat16")
    parts = {key: found.parts[key] for key in ("weights", "gradients", "states")}
    assert parts == {"weights": 2 * N + 4 * A, "gradients": 4 * A, "states": 8 * A}
    assert (found.kept, found.passing) == (2 * N + 4 * A, 3 * 12 * A + 4 * A)


def test_four_bit_weights_take_their_bits_and_scales() -> None:
    """Blocks of 64 weights: a scale of 32 bits each, or of 8 and one of 32 for 256 scales."""
    linear = 2 * (4 * 8 * 8 + 3 * 8 * 16)
    whole = bytes_of(Lora(rank=2), dtype="bfloat16").parts
    for double, bits in ((True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4.5)):
        found = bytes_of(Lora(rank=2, quantise="nf4", double=double), dtype="bfloat16").parts
        assert found["weights"] == pytest.approx(whole["weights"] - linear * (2 - bits / 8))
        assert {**found, "weights": 0} == {**whole, "weights": 0}
    assert Quantisation("nf4").bits == pytest.approx(4.127, abs=5e-4)


def test_as_many_checkpoints_as_stay_are_on_the_disk() -> None:
    one = bytes_of(load=replace(LOAD, checkpoints=1)).passing
    assert bytes_of(load=replace(LOAD, checkpoints=4)).passing == 5 / 2 * one


def test_an_orthogonal_adapter_counts_as_any() -> None:
    assert bytes_of(OLora(rank=2)) == bytes_of(Lora(rank=2))


def test_free_directions_of_each_weight_train_beside_their_beginnings() -> None:
    # Per layer q and o [8, 8], k and v [8, 8], gate and up [16, 8], down [8, 16]; 6 of 8 are protected.
    count = 2 * (4 * 2 * (8 + 8 + 1) + 3 * 2 * (8 + 16 + 1))
    high = 2 * 3 * 6 * 16
    found = bytes_of(OSF(effective_rank=6))
    parts = {key: found.parts[key] for key in ("weights", "gradients", "states")}
    added = 2 * count + high
    assert parts == {"weights": 4 * (N + added), "gradients": 4 * count, "states": 8 * count}
    assert found.kept == 4 * N
    assert bytes_of(OSF(effective_rank=0.75)) == found


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        (Freeze(), 2 * 4 * 64),
        (Freeze(train=["mlp_gate_up"]), 2 * 2 * 128),
        (Freeze(bottom_layers=1), 4 * 64 + 3 * 128 + 2 * 8 + 8),
        (Freeze(train="layers.7"), N),  # refused when it begins
    ],
)
def test_what_is_frozen_has_no_gradient_and_no_state(hook: Freeze, count: int) -> None:
    found = bytes_of(hook)
    parts = {key: found.parts[key] for key in ("weights", "gradients", "states")}
    assert parts == {"weights": 4 * N, "gradients": 4 * count, "states": 8 * count}


def test_ema_keeps_one_more_copy_of_what_is_trained() -> None:
    assert bytes_of(EMA()).parts["hooks"] == 4 * N
    assert bytes_of(EMA(), Lora(rank=2)).parts["hooks"] == 4 * A
    assert bytes_of(EWC(strength=1.0), EMA()).parts["hooks"] == 12 * N
    assert bytes_of(EWC(strength=0.0)).parts["hooks"] == 0
    assert bytes_of(SI()).parts["hooks"] == 16 * N
    assert bytes_of(SI(of="previous")).parts["hooks"] == 24 * N
    # Checkpoints of the trainer, and the weights and averages before the merge.
    assert bytes_of(EMA()).passing == 3 * 16 * N + 8 * N


@pytest.mark.parametrize(
    ("hooks", "reference", "copies"),
    [
        ([], True, 1),
        ([Lora(rank=2)], True, 0),
        ([KL()], False, 1),
        ([KL()], True, 2),
        ([KL(), KL(of="base")], False, 1),
        ([KL(beta=0)], False, 0),
        ([KL(), Lora(rank=2)], False, 0),
        ([KL(of="other"), Lora(rank=2)], True, 1),
        ([OSF()], True, 0),
        ([KL(), Freeze()], True, 2),
    ],
)
def test_frozen_models_are_counted_once_each(
    hooks: list[Hook], reference: bool, copies: int
) -> None:
    assert bytes_of(*hooks, reference=reference).parts["frozen"] == copies * 4 * N


@pytest.mark.parametrize("after", ["keep", "continue"])
def test_below_an_adapter_that_was_kept_apart_lies_another_model(after: Any) -> None:
    parent = Node("dpo", "dpo", "dpo-1", hooks=(("lora", Lora(after=after)),))
    assert bytes_of(KL(), Lora(rank=2), parent=parent).parts["frozen"] == 4 * N


def test_ddp_has_buckets_and_zero_shards() -> None:
    def parts(**settings: Any) -> tuple[float, float]:
        found = bytes_of(world=4, **settings).parts
        return found["gradients"], found["states"]

    half = replace(LOAD, half=True)
    assert parts(backend="ddp") == (8 * N, 8 * N)
    assert parts(backend="zero1", load=half) == (2 * N, 3 * N)
    assert parts(backend="zero2", load=half, dtype="bfloat16") == (N / 2, 3 * N)
    assert parts(backend="zero2") == (N, 3 * N)
    assert bytes_of(backend="zero2", world=4, load=half).parts["weights"] == 2 * N
    # Each process saves its shard.
    assert bytes_of(backend="zero2", world=4, load=half).passing == 3 * (2 + 12) * N


@pytest.mark.parametrize("backend", ["zero3", "fsdp2"])
@pytest.mark.parametrize("world", [2, 8])
def test_what_is_spread_is_a_share(backend: str, world: int) -> None:
    load = replace(LOAD, half=True)
    whole = bytes_of(load=load, dtype="bfloat16").parts
    found = bytes_of(load=load, dtype="bfloat16", backend=backend, world=world)
    for part in ("weights", "gradients"):
        assert found.parts[part] == whole[part] / world
    moments = {"zero3": 12, "fsdp2": 4}[backend]  # DeepSpeed's are in 32 bits, with the master copy
    assert found.parts["states"] == moments * N / world
    assert found.parts["activations"] == whole["activations"]
    assert bytes_of(EMA(), backend=backend, world=world).parts["hooks"] == 4 * N / world
    # Opened whole behind the last step, to be merged, saved and measured.
    assert found.whole == 2 * N
    # The trainer's own reference, and a hook's.
    both = bytes_of(KL(), reference=True, backend=backend, world=world)
    assert both.parts["frozen"] == 2 * 4 * N / world
    assert bytes_of(KL(), backend="zero2", world=world).parts["frozen"] == 4 * N


def test_whole_weights_are_gathered_for_a_while() -> None:
    def gathered(backend: str, world: int = 4) -> float:
        return bytes_of(backend=backend, world=world).parts["buffers"]

    layer, rest = 4 * 64 + 3 * 128 + 2 * 8, 100 * 8 + 8
    assert gathered("fsdp2") == 2 * 4 * max(layer, rest)
    assert gathered("zero2") == 4 * N  # a bucket of 5 * 10^7 holds all of them
    assert gathered("zero3") == 2 * 4 * N
    assert (gathered("ddp"), gathered("zero2", 1)) == (0, 0)


@pytest.mark.parametrize(
    ("backend", "moved"),
    [
        ("zero1-offload", {"states"}),
        ("zero2-offload", {"states", "gradients"}),
        ("zero3-offload", {"states", "gradients", "weights"}),
        ("fsdp2-offload", {"states", "gradients", "weights"}),
    ],
)
def test_what_is_offloaded_lies_on_the_host(backend: str, moved: set[str]) -> None:
    there = bytes_of(backend=backend.removesuffix("-offload"), world=4)
    found = bytes_of(backend=backend, world=4)
    assert {*there.host} == {"libraries", "loading"}
    assert {*found.host} == {"libraries", "loading", *moved}
    assert {*there.parts} - {*found.parts} == moved
    assert found.peak + found.host_peak == pytest.approx(there.peak + there.host_peak)
    # Where there is no GPU, the host is all there is.
    on_cpu = bytes_of(backend=backend, world=4, load=replace(LOAD, on_cpu=True))
    assert (on_cpu.host, on_cpu.parts["states"]) == ({}, there.parts["states"])


def test_machines_change_nothing_of_a_process() -> None:
    assert bytes_of(backend="zero2-nodes", world=4) == bytes_of(backend="zero2", world=4)


def test_sampling_keeps_keys_and_values() -> None:
    sampling = bytes_of(load=replace(LOAD, sampled=6)).parts["sampling"]
    assert sampling == 2 * (2 * 8) * 6 * 10 * 4  # two layers, 8 wide
    half = bytes_of(load=replace(LOAD, sampled=6, half=True)).parts["sampling"]
    assert half == sampling / 2


def test_a_model_that_is_opened_whole_may_be_the_peak() -> None:
    small = replace(LOAD, sequences=1, length=1)
    found = bytes_of(Lora(rank=1), load=small, backend="fsdp2", world=1000)
    assert found.peak == max(sum(found.parts.values()), found.whole)
    assert found.whole == 4 * N


@pytest.mark.parametrize("backend", ["single", "ddp", "zero2", "zero3-offload", "fsdp2"])
def test_fewer_rows_and_checkpointing_never_need_more(backend: str) -> None:
    peaks = [
        bytes_of(backend=backend, world=2, load=replace(LOAD, sequences=rows, length=500)).peak
        for rows in (1, 2, 4, 8)
    ]
    assert peaks == sorted(peaks)
    again = replace(LOAD, checkpointing=True, length=500, sequences=8)
    assert bytes_of(backend=backend, world=2, load=again).peak <= peaks[-1]


def test_16_bits_halve_some_of_it() -> None:
    half = replace(LOAD, half=True)
    pure = bytes_of(load=half, dtype="bfloat16").parts
    mixed = bytes_of(load=half).parts
    assert (pure["weights"], pure["states"], mixed["weights"]) == (2 * N, 4 * N, 6 * N)
    assert pure["activations"] == 20 * 2 * (24 * 8 + 8 * 16)
    assert mixed["activations"] == 20 * 2 * (34 * 8 + 8 * 16)
    assert pure["head"] == 2 * 20 * 100 * 2 + 4 * 100 * 8


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer_whole() -> None:
    found = bytes_of(load=replace(LOAD, checkpointing=True))
    assert found.parts["activations"] == 20 * (2 * 4 * 8 + 40 * 8 + 16 * 16)


def test_a_kl_hook_adds_its_chunks() -> None:
    more = bytes_of(KL()).parts["head"] - bytes_of().parts["head"]
    assert more == 4 * (5 * 256 * 100 + 100 * 8)


@pytest.mark.parametrize(
    ("hook", "num_models", "num_rows"),
    [
        (LwF("base", rows_of="old"), 1, 4),  # 8 rows over 2 passes of 2 sequences
        (LwF("base", inputs="new"), 1, 0),
        (LwF("base", rows_of="old", cache=64), 0, 4),
        (DER("old", 0.5, 0.0), 0, 4),
        (DER("old", 0.5, 0.5, batch_size=3), 0, 4),  # two draws, of 2 rows in each pass
        (Replay("old", mode="loss", batch_size=3), 0, 2),
    ],
)
def test_old_rows_and_earlier_models_take_their_part(
    hook: Hook, num_models: int, num_rows: int
) -> None:
    plain, found = bytes_of().parts, bytes_of(hook).parts
    assert found["frozen"] == num_models * 4 * N
    assert found["activations"] == plain["activations"] * (2 + num_rows) / 2
    assert found["head"] - plain["head"] == 4 * (5 * 256 * 100 + 100 * 8)


@pytest.mark.parametrize(
    "hook",
    [
        KL(beta=0.0),
        LwF("base", rows_of="old", beta=0.0),
        Replay("old"),
        Replay("old", mode="loss", coefficient=0.0),
        L2SP(),
    ],
    ids=["kl", "lwf", "stream", "loss", "l2_sp"],
)
def test_hooks_without_a_penalty_run_no_rows_and_make_no_logits(hook: Hook) -> None:
    plain, found = bytes_of().parts, bytes_of(hook).parts
    assert {name for name in plain if plain[name] != found[name]} <= {"hooks"}


@pytest.mark.parametrize(("hook", "num_sums"), [(AGEM(), 1), (GEM(of=["a", "b"]), 2)])
def test_the_gradient_of_old_rows_is_one_more_beside_what_is_summed(
    hook: Hook, num_sums: int
) -> None:
    found = bytes_of(hook)
    assert found.parts["gradients"] == 2 * 4 * N
    assert found.parts["hooks"] == num_sums * 4 * N
    assert found.parts["activations"] == bytes_of().parts["activations"]
    assert bytes_of(hook, backend="ddp", world=2).parts["gradients"] == 3 * 4 * N


def test_what_another_packages_hook_says_of_itself_is_counted() -> None:
    @dataclass
    class Theirs(Hook):
        name: ClassVar[str] = "theirs"
        needs: ClassVar[frozenset[Need]] = frozenset({"logits"})

        def penalty(self, model: Any, tokens: Any, ctx: Any) -> Any:
            return None

        def rows_per_step(self) -> tuple[int, ...]:
            return (3, 1)

        def models_held(self) -> tuple[str, ...]:
            return ("base", "other")

    plain, found = bytes_of().parts, bytes_of(Theirs()).parts
    assert found["frozen"] == 2 * 4 * N
    assert found["activations"] == (2 + 2 + 1) / 2 * plain["activations"]  # in 2 passes
    assert found["head"] - plain["head"] == 4 * (5 * 256 * 100 + 100 * 8)


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [("adamw_bnb_8bit", 2), ("sgd", 0), ("lion_32bit", 4), ("paged_adamw_32bit", 8)],
)
def test_other_optimizers_have_other_states(optimizer: str, states: int) -> None:
    assert bytes_of(load=replace(LOAD, optimizer=optimizer)).parts["states"] == states * N


def test_an_optimizer_that_is_not_known_is_not_guessed() -> None:
    assert SIZE is not None
    load = replace(LOAD, optimizer="galore_adafactor")
    assert footprint(SIZE, BASE, BASE, load, "float32", "single", 1) is None


def test_activations_are_what_autograd_saves() -> None:
    """40 H + 16 I a token and layer, within the tenth that norms' scales and the mask make up."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    def saved(num_layers: int) -> int:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        model = LlamaModel(config).train()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        padded = torch.ones(2, 64, dtype=torch.long)
        padded[0, -5:] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.zeros_like(padded), attention_mask=padded, use_cache=False)
        return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)

    measured = (saved(3) - saved(1)) / 2 / 128
    assert 40 * 128 + 16 * 256 <= measured <= 1.1 * (40 * 128 + 16 * 256)
