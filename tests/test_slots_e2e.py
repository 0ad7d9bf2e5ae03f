"""Restaurant texts: the E2E slot schema on made-up answers and, where it lies, on the data."""

import csv
import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from serving.slots import check_answer, parse_record
from tests.slot_schemas import E2E, errors
from tests.structure import ROOT

needs_e2e = pytest.mark.skipif(
    "E2E_DIR" not in os.environ, reason="E2E_DIR names no folder with the E2E data"
)

E2E_RECORD = parse_record(
    "name[The Eagle], eatType[coffee shop], food[Japanese], priceRange[less than £20], "
    "customer rating[low], area[riverside], familyFriendly[no], near[Burger King]"
)
E2E_BASE = "The Eagle, a coffee shop near Burger King on the riverside, serves Japanese food"
E2E_ANSWERS = [
    ("for less than £20. Rated low. It is not family-friendly.", []),
    ("for under 20 pounds. It has a 1 out of 5 customer rating. No kids allowed.", []),
    ("and is cheap, one star, for adults only.", []),
    ("at low prices, with poor reviews; kids are not welcome.", []),
    ("at low prices, with poor reviews; bring the kids.", ["wrong familyFriendly bring the kids"]),
    ("at low prices, with great reviews, adults only", ["wrong customer rating great reviews"]),
    ("at low prices, rated 4 out of 5, adults only", ["wrong customer rating 4 out of 5"]),
    ("at high prices, low rated, adults only", ["wrong priceRange high prices"]),
    ("at low prices, adults only", ["missing customer rating"]),
    ("and is cheap, low rated, adults only, in a restaurant 3 miles out", ["added number 3"]),
]


@pytest.mark.parametrize(("ending", "expected"), E2E_ANSWERS, ids=[a[0] for a in E2E_ANSWERS])
def test_restaurant_texts(ending: str, expected: list[str]) -> None:
    assert errors(check_answer(f"{E2E_BASE} {ending}", E2E_RECORD, E2E)) == expected


def test_a_check_is_fast_enough_to_run_online() -> None:
    answer = f"{E2E_BASE} for less than £20. Rated low. It is not family-friendly."
    check_answer(answer, E2E_RECORD, E2E)  # compiles
    began = time.perf_counter()

    for _ in range(200):
        check_answer(answer, E2E_RECORD, E2E)

    assert time.perf_counter() - began < 1.0  # some 0.05 s: the bar only catches a changed order


def development_set() -> list[tuple[dict[str, str], str, str]]:
    """Record, reference and id of every row of the E2E development set."""
    with (Path(os.environ["E2E_DIR"]) / "devset.csv").open(encoding="utf-8", newline="") as stream:
        return [
            (
                parse_record(row["mr"]),
                row["ref"],
                hashlib.sha256(f"{row['mr']}	{row['ref']}".encode()).hexdigest()[:16],
            )
            for row in csv.DictReader(stream)
        ]


def error_rate(pairs: list[tuple[dict[str, str], str]]) -> float:
    checks = [check_answer(text, record, E2E) for record, text in pairs]
    return sum(c.errors for c in checks) / sum(c.slots for c in checks)


@needs_e2e
def test_people_leave_some_slots_out_and_shuffled_records_show() -> None:
    rows = development_set()
    shuffled = [record for record, _, _ in rows]
    random.Random(5).shuffle(shuffled)

    assert len(rows) == 4_672
    assert 0.06 < error_rate([(record, text) for record, text, _ in rows]) < 0.09
    assert error_rate([(r, text) for r, (_, text, _) in zip(shuffled, rows, strict=True)]) > 0.8


@needs_e2e
def test_references_that_a_person_found_right_are_clean() -> None:
    listed = (ROOT / "tests/data/e2e_clean_ids.txt").read_text(encoding="utf-8").splitlines()
    ids = {line for line in listed if not line.startswith("#")}
    found = [(record, text) for record, text, key in development_set() if key in ids]

    assert len(ids) == len({text for _, text in found}) >= 200
    assert [text for record, text in found if check_answer(text, record, E2E).errors] == []


def test_the_longest_mention_wins() -> None:
    record = parse_record("name[The Mill], food[Indian], near[Raja Indian Cuisine]")
    check = check_answer("The Mill is near Raja Indian Cuisine.", record, E2E)

    assert errors(check) == ["missing food"]
