"""Chat templates: where results in different ones are compared, and where they are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from cpt.errors import ProbeError
from cpt.manifest import Manifest
from eval.compare import changes
from eval.matrix import Item, Matrix, Row, Score
from eval.noise import noise_floor
from eval.template import PART, across, any_template, declared_by, declared_in, hashed, note

OLD, NEW, OTHER = (hashed(text) for text in ("old", "new", "other"))
DECLARED = frozenset({NEW})


def row(stage: str, template: str | None, templates: frozenset[str] = frozenset()) -> Row:
    items = tuple(Item(f"i{n}", float(n % 2), 1.0, "", "") for n in range(20))
    score = Score(
        probe="chats", metric="acc", group="instruction", higher_is_better=True, margin=0.1,
        value=0.5, stderr=0.1, items=items, fingerprint="f",
        parts={"dtype": "float32"} | ({PART: template} if template else {}),
    )  # fmt: skip
    return Row(stage, stage, {"chats": score}, templates)


def test_another_template_is_refused_unless_it_is_declared() -> None:
    with pytest.raises(ProbeError, match=rf"template: {OLD}, not {NEW}\).*model: .chat_template"):
        changes(row("base", OLD), row("sft", NEW), 0.1)
    pairs = [(OLD, NEW), (NEW, OLD), (NEW, NEW), (OLD, OLD)]
    for one, other in pairs:
        assert changes(row("a", one, DECLARED), row("b", other, DECLARED), 0.1)
    with pytest.raises(ProbeError, match="template"):  # not the one that is declared
        changes(row("base", OLD, DECLARED), row("sft", OTHER, DECLARED), 0.1)
    with pytest.raises(ProbeError, match="template"):  # of another chain, which declares none
        changes(row("sft", OLD), row("sft", NEW, DECLARED), 0.1)


def test_a_declared_template_excuses_nothing_else() -> None:
    later = row("sft", NEW, DECLARED)
    score = later.scores["chats"]
    later = replace(
        later, scores={"chats": replace(score, parts=score.parts | {"dtype": "bfloat16"})}
    )
    with pytest.raises(ProbeError, match=r"\(dtype: float32, not bfloat16\); probe both again"):
        changes(row("base", OLD, DECLARED), later, 0.1)


def test_results_of_before_templates_were_kept_are_compared_as_they_were() -> None:
    assert changes(row("base", None), row("sft", None), 0.1)
    assert changes(row("base", None), row("sft", NEW), 0.1)
    assert noise_floor(row("base", OLD), row("base again", OLD))["chats"].num_differing == 0


def test_a_chain_s_matrix_knows_what_its_stages_declare(tmp_path: Path) -> None:
    for name, template in (("base", None), ("sft", "new")):
        (tmp_path / name).mkdir()
        inputs = {"model": {"add_tokens": [], "chat_template": template}} if template else {}
        Manifest(id=name, kind="x", name=name, inputs=inputs).write(tmp_path / name)
    folders = [tmp_path / name for name in ("base", "sft", "to-come")]
    assert declared_in(folders) == DECLARED == declared_by([None, {"chat_template": "new"}])
    rows = (row("base", OLD), row("pretrain", OLD), row("sft", NEW), row("dpo", NEW))
    found = across(Matrix("s", "h", rows, ("chats",)), declared_in(folders)).rows
    assert changes(found[0], found[2], 0.1)
    assert note(found).startswith("sft, dpo: asked in another chat template than base;")
    assert note(found[:2]) == note([]) == note([row("a", None), row("b", NEW)]) == ""


def test_a_person_may_compare_whatever_the_templates_are() -> None:
    rows = any_template([row("a", OLD), row("b", NEW), row("c", None)])
    assert all(changes(rows[0], other, 0.1) for other in rows[1:])
