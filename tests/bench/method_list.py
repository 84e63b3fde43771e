"""The methods of the two protocols as recipes would list them, and the reference numbers of `methods.md` 7.3.

The references are of a plain PyTorch implementation with 5 seeds; (mean, half width of the 95 % interval).
"""

from collections.abc import Mapping
from typing import Any

from tests.bench.protocols import Method

Reference = Mapping[str, tuple[float, float | None]]


def _ta(new: float, old: float, half: float | None = None, low: float | None = None) -> Reference:
    reference: dict[str, tuple[float, float | None]] = {"new": (new, None), "old": (old, half)}
    return reference if low is None else {**reference, "min": (low, None)}


def _tb(
    task: float, general: float, half: float | None = None, kl: float | None = None
) -> Reference:
    reference: dict[str, tuple[float, float | None]] = {
        "task": (task, None),
        "general": (general, half),
    }
    return reference if kl is None else {**reference, "kl": (kl, None)}


def _replay(share: float, size: int | None = None) -> Method:
    settings: dict[str, Any] = {"of": "all", "share": share, "unit": "samples"}
    if size is None:
        return Method(f"replay {share}, all items", [{"replay": settings}])
    settings["buffer"] = {"size": f"{size} a task", "policy": "quota"}
    return Method(f"replay {share}, {size} items a task", [{"replay": settings}])


def _chosen(select: str) -> Method:
    settings = {"of": "all", "share": 0.2, "unit": "samples", "select": select}
    buffer = {"size": "8 a task", "policy": "quota"}
    return Method(f"replay 0.2, 8 items, {select}", [{"replay": {**settings, "buffer": buffer}}])


def _rehearsed(select: str) -> Method:
    settings = {"of": "all", "mode": "loss", "coefficient": 0.25, "batch_size": 8}
    return Method(
        f"loss 0.25 on 8 old rows, {select}", [{"replay": {**settings, "select": select}}]
    )


def _adapter(name: str, hook: Mapping[str, Any], first: Mapping[str, Any]) -> Method:
    """A method on adapters alone, at a rate at which they learn a task as all weights do at theirs."""
    return Method(name, [hook], first=[first], train={"learning_rate": 1e-2})


def _one(name: str, hook: str, **settings: Any) -> Method:
    return Method(name, [{hook: settings}])


GENERAL = {"path": "{general}"}

