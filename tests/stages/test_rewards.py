from pathlib import Path
from typing import Any

import pytest

from cpt.errors import CptError, RecipeError
from stages.rewards import check_reward, load_reward, reward_content

CHAT = [{"role": "assistant", "content": " 42. "}]


def value(name: str, *completions: Any, **columns: Any) -> list[float | None]:
    return list(load_reward(name, [])(prompts=[], completions=list(completions), **columns))


def test_exact_match_ignores_blanks_and_a_final_full_stop() -> None:
    answers = ["42", "42", "42.", "4.2", 42]
    given = ["42", " 42.\n", "42", "42", CHAT]
    assert value("exact_match", *given, answer=answers) == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("6 times 7 is 42", 42, 1),
        ("It is 42.", "42", 1),
        ("1,234.50", 1234.5, 1),
        ("1,2,", 12, 1),
        ("first 42, then 7", 42, 0),
        ("-3", 3, 0),
        ("no number", 42, 0),
        ("no number", "none", 0),
    ],
)
def test_number_match_takes_the_last_number(text: str, answer: Any, expected: int) -> None:
    assert value("number_match", text, answer=[answer]) == [expected]


def test_brevity_halves_at_16_tokens() -> None:
    ids: list[list[int]] = [[], [0] * 16, [0] * 48]
    assert value("brevity", "", "", "", completion_ids=ids) == [1, 0.5, 0.25]


BAD = """
import math
from functools import partial

def good(completions, **_): return [len(text) for text in completions]
def none(completions, **_): return [None for _ in completions]
def raises(completions, **_): raise KeyError("answer")
def nan(completions, **_): return [0.0, math.nan]
def infinite(completions, **_): return [0.0, math.inf]
def words(completions, **_): return ["a", "b"]
def short(completions, **_): return [1.0]
def nothing(completions, **_): pass
wants = lambda completions, answer, **_: [0.0, 0.0]
part = partial(good, extra=1)
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "my_rewards.py").write_text(BAD)
    return tmp_path


def own(folder: Path, name: str) -> list[float | None]:
    reward = load_reward(f"my_rewards:{name}", [folder])
    return list(reward(prompts=["p", "q"], completions=["one", "three"], completion_ids=[[1], [2]]))


def test_a_persons_own_function_beside_the_recipe(folder: Path) -> None:
    assert own(folder, "good") == [3.0, 5.0]
    assert own(folder, "part") == [3.0, 5.0]
    assert own(folder, "none") == [None, None]
    assert load_reward("my_rewards:good", [folder]).__name__ == "good"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("raises", ["raised KeyError: 'answer'", "'one'"]),
        ("nan", ["gave nan", "'three'"]),
        ("infinite", ["gave inf", "'three'"]),
        ("words", ["gave 'a'", "'one'"]),
        ("short", ["gave 1 values for 2 completions", "'one'"]),
        ("nothing", ["raised TypeError", "'one'"]),
        ("wants", ["raised TypeError", "'answer'", "'one'"]),
    ],
)
def test_a_bad_reward_stops_with_the_sample(folder: Path, name: str, parts: list[str]) -> None:
    with pytest.raises(CptError) as failed:
        own(folder, name)
    for part in [f"reward my_rewards:{name} ", *parts]:
        assert part in str(failed.value)


def test_two_recipes_may_have_modules_of_one_name(folder: Path) -> None:
    assert own(folder, "good") == [3.0, 5.0]
    (folder / "other").mkdir()
    (folder / "other" / "my_rewards.py").write_text("def good(completions, **_): return [0, 0]")
    assert own(folder / "other", "good") == [0.0, 0.0]
    assert own(folder, "good") == [3.0, 5.0]


def test_a_module_in_a_package_beside_the_recipe(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "scores.py").write_text("def one(completions, **_): return [1]")
    check_reward("own_package.scores:one", str(folder / "grpo.yaml"))
    assert load_reward("own_package.scores:one", [folder])(completions=["x"]) == [1.0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exact_mach", "no reward 'exact_mach'; did you mean 'exact_match'?"),
        (
            "my_reward:good",
            "'my_reward:good': no module 'my_reward' beside the recipe, and no installed package offers",
        ),
        ("my_rewards:goood", "has no 'goood'; did you mean 'good'?"),
        ("my_rewards:", "has no ''"),
        ("math:sqrt", "no module 'math'"),
        ("os:system", "put os.py beside the recipe"),
        ("subprocess:run", "the entry-point group cpt.rewards"),
        ("/etc/evil:run", "no module '/etc/evil'"),
        ("..other.evil:run", "no module '..other.evil'"),
    ],
)
def test_planning_refuses_what_is_not_there(folder: Path, name: str, reason: str) -> None:
    where = str(folder / "grpo.yaml")
    with pytest.raises(RecipeError) as failed:
        check_reward(name, f"{where} with stages.grpo.data=./a/b.jsonl")
    assert str(failed.value).startswith(f"{where} with ")
    assert reason in str(failed.value)


def test_a_module_that_an_installed_package_offers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "exams.py").write_text("def one(completions, **_): return [1 for _ in completions]")
    (package / "other.py").write_text("def one(**_): ...")
    info = package.parent / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cpt.rewards]\nexams = my_package.exams\n")
    monkeypatch.syspath_prepend(str(package.parent))
    where = str(folder / "grpo.yaml")
    check_reward("my_package.exams:one", where)
    assert load_reward("my_package.exams:one", [folder])(completions=["x"]) == [1.0]
    with pytest.raises(RecipeError, match=r"my_package\.other.*packages offer my_package\.exams"):
        check_reward("my_package.other:one", where)


def test_planning_reads_the_module_and_does_not_run_it(folder: Path) -> None:
    (folder / "loud.py").write_text("raise SystemExit('ran')\ndef good(**_): ...\n")
    check_reward("loud:good", str(folder / "grpo.yaml"))
    (folder / "broken.py").write_text("def good(:\n")
    with pytest.raises(RecipeError, match=r"broken\.py: is not Python"):
        check_reward("broken:good", str(folder / "grpo.yaml"))


def test_what_is_no_function_is_refused(folder: Path) -> None:
    for name in ("number", "missing"):
        with pytest.raises(RecipeError, match=f"no function {name!r}"):
            load_reward(f"my_rewards:{name}", [folder])


def test_the_content_is_the_name_and_the_code(folder: Path) -> None:
    where = str(folder / "grpo.yaml")
    assert reward_content("exact_match", where) == "exact_match"
    before = reward_content("my_rewards:good", where)
    assert before == reward_content("my_rewards:good", f"{where} with seed=1")
    (folder / "my_rewards.py").write_text(BAD + "\n# more\n")
    assert reward_content("my_rewards:good", where) != before
