"""What a stage gives its hooks besides their arguments."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cpt.hooks.context import StageContext, Tensors
from cpt.recipe import StageSpec
from cpt.rehearsal import IGNORED, Example
from cpt.rows import Row, format_of
from cpt.world import World
from stages.base import Job, StageKind
from stages.cache import cache_of, cached
from stages.encode import applying_template, encode_rows
from stages.opening import load_earlier
from stages.trl_args import batch_layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens of a rehearsed row, where the stage has no `max_length`.
MAX_LENGTH = 1024


def context(
    job: Job,
    kind: StageKind,
    tokenizer: Any,
    start: str,
    world: World,
    say: Callable[[str], None],
) -> StageContext:
    """The context of a stage's hooks; `reference` is set once the model is there."""
    batch_size = int(job.spec.train.get("batch_size", 8))
    micro_batch, _ = batch_layout(batch_size, world.size, job.spec.micro_batch)
    return StageContext(
        job.name,
        kind.name,
        kind.formats,
        job.seed,
        world,
        start,
        encode=partial(examples, tokenizer=tokenizer, spec=job.spec),
        load=partial(load_earlier, job=job, device=world.device),
        cached=partial(_cached, job, world),
        batch_size=batch_size,
        micro_batch=micro_batch,
        say=lambda line: say(f"{job.name}: {line}"),
    )


def _cached(job: Job, world: World, key: object, make: Callable[[], Tensors]) -> Tensors:
    """Made once; with models in other numbers it is something else."""
    return cached(cache_of(job), world, [str(job.load.get("dtype", "float32")), key], make)


def examples(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", spec: StageSpec
) -> list[Example]:
    """Rows of earlier stages, of any format, as hooks rehearse them.

    Pairs give their chosen answer. Prompts have no answer and so no labels. Sequences are cut to the stage's
    own `max_length`.
    """
    most = int(spec.train.get("max_length") or MAX_LENGTH)
    found = []
    for row in rows:
        form = format_of(row)
        if form == "preference":
            row = {"prompt": row["prompt"], "completion": row["chosen"]}
        if form == "prompt":
            ids = _prompt_ids(tokenizer, row["prompt"])[:most]
            found.append(Example(ids, [IGNORED] * len(ids)))
            continue
        # With the labels of a stage that trains on answers.
        found += [Example(**one) for one in encode_rows([row], tokenizer, most, True).rows]
    return found


def _prompt_ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    with applying_template(tokenizer, prompt):
        return list(
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        )
