"""A comparison as JUnit XML: valid whatever a model wrote, and with the verdicts that CI acts on."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.beside.table import Table, compare_rows
from eval.junit import junit
from eval.matrix import read_row
from tests.probe_results import SUITE_HASH, flip, result, right, write

FACTS = right(0.5)
NASTY = "<script>&]]> \x00\x08\x1b[31m \ud800 \ufffe caf\xe9 \u202e"


def table(folder: Path, text: str = "text") -> Table:
    found = {
        "base": result({"facts": FACTS, "sums": FACTS, "lists": FACTS}),
        f"new {text}": result(
            {"facts": flip(FACTS, 60, 4), "sums": flip(FACTS, 20, 20), "lists": FACTS}
        ),
    }
    for one in found.values():
        for item in one["probes"]["facts"]["items"]:
            item["text"] = item["answer"] = text
    files = [write(folder / f"{n}.json", r) for n, r in enumerate(found.values())]
    rows = [read_row(n, n, f, SUITE_HASH) for n, f in zip(found, files, strict=True)]
    return compare_rows("small", SUITE_HASH, rows, "base", 0.02)


def test_one_test_case_a_probe_and_only_regressed_fails(tmp_path: Path) -> None:
    root = ElementTree.fromstring(junit(table(tmp_path), {"facts": 1.25, "sums": 2.0}, "cpt probe"))
    (suite,) = root
    for counts in (root, suite):
        told = {key: counts.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
        assert told == {
            "tests": "3",
            "failures": "1",
            "errors": "0",
            "skipped": "0",
            "time": "3.250",
        }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["facts", "sums", "lists"]
    (failure,) = suite.iter("failure")
    assert failure in list(cases["facts"])
    message = failure.get("message") or ""
    assert message.startswith("facts fell by 14.0 points (+-1.9), more than its margin of 2.0; p <")
    assert (failure.text or "").count("right before, wrong now: text") == 5
    assert (failure.text or "").endswith("and 55 more")
    assert (cases["sums"].findtext("system-out") or "").startswith("undecided: sums did not change")
    assert (cases["lists"].findtext("system-out") or "").startswith("held: lists did not change")
    assert cases["facts"].get("time") == "1.250"


def test_numbers_are_properties(tmp_path: Path) -> None:
    found = table(tmp_path)
    root = ElementTree.fromstring(junit(found, {}))
    case = next(root.iter("testcase"))
    told = {p.get("name"): p.get("value") or "" for p in case.iter("property")}
    change = found.columns[1].changes["facts"]
    assert told["verdict"] == "regressed"
    assert float(told["difference"]) == change.delta == pytest.approx(-0.14)
    assert (float(told["before"]), float(told["after"])) == (0.5, 0.36)
    assert float(told["p_holm"]) == change.p_holm
    assert int(told["num_items"]) == 400
    of_suite = {p.get("name"): p.get("value") for p in root[0][0]}
    assert of_suite["suite"] == f"small-{SUITE_HASH}"
    assert (of_suite["against"], of_suite["undecided"]) == ("base", "1")


def test_whatever_a_model_wrote_the_file_is_xml(tmp_path: Path) -> None:
    text = junit(table(tmp_path, NASTY), {})
    root = ElementTree.fromstring(text.encode())
    (failure,) = root.iter("failure")
    assert "<script>&]]>" in (failure.text or "")
    assert "caf\xe9" in (failure.text or "")
    assert not any(sign in text for sign in "\x00\x08\x1b\ufffe\u202e")
