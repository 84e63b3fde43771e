"""Whether checkpoints can be merged, from their headers and configurations: before a weight is read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cpt.errors import EdgeError, PlanError
from cpt.merging.shards import FLOATS, INTEGERS, TYPES, Checkpoint, Entry

#: What of a configuration says nothing about what its weights mean.
SAYS_NOTHING = {
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
}
#: The output rows; where a model ties them to its embeddings, some checkpoints hold them twice.
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Models:
    """What is merged: the models in order, and for methods on task vectors what they are measured from
    and added to."""

    models: tuple[Checkpoint, ...]
    base: Checkpoint | None = None
    onto: Checkpoint | None = None

    @property
    def all(self) -> tuple[Checkpoint, ...]:
        """Each of them."""
        return (*self.models, *(one for one in (self.base, self.onto) if one is not None))


@dataclass(frozen=True)
class Layout:
    """What the result consists of.

    Attributes:
        entries: tensor name -> number type and shape.
        main: whose number types, configuration and tokenizer the result has, and its rows beyond the common.
        rows: tensor name -> how many first rows all models have, where they differ in that.
        notes: what to tell.
    """

    entries: Mapping[str, Entry]
    main: Checkpoint
    rows: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def merged(self) -> list[str]:
        """Names of the tensors that are merged; the others hold integers, and are copied."""
        return [name for name, entry in self.entries.items() if entry.dtype in FLOATS]


def layout(given: Models) -> Layout:
    """What the merge of checkpoints consists of.

    Raises:
        EdgeError: they are quantised, of other architectures, or differ in tensors, shapes or types;
        or in the
            number of embeddings where no change is put onto another base.
    """
    for one in given.all:
        _check_types(one)
    first, *others = given.all
    for other in others:
        _check_config(first, other)
        _check_names(first, other)
    main = _main(given)
    names = _names(main)
    rows = {name: found for name in names if (found := _common_rows(name, given)) is not None}
    notes = [_told(main, rows)] if rows else []
    return Layout({name: main.entries[name] for name in names}, main, rows, tuple(notes))


def check_lineage(lines: Mapping[str, Sequence[str]], base: str | None, where: str) -> None:
    """Refuse models that come from nowhere in common, or not from the base of their task vectors.

    Args:
        lines: model -> ids of its ancestors and itself.
        base: id of what task vectors are measured from, if there is one.
        where: for errors.

    Raises:
        PlanError: says which, and how to merge them all the same.
    """
    names = list(lines)
    anyway = "or write merge: {unrelated: true} to merge them all the same"
    common = set.intersection(*(set(line) for line in lines.values()))
    if not common:
        raise PlanError(
            f"{where}: from: {' and '.join(names)} have no ancestor in common, and weights of unrelated "
            f"models do not average to a model; name stages of one chain, {anyway}"
        )
    odd = [name for name, line in lines.items() if base is not None and base not in line]
    if odd:
        raise PlanError(
            f"{where}: merge.base: {base} is no ancestor of {odd[0]}, so their difference is not what "
            f"{odd[0]} learned; name one of {', '.join(sorted(common))}, {anyway}"
        )


def _check_types(one: Checkpoint) -> None:
    odd = next((name for name, entry in one.entries.items() if entry.dtype not in TYPES), None)
    packed = {"quantization_config", "compression_config"} & one.config.keys()
    if odd or packed:
        found = f"its {odd} is {one.entries[odd].dtype}" if odd else f"its config has {min(packed)}"
        raise EdgeError(
            f"{one.label}: is quantised ({found}), and codes do not average; merge what it was made from, or "
            f"save it in bfloat16 first (model.dequantize())"
        )


def _check_config(one: Checkpoint, other: Checkpoint) -> None:
    here, there = _plain(one.config), _plain(other.config)
    odd = sorted(key for key in here | there if here.get(key) != there.get(key))
    if odd:
        key = odd[0]
        raise EdgeError(
            f"{one.label} and {other.label}: are other architectures: {key} is {here.get(key)!r} and "
            f"{there.get(key)!r} in their config.json; merge models of one architecture"
        )


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    found = {key: value for key, value in config.items() if key not in SAYS_NOTHING}
    text = config.get("text_config")
    return found | {"text_config": _plain(text)} if isinstance(text, dict) else found


def _names(one: Checkpoint) -> list[str]:
    """Names of its tensors, tied output rows left out: loading a model makes them from the embeddings."""
    tied = one.config.get("tie_word_embeddings") is True
    return [name for name in one.entries if not (tied and f".{name}".endswith(f".{HEAD}"))]


def _check_names(one: Checkpoint, other: Checkpoint) -> None:
    here, there = _names(one), _names(other)
    if odd := sorted({*here} ^ {*there}):
        owner, lacks = (one, other) if odd[0] in here else (other, one)
        raise EdgeError(
            f"{one.label} and {other.label}: differ in {len(odd)} tensors: {owner.label} has {odd[0]!r} and "
            f"{lacks.label} has none; merge models of one architecture"
        )
    for name in here:
        mine, theirs = one.entries[name], other.entries[name]
        if (mine.dtype in INTEGERS) != (theirs.dtype in INTEGERS):
            raise EdgeError(
                f"{one.label} and {other.label}: {name} is {mine.dtype} and {theirs.dtype}; save both in one "
                f"number type"
            )


def _main(given: Models) -> Checkpoint:
    """The first model; where vocabularies differ in number whoever has most rows, `onto` before others."""
    if len({one.num_rows for one in given.all}) == 1:
        return given.models[0]
    candidates = [*([given.onto] if given.onto else []), *given.models]
    return max(candidates, key=lambda one: one.num_rows)  # the first of several


def _common_rows(name: str, given: Models) -> int | None:
    """How many first rows of a tensor all have, where they differ in that alone; None where they do not.

    Raises:
        EdgeError: they differ in shape otherwise, or there is nowhere that new rows would come from.
    """
    shapes = {one.label: one.entries[name].shape for one in given.all}
    if len(set(shapes.values())) == 1:
        return None
    (label, shape), (other, there) = _two_shapes(shapes)
    is_vocabulary = all(
        s and s[0] == one.num_rows for one in given.all for s in [shapes[one.label]]
    )
    if not is_vocabulary or len({shape[1:] for shape in shapes.values()}) > 1:
        raise EdgeError(
            f"{label} and {other}: {name} has shape {list(shape)} and {list(there)}; merge models of one "
            f"architecture"
        )
    if given.onto is None:
        raise EdgeError(
            f"{label} and {other}: have {shape[0]} and {there[0]} embeddings, and a token that one of "
            f"them lacks has no average; add the tokens in the chain's model config, so that every stage "
            f"has them, or put what was learned onto the larger one (merge: {{method: task_arithmetic, "
            f"onto: ...}})"
        )
    return min(shape[0] for shape in shapes.values())


def _two_shapes(
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]]:
    first = next(iter(shapes.items()))
    return first, next(item for item in shapes.items() if item[1] != first[1])


def _told(main: Checkpoint, rows: Mapping[str, int]) -> str:
    common = min(rows.values())
    told = f"vocabulary: the first {common} rows of the embeddings were merged"
    more = f"rows {common} to {main.num_rows - 1} copied from {main.label}"
    return f"{told}, {more}" if main.num_rows > common else f"{told}; the base has more"


def copied_names(folder: Iterable[str]) -> list[str]:
    """Of the files in a checkpoint folder, those beside the weights that belong to the result."""
    kinds = (".json", ".jinja", ".model", ".txt", ".py")
    return sorted(
        name for name in folder if name.endswith(kinds) and not name.endswith(".index.json")
    )
