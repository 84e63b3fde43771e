"""What a recipe names and this machine has not installed: trackers, attention kernels, optimizers.

Asked of the import system without importing anything. The names are those of transformers 5.23: `report_to`
in integrations/integration_utils.py, `attn_implementation` in modeling_utils.py, `optim` in training_args.py.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

from cpt.errors import CptError, PlanError, RecipeError
from cpt.hooks.base import Hook
from cpt.plan import Node, Plan
from cpt.settings import did_you_mean

# Name -> packages that it needs, as pip calls them; alternatives with a bar. An empty text: nothing more.
TRACKERS = {
    **dict.fromkeys(("all", "none", "kubeflow"), ""),
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub mlflow",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard|tensorboardX",
    "trackio": "trackio",
    "wandb": "wandb",
}
# Without its own package, flash attention is taken from the hub by `kernels`.
ATTENTION = {
    **dict.fromkeys(("eager", "sdpa", "flex_attention"), ""),
    "flash_attention_2": "flash-attn|kernels",
    "flash_attention_3": "flash-attn-3|kernels",
    "flash_attention_4": "flash-attn-4|kernels",
}
_KERNEL = re.compile(r"[^/:]+/[^/:]+(@[^/:]+)?(:[^/:]+)?")
OPTIMIZERS = {
    **dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"), ""
    ),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "ademamix", "ademamix_8bit"), "bitsandbytes"),
    **dict.fromkeys(("lion_8bit", "lion_32bit"), "bitsandbytes"),
    **dict.fromkeys(("paged_adamw_32bit", "paged_adamw_8bit"), "bitsandbytes"),
    **dict.fromkeys(("paged_ademamix_32bit", "paged_ademamix_8bit"), "bitsandbytes"),
    **dict.fromkeys(("paged_lion_32bit", "paged_lion_8bit"), "bitsandbytes"),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"), "bitsandbytes"),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    "adamw_torch_xla": "torch-xla",
    "adamw_torch_npu_fused": "torch-npu",
    "adamw_anyprecision": "torchdistx",
    **dict.fromkeys(("galore_adamw", "galore_adamw_8bit", "galore_adafactor"), "galore-torch"),
    **dict.fromkeys(("galore_adamw_layerwise", "galore_adafactor_layerwise"), "galore-torch"),
    "galore_adamw_8bit_layerwise": "galore-torch",
    **dict.fromkeys(("lomo", "adalomo"), "lomo-optim"),
    "grokadamw": "grokadamw",
    **dict.fromkeys(("schedule_free_radam", "schedule_free_adamw"), "schedulefree"),
    "schedule_free_sgd": "schedulefree",
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), "apollo-torch"),
    "stable_adamw": "torch-optimi",
}
# Where a package's module has another name than the package with underscores.
_MODULES = {"azureml-core": "azureml", "torch-optimi": "optimi"}
# One module, several packages: the package's own name decides.
_BY_PACKAGE = ("flash-attn", "flash-attn-3", "flash-attn-4")
# How a hook holds weights (`cpt.quantised`).
QUANTISED = dict.fromkeys(("nf4", "fp4"), "bitsandbytes")
# Switches of `train:`.
_SWITCHES = {"use_liger_kernel": "liger-kernel", "use_vllm": "vllm"}
_EXTRAS = {"bitsandbytes": "make install"}


def is_installed(package: str) -> bool:
    """Whether a package is here, without importing it."""
    if package in _BY_PACKAGE:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            return False
        return True
    return find_spec(_MODULES.get(package, package.replace("-", "_"))) is not None


def missing(plan: Plan, is_finished: Callable[[Node], bool] = lambda node: False) -> list[str]:
    """One sentence for each thing that unfinished stages need and this machine has not.

    Raises:
        RecipeError: a name that transformers does not know either.
    """
    recipe, found = plan.recipe, dict[str, None]()
    problems: list[CptError] = []

    def check(where: str, value: object, known: Mapping[str, str], is_needed: bool = True) -> None:
        try:
            sentences = list(lacking(where, value, known))
        except RecipeError as error:
            problems.append(error)
        else:
            found.update(dict.fromkeys(sentences if is_needed else ()))

    todo = [node for node in plan.nodes if not is_finished(node)]
    for tracker in recipe.trackers:
        check(f"{recipe.file}: trackers", tracker, TRACKERS, bool(todo))
    check(f"{recipe.file}: model.attention", recipe.model.attention, ATTENTION, bool(todo))
    for node in plan.nodes:
        if node.spec is not None:
            for where, value, known in named_in(node.spec.train):
                check(f"{node.spec.file}: {where}", value, known, node in todo)
            for where, value, known in held_by(hook for _, hook in node.hooks):
                check(f"{node.spec.file}: {where}", value, known, node in todo)
    if problems:
        raise RecipeError("\n".join(map(str, problems)))
    return list(found)


def named_in(train: Mapping[str, object]) -> Iterator[tuple[str, object, Mapping[str, str]]]:
    """(where, value, table of known values) of what `train:` names and a machine may lack."""
    yield "train.optim", train.get("optim"), OPTIMIZERS
    for switch in sorted(_SWITCHES.keys() & train.keys()):
        if train[switch]:
            yield "train", switch, _SWITCHES


def held_by(hooks: Iterable[Hook]) -> Iterator[tuple[str, object, Mapping[str, str]]]:
    """As `named_in`, of what the hooks of a stage do with its weights."""
    for hook in hooks:
        if (held := hook.quantisation()) is not None:
            yield f"hooks.{hook.name}.quantise", held.kind, QUANTISED


def refuse_missing(sentences: Collection[str]) -> None:
    """Stop before any weights load.

    Raises:
        PlanError: something is missing.
    """
    if sentences:
        raise PlanError("\n".join(sentences))


def lacking(where: str, value: object, known: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each need of one value that is not met here.

    Raises:
        RecipeError: a name that transformers does not know either.
    """
    if value is None:
        return
    name = str(value)
    needs = known.get(name)
    if needs is None and known is ATTENTION and _KERNEL.fullmatch(name.removeprefix("paged|")):
        needs = "kernels"
    if needs is None and known is ATTENTION and name == "paged|eager":
        needs = ""
    if needs is None:
        raise RecipeError(f"{where}: there is no {name!r}{did_you_mean(name, known)}")
    for need in needs.split():
        packages = need.split("|")
        if not any(map(is_installed, packages)):
            how = _EXTRAS.get(packages[0], f"pip install {packages[0]}")
            yield (
                f"{where}: {name} needs {' or '.join(packages)}, which is not installed here; run: {how}"
            )
