"""What a stage's id hashes. The id promises equal inputs, not equal bits."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpt.hooks import table
from cpt.hooks.base import Hook
from cpt.hooks.stack import in_order
from cpt.ids import short_hash
from cpt.interfaces import Kind
from cpt.past import NUM_EXEMPLARS
from cpt.recipe import StageSpec

#: Fields of `train:` that change what is shown or how fast it goes, not what is trained.
TRAINS_NOTHING = (
    "logging_steps",
    "logging_first_step",
    "log_completions",
    "log_unique_prompts",
    "num_completions_to_print",
    "eval_steps",
    "num_generations_eval",
    "dataloader_num_workers",
    "dataset_num_proc",
)


def stage_inputs(
    spec: StageSpec,
    kind: Kind,
    parents: Mapping[str, str],
    hooks: Sequence[Hook],
    seed: int,
    recalled: Mapping[str, str],
    suite_hash: str = "",
    steering: str | None = None,
    watched: str = "",
) -> dict[str, Any]:
    """What a stage's id hashes: everything that would train differently, and nothing else.

    Args:
        suite_hash: of the probes whose items a stage may drop from its data.
        steering: hash of the probe by which a merge chooses, if it does.
        watched: hash of the suite that the stage is looked at with, and of what ends it.
    """
    merge = {"merge": {**spec.merge.content(), "steering": steering}} if spec.merge else {}
    inputs = {
        **merge,
        "kind": kind.name,
        "version": kind.version,
        "parents": dict(parents),
        "data": [data.content() for data in spec.data],
        "train": {key: value for key, value in spec.train.items() if key not in TRAINS_NOTHING},
        "rewards": kind.reward_contents(spec, spec.file),
        "hooks": [
            {
                "name": key,
                "version": hook.version,
                "settings": table.settings_of(hook),
                "recalls": [recalled.get(name, name) for name in hook.recalls()],
            }
            for key, hook in in_order(hooks)
        ],
        "model": spec.model.content() if spec.model else None,
        "seed": seed,
    }
    # Settings that came later: a stage that leaves them alone keeps its id.
    if hygiene := spec.hygiene.content(suite_hash):
        inputs["hygiene"] = hygiene
    if spec.watch and (watch := spec.watch.content(watched)):
        inputs["watch"] = watch
    if spec.exemplars != NUM_EXEMPLARS:
        inputs["exemplars"] = spec.exemplars
    return inputs


def stage_id(inputs: Mapping[str, Any]) -> str:
    """`kind-` and 8 hex digits."""
    return f"{inputs['kind']}-{short_hash(dict(inputs))}"
