"""What is refused before a weight is read; nothing here imports torch."""

from collections.abc import Callable
from typing import Any

import pytest

from cpt.errors import EdgeError, PlanError
from cpt.merging.checks import Models, check_lineage, layout
from cpt.merging.shards import Checkpoint

ENTRIES: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.embed_tokens.weight": ("F32", (4, 2)),
    "model.layers.0.w": ("F32", (2, 2)),
    "lm_head.weight": ("F32", (4, 2)),
}


@pytest.fixture
def made(folders: Any) -> Callable[..., Checkpoint]:
    def make(name: str, change: dict[str, Any] | None = None, **config: Any) -> Checkpoint:
        entries = {k: v for k, v in {**ENTRIES, **(change or {})}.items() if v is not None}
        return Checkpoint(folders.header(name, entries, **config), name)

    return make


Made = Callable[..., Checkpoint]


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"lm_head.weight": None}, {}, "a and b: differ in 1 tensors: a has 'lm_head.weight'"),
        ({"bias": ("F32", (2,))}, {}, "differ in 1 tensors: b has 'bias' and a has none"),
        ({"model.layers.0.w": ("F32", (2, 3))}, {}, r"model.layers.0.w has shape \[2, 2\] and \["),
        ({"model.layers.0.w": ("I64", (2, 2))}, {}, "is F32 and I64; save both in one number type"),
        ({"model.layers.0.w": ("F8_E4M3", (2, 2))}, {}, "b: is quantised .*is F8_E4M3.*dequantize"),
        ({}, {"quantization_config": {"bits": 4}}, "b: is quantised .*quantization_config"),
        ({}, {"rope_theta": 5.0}, "other architectures: rope_theta is None and 5.0"),
        (
            {"model.embed_tokens.weight": ("F32", (5, 2)), "lm_head.weight": ("F32", (5, 2))},
            {"vocab_size": 5},
            "a and b: have 4 and 5 embeddings, .*add the tokens in the chain's model config",
        ),
    ],
)
def test_other_models_are_refused(
    made: Made, change: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgeError, match=message):
        layout(Models((made("a"), made("b", change, **config))))


def test_widths_of_floats_may_differ_and_the_first_counts(made: Made) -> None:
    narrow = {name: ("BF16", shape) for name, (_, shape) in ENTRIES.items()}
    shape = layout(Models((made("a", narrow, dtype="bfloat16"), made("b", dtype="float32"))))
    assert {entry.dtype for entry in shape.entries.values()} == {"BF16"}


def test_tied_output_rows_are_handled_once(made: Made) -> None:
    # Some checkpoints hold them twice, others once; DARE would drop other entries of each copy.
    one = made("a", tie_word_embeddings=True)
    other = made("b", {"lm_head.weight": None}, tie_word_embeddings=True)
    for models in ((one, other), (other, one), (one, one)):
        assert [*layout(Models(models)).entries] == [*ENTRIES][:2]
    with pytest.raises(EdgeError, match="tie_word_embeddings is True and None"):
        layout(Models((one, made("c"))))


def test_a_change_goes_onto_a_model_with_more_or_fewer_tokens(made: Made) -> None:
    more = {name: ("F32", (6, 2)) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    model, base = made("model"), made("base")
    larger = made("larger", more, vocab_size=6)
    shape = layout(Models((model,), base, larger))
    assert shape.main is larger
    assert shape.rows == dict.fromkeys(more, 4)
    assert shape.entries["lm_head.weight"].shape == (6, 2)
    assert "first 4 rows" in shape.notes[0]
    assert "rows 4 to 5 copied from larger" in shape.notes[0]
    shape = layout(Models((larger,), base, model))
    assert shape.main is larger
    assert "copied from larger" in shape.notes[0]
    odd = made("odd", {**more, "model.layers.0.w": ("F32", (6, 2))}, vocab_size=6)
    with pytest.raises(EdgeError, match=r"layers\.0\.w has shape"):
        layout(Models((model,), base, odd))


def test_models_must_come_from_somewhere_in_common() -> None:
    lines = {"a": ["base", "pretrain", "a"], "b": ["base", "b"]}
    check_lineage(lines, "base", "m.yaml")
    check_lineage(lines, None, "m.yaml")
    with pytest.raises(PlanError, match=r"m.yaml: merge.base: pretrain is no ancestor of b.*base"):
        check_lineage(lines, "pretrain", "m.yaml")
    with pytest.raises(
        PlanError, match=r"a and b and c have no ancestor in common.*unrelated: true"
    ):
        check_lineage({**lines, "c": ["other", "c"]} | {"b": ["base"]}, None, "m.yaml")
