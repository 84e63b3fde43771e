"""The items that two rows share, of scores that were measured alike; others are refused."""

from cpt.errors import ProbeError
from eval.matrix import Item, Row, Score, check_score
from eval.template import PART, is_declared


def paired_items(before: Row, after: Row, probe: str) -> tuple[list[Item], list[Item]]:
    """The items of a probe that both rows have, in the order of `before`.

    Raises:
        ProbeError: the probe was measured differently in the two rows, or they share no item.
    """
    old, new = before.scores[probe], after.scores[probe]
    for score in (old, new):
        check_score(score)
    _check_same(before, after, old, new)
    if [item.id for item in old.items] == [item.id for item in new.items]:
        return list(old.items), list(new.items)
    later = {item.id: item for item in new.items}
    shared = [item for item in old.items if item.id in later]
    if not shared:
        raise ProbeError(f"probe {old.probe}: {before.stage} and {after.stage} share no item")
    return shared, [later[item.id] for item in shared]


def _check_same(before: Row, after: Row, old: Score, new: Score) -> None:
    """Refuse scores that were measured differently, and name what differs where that is known.

    A part that one of them does not name, since it was measured before results kept it, is not compared.
    """
    both = [key for key in old.parts if key in new.parts]
    differing = [key for key in both if old.parts[key] != new.parts[key]]
    if PART in differing and is_declared(before, after, old, new):
        differing.remove(PART)
    if old.fingerprint == new.fingerprint and not differing:
        return
    if differing:
        what = "; ".join(_differs(key, old.parts[key], new.parts[key]) for key in differing)
        way_out = "probe both again" + (" with one --dtype" if "dtype" in differing else "")
        if differing == [PART]:
            way_out = (
                "a stage of a chain may declare another chat template (model: {chat_template: ...}), and "
                "cpt compare and cpt probe --against take --any-template"
            )
        raise ProbeError(
            f"probe {old.probe} was measured differently for {before.stage} and {after.stage} "
            f"({what}); {way_out}"
        )
    raise ProbeError(
        f"probe {old.probe} was measured differently for {before.stage} ({old.fingerprint}) "
        f"and {after.stage} ({new.fingerprint}): its task, data, shots or template changed; "
        f"probe both again"
    )


def _differs(key: str, old: str, new: str) -> str:
    """Such as `shots: 0, not 5`; without texts that are alike as far as they are shown."""
    lines = [" ".join(text.split()) for text in (old, new)]
    brief = [line if len(line) <= 40 else f"{line[:37]}..." for line in lines]
    return f"{key} differs" if brief[0] == brief[1] else f"{key}: {brief[0]}, not {brief[1]}"
