"""Duplicates and leaks: the card's fixture, row by row, and what is no duplicate."""

import random
from typing import Any

from cpt.replay.hygiene import Duplicates, ProbeItems, _bands, texts_of, words

WORDS = [f"word{n}" for n in range(400)]


def sentence(seed: object, number: int = 60) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=number))


def with_changes(text: str, places: list[int]) -> str:
    changed = text.split()
    for place in places:
        changed[place] = "other"
    return " ".join(changed)


def fixture() -> tuple[list[dict[str, Any]], list[str]]:
    """20 rows of which 10 come again, 3 almost, and 2 that hold a probe's item; and the probe's items."""
    rows = [{"id": n, "text": sentence(n)} for n in range(20)]
    # Case, spaces and punctuation are no difference.
    rows += [{"id": 100 + n, "text": sentence(n).upper().replace(" ", " , ")} for n in range(10)]
    # 60 words have 56 shingles of 5; a change at the end touches one of them: 55 / 57 = 0.96.
    rows += [{"id": 200 + n, "text": with_changes(sentence(10 + n), [59])} for n in range(3)]
    items = ["What is the colour of the sea?", sentence("probe", 30)]
    rows.append(
        {"id": 300, "text": f"{sentence('a')} {' '.join(items[1].split()[5:18])} and so on"}
    )
    rows.append(
        {
            "id": 301,
            "messages": [
                {"role": "user", "content": "what is the colour of the SEA"},
                {"role": "assistant", "content": "blue"},
            ],
        }
    )
    return rows, items


def test_the_cards_fixture() -> None:
    rows, items = fixture()
    duplicates, probes = Duplicates(near=True), ProbeItems(items)
    found: dict[str | None, list[int]] = {}
    for row in rows:
        kind = "probe" if probes.are_in(row) else duplicates.kind_of(row)
        found.setdefault(kind, []).append(row["id"])
    assert found == {
        None: list(range(20)),
        "exact": list(range(100, 110)),
        "near": [200, 201, 202],
        "probe": [300, 301],
    }


def test_near_duplicates_are_kept_where_only_exact_ones_are_looked_for() -> None:
    rows, _ = fixture()
    duplicates = Duplicates(near=False)
    assert [duplicates.kind_of(row) for row in rows].count("exact") == 10
    assert duplicates._near is None


def test_candidates_are_verified() -> None:
    """A pair at 0.83 is a duplicate and one at 0.75 is none, however their hashes fall."""
    text = sentence("long", 100)  # 96 shingles
    # Two changes apart touch 10 shingles: 86 / 106 = 0.81; three touch 15: 81 / 111 = 0.73.
    assert Duplicates(near=True).kind_of({"text": text}) is None
    found = {0: 0, 1: 0}
    for seed in range(40):
        base = sentence(seed, 100)
        for number, places in enumerate(([20], [20, 50, 80])):  # 91 / 101 = 0.90; 81 / 111 = 0.73
            duplicates = Duplicates(near=True)
            duplicates.kind_of({"text": base})
            found[number] += duplicates.kind_of({"text": with_changes(base, places)}) == "near"
    assert found == {0: 40, 1: 0}


def test_shared_hashes_are_as_likely_as_the_similarity() -> None:
    """The least hash of two sets agrees with the probability of their Jaccard index."""
    import numpy as np

    draw = np.random.default_rng(0)
    agree = 0
    for _ in range(40):
        both = draw.integers(0, 1 << 63, 150).astype(np.uint64)
        one, other = both[:100], both[50:]  # 50 of 150 in both
        first = np.frombuffer(b"".join(_bands(one)), dtype=np.uint64)
        second = np.frombuffer(b"".join(_bands(other)), dtype=np.uint64)
        agree += int((first == second).sum())
    assert abs(agree / (40 * 128) - 1 / 3) < 0.03


def test_pairs_that_differ_in_the_answer_are_no_duplicates() -> None:
    duplicates = Duplicates(near=False)
    pair = {"prompt": "Name a town", "chosen": "Rome", "rejected": "a cat"}
    assert duplicates.kind_of(pair) is None
    assert duplicates.kind_of({**pair, "rejected": "a dog"}) is None
    assert duplicates.kind_of({**pair, "source": "elsewhere"}) == "exact"


def test_words_do_not_run_from_one_turn_into_the_next() -> None:
    one = {"prompt": "a b", "completion": "c"}
    other = {"prompt": "a", "completion": "b c"}
    duplicates = Duplicates(near=False)
    assert duplicates.kind_of(one) is None
    assert duplicates.kind_of(other) is None


def test_an_item_is_found_by_13_words_in_a_row_and_not_by_12() -> None:
    item = sentence("item", 30).split()
    probes = ProbeItems([" ".join(item)])
    assert probes.are_in({"text": f"Before {' '.join(item[3:16])} behind"})
    assert not probes.are_in({"text": f"Before {' '.join(item[3:15])} behind"})


def test_short_items_are_found_whole_and_answers_not_at_all() -> None:
    probes = ProbeItems(["yes", "What is the capital of France?"])
    assert len(probes) == 1
    assert probes.are_in({"prompt": [{"role": "user", "content": "What is the capital of France"}]})
    assert not probes.are_in({"text": "They asked: What is the capital of France? He knew."})
    assert not probes.are_in({"prompt": "Is it?", "completion": "yes"})


def test_texts_of_every_format() -> None:
    assert texts_of({"text": "a", "url": "b"}) == ["a"]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]
    assert texts_of({"messages": turns}) == ["q", ""]
    assert texts_of({"prompt": "p", "chosen": "c", "rejected": "r"}) == ["p", "c", "r"]
    assert words("\ufb01ne-Tuned  IT'S") == ["fine", "tuned", "it", "s"]