TASK_TABLES: list[tuple[Method, Reference]] = [
    (Method("naive"), _ta(1.0, 0.064, 0.019, 0.045)),
    (Method("learning rate x 0.2", train={"learning_rate": 4e-4}), _ta(1.0, 0.070, 0.025, 0.058)),
    (Method("joint", is_joint=True), _ta(1.0, 1.0)),
    (_replay(0.1, 8), _ta(1.0, 0.197, 0.021, 0.128)),
    (_replay(0.2, 16), _ta(1.0, 0.338, 0.030, 0.206)),
    (_chosen("uniform"), {}),
    (_chosen("herding"), {}),
    (_chosen("kcenter"), {}),
    (
        Method(
            "replay 0.2, 48 items in all",
            [
                {
                    "replay": {
                        "of": "all",
                        "share": 0.2,
                        "unit": "samples",
                        "buffer": {"size": 48, "policy": "quota"},
                    }
                }
            ],
        ),
        {},
    ),
    (_replay(0.2), _ta(0.997, 0.914, 0.059, 0.231)),
    (
        # 0.2 in the mean: 0.14 + 0.36 * tau * (1 - exp(-1 / tau)).
        _one(
            "replay 0.5 falling to 0.14",
            "replay",
            of="all",
            share=0.14,
            unit="samples",
            schedule={"start": 0.5, "tau": 0.1667},
        ),
        {},
    ),
    (_rehearsed("uniform"), {}),
    (_rehearsed("collateral"), {}),
    (_replay(0.5), _ta(0.994, 0.978, 0.061, 0.613)),
    (
        _one(
            "der++, 16 items a task", "der", of="all", size="16 a task", alpha=0.05, beta=0.5, k=16
        ),
        _ta(1.0, 0.370, 0.029, 0.214),
    ),
    (
        _one("lwf on old prompts", "lwf", inputs="general", rows_of="all", beta=1.0),
        _ta(1.0, 1.0, 0.0, 0.616),
    ),
    (_one("lwf on new inputs, 1", "lwf", inputs="new", beta=1.0), _ta(0.497, 0.228, 0.037, 0.200)),
    (
        _one("lwf on new inputs, 10", "lwf", inputs="new", beta=10.0),
        _ta(0.073, 0.531, 0.012, 0.511),
    ),
    (_one("ewc 1", "ewc", of="all", strength=1.0), _ta(0.984, 0.113, 0.040, 0.069)),
    (_one("ewc 10", "ewc", of="all", strength=10.0), _ta(0.853, 0.405, 0.178, 0.266)),
    (_one("ewc 100", "ewc", of="all", strength=100.0), _ta(0.317, 0.603, 0.062, 0.519)),
    (
        _one("ewc 10, data labels", "ewc", of="all", strength=10.0, labels="data"),
        _ta(0.800, 0.536, 0.081, 0.334),
    ),
    (_one("ewc 10, proximal", "ewc", of="all", strength=10.0, style="proximal"), {}),
    (_one("online ewc 10", "online_ewc", strength=10.0), _ta(0.848, 0.441, 0.207, 0.291)),
    (
        Method(
            "si 1",
            [
                {
                    "si": {
                        "of": "all",
                        "strength": 1.0,
                        "damping_unit": "absolute",
                        "normalise": False,
                    }
                }
            ],
            first=["si"],
        ),
        _ta(1.0, 0.064, None, 0.047),
    ),
    (
        Method(
            "si 10",
            [
                {
                    "si": {
                        "of": "all",
                        "strength": 10.0,
                        "damping_unit": "absolute",
                        "normalise": False,
                    }
                }
            ],
            first=["si"],
        ),
        _ta(0.975, 0.077, None, 0.048),
    ),
    (
        Method(
            "si 1, as by default",
            [{"si": {"of": "all", "strength": 1.0}}],
            first=["si"],
        ),
        {},
    ),
    (_one("mas 1", "mas", of="all", strength=1.0), _ta(0.627, 0.320, 0.068, 0.184)),
    (_one("mas 10", "mas", of="all", strength=10.0), _ta(0.141, 0.567, 0.035, 0.458)),
    (_one("l2_sp 0.1", "l2_sp", strength=0.1), _ta(0.966, 0.075, None, 0.047)),
    (_one("l2_sp 1", "l2_sp", strength=1.0), _ta(0.927, 0.086, None, 0.055)),
    (_one("agem, all items", "agem", of="all", batch_size=32), _ta(1.0, 0.086, 0.031, 0.064)),
    (_one("gem, all items", "gem", of="all", batch_size=64), _ta(1.0, 0.220, 0.057, 0.073)),
    (_one("freeze bottom block", "freeze", bottom_layers=1), _ta(1.0, 0.064, None, 0.048)),
    (
        _adapter(
            "lora 16, continued",
            {"lora": {"rank": 16, "after": "continue"}},
            {"lora": {"rank": 16, "after": "keep"}},
        ),
        {},
    ),
    (_adapter("lora 16, merged", {"lora": {"rank": 16}}, {"lora": {"rank": 16}}), {}),
    (
        _adapter(
            "o_lora 16", {"o_lora": {"rank": 16, "of": "all"}}, {"o_lora": {"rank": 16, "of": []}}
        ),
        {},
    ),
    (_one("interpolate 0.7", "interpolate", alpha=0.7), _ta(0.984, 0.078)),
    (_one("interpolate 0.5", "interpolate", alpha=0.5), _ta(0.703, 0.183)),
    (_one("ema 0.99", "ema", decay=0.99), _ta(1.0, 0.064)),
    (
        Method(
            "replay 0.2 of 16 + lwf on old prompts",
            [
                {
                    "replay": {
                        "of": "all",
                        "share": 0.2,
                        "unit": "samples",
                        "buffer": {"size": "16 a task", "policy": "quota"},
                    }
                },
                {"lwf": {"inputs": "general", "rows_of": "all", "beta": 1.0}},
            ],
        ),
        {},
    ),
]

