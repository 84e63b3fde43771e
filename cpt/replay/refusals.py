"""Settings of a replay that do not go together."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpt.hooks.replay import Replay


def refuse(hook: "Replay") -> None:
    """Settings that have no effect beside others are mistakes.

    Raises:
        ValueError: names both and what to write instead.
    """
    if hook.of is not None and hook.source is not None:
        raise ValueError("name either `of` (earlier stages) or `source` (a data set)")
    of_streams = {"share": hook.share, "unit": hook.unit}
    of_losses = {"coefficient": hook.coefficient, "batch_size": hook.batch_size}
    for setting, value in (of_streams if hook.mode == "loss" else of_losses).items():
        if value is not None:
            instead = " and ".join(of_losses if hook.mode == "loss" else of_streams)
            raise ValueError(f"{setting}: mode: {hook.mode} has none; it has {instead}")
    if hook.mode == "batch" and hook.unit == "tokens":
        raise ValueError(
            "unit: mode: batch counts the rows of a batch; write samples, or mode: stream"
        )
    if hook.mode == "batch" and hook.schedule is not None:
        raise ValueError(
            "schedule: every batch has the same number of old rows; use mode: stream or loss"
        )
    if hook.mode != "loss" and hook.schedule is not None and hook.schedule.start >= 1:
        raise ValueError("schedule.start: a share is less than 1, so that new data are left")
    if hook.select == "collateral" and hook.mode != "loss":
        raise ValueError(
            "select: collateral draws rows by what training forgets, and a stream is made before; use "
            "mode: loss"
        )
    if hook.select not in ("uniform", "collateral"):
        if hook.buffer is None:
            raise ValueError(f"select: {hook.select} fills a buffer; add buffer: {{size: <rows>}}")
        if hook.buffer.policy == "reservoir":
            raise ValueError(
                f"buffer.policy: a reservoir is a uniform sample; select: {hook.select} is not"
            )
    if (hook.select == "quality") != (hook.score is not None):
        raise ValueError("select: quality and score: <column> go together; write both or neither")
    streams = hook.source is not None and hook.source.streaming and hook.source.limit is None
    if streams and (hook.mode == "loss" or hook.buffer is not None):
        raise ValueError("source: a stream has no end, and is read to its end here; set its limit")
    is_chosen = hook.select not in ("uniform", "collateral")
    if hook.source is not None and hook.source.streaming and is_chosen:
        raise ValueError(
            f"source: select: {hook.select} looks at all rows at once; remove streaming"
        )
