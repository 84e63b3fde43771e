"""The end of a stage whose weights were spread: the main process goes on alone, as one process would.

No other process loads the model again, so that the machine holds it once, in the main process's memory. The
others wait for a word in a file, not in a collective, which would time out (NCCL after 10 minutes).
"""

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cpt import ids
from cpt.world import World
from stages.supply import wait


def alone(world: World, partial: Path, work: Callable[[World], None]) -> None:
    """Let the main process do what the others cannot help with.

    Args:
        world: all processes; every one calls this.
        partial: the stage's folder, which the work may rename; the word lies beside it.
        work: given a world of the main process alone, with its device.

    Raises:
        CptError: what the main process could not do; the others raise the same.
    """
    launch, word = world.agree(uuid.uuid4().hex), partial.with_name(f".{partial.stem}.alone.json")
    if not world.is_main:
        wait(word, launch)
        world.barrier()
        return
    try:
        work(replace(world, rank=0, size=1, spreads=False))
    except BaseException as error:  # of any kind: the others would wait for ever
        with suppress(OSError):
            told = {"error": type(error).__name__, "message": str(error)}
            ids.atomic_write(word, json.dumps({"launch": launch, **told}))
        raise
    ids.atomic_write(word, json.dumps({"launch": launch}))
    world.barrier()
    word.unlink(missing_ok=True)