GENERAL_AND_SKILL: list[tuple[Method, Reference]] = [
    (Method("naive"), _tb(1.0, 0.728, 0.161, 3.62)),
    (Method("learning rate x 0.25", train={"learning_rate": 5e-4}), _tb(1.0, 0.149, 0.030, 2.16)),
    (
        Method("learning rate x 0.25, 3 x steps", train={"learning_rate": 5e-4, "max_steps": 600}),
        _tb(1.0, 0.281, 0.054, 2.83),
    ),
    (
        _one("general text, loss 0.25", "replay", source=GENERAL, mode="loss", coefficient=0.25),
        _tb(1.0, 0.041, 0.016, 2.95),
    ),
    (
        _one("general text, loss 1", "replay", source=GENERAL, mode="loss", coefficient=1.0),
        _tb(1.0, 0.046, 0.013, 2.82),
    ),
    (_one("general text, share 0.5", "replay", source=GENERAL, share=0.5), {}),
    (
        _one("lwf on general text", "lwf", inputs="general", source=GENERAL, beta=1.0),
        _tb(1.0, 0.009, 0.003, 2.91),
    ),
    (
        _one("lwf on new prompts", "lwf", inputs="new", positions="prompt", beta=1.0),
        _tb(1.0, 0.120, 0.049, 1.92),
    ),
    (
        _one("ewc 0.1, general text", "ewc", source=GENERAL, strength=0.1),
        _tb(1.0, 0.049, 0.012, 2.59),
    ),
    (
        _one("ewc 1, general text", "ewc", source=GENERAL, strength=1.0),
        _tb(0.975, 0.018, None, 1.96),
    ),
    (
        _one("ewc 10, general text", "ewc", source=GENERAL, strength=10.0),
        _tb(0.904, 0.002, None, 1.64),
    ),
    (
        _one(
            "ewc 0.1, general text, proximal",
            "ewc",
            source=GENERAL,
            strength=0.1,
            style="proximal",
        ),
        {},
    ),
    (
        _one(
            "ewc 1, general text, proximal", "ewc", source=GENERAL, strength=1.0, style="proximal"
        ),
        {},
    ),
    (_one("l2_sp 0.1", "l2_sp", strength=0.1), _tb(0.979, 0.231, 0.075, 2.35)),
    (_one("l2_sp 1", "l2_sp", strength=1.0), _tb(0.835, 0.037, None, 1.26)),
    (_one("l2_sp 0.1, proximal", "l2_sp", strength=0.1, style="proximal"), {}),
    (_one("l2_sp 1, proximal", "l2_sp", strength=1.0, style="proximal"), {}),
    (
        _one("agem, general text", "agem", source=GENERAL, batch_size=32),
        _tb(1.0, 0.433, 0.122, 3.49),
    ),
    (_one("interpolate 0.85", "interpolate", alpha=0.85), _tb(1.0, 0.504, None, 3.18)),
    (_one("interpolate 0.7", "interpolate", alpha=0.7), _tb(0.996, 0.335, None, 2.60)),
    (_one("interpolate 0.5", "interpolate", alpha=0.5), _tb(0.654, 0.166, None, 1.67)),
    (_one("ema 0.98", "ema", decay=0.98), _tb(1.0, 0.603, 0.140, 3.30)),
    (
        _one("attention projections only", "freeze", train=["attn_proj"]),
        _tb(1.0, 0.068, 0.024, 2.53),
    ),
    (_one("freeze bottom block", "freeze", bottom_layers=1), _tb(0.950, 0.550, 0.172, 2.53)),
    (_one("lora 4", "lora", rank=4, alpha=8.0), _tb(0.973, 0.101, 0.048, 1.85)),
    (_one("lora 16", "lora", rank=16, alpha=32.0), _tb(1.0, 0.169, 0.040, 2.50)),
    (
        Method(
            "ewc 0.1 + general text, share 0.2",
            [
                {"ewc": {"source": GENERAL, "strength": 0.1}},
                {"replay": {"source": GENERAL, "share": 0.2}},
            ],
        ),
        {},
    ),
]
