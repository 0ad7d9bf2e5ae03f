"""The table of the public benchmark: what stands in it is what the reports say."""

import json

import pytest

from benchmarks.e2e import RESULTS, TABLE, collect, render, run_project, seeds, verdicts, winner_of
from serving.errors import StillhouseError


def score(value, signature="nrefs:5|case:lc"):
    return {"score": value, "low": value - 1, "high": value + 1, "signature": signature}


def row(name, bleu, slots, **more):
    return {
        "name": name,
        "engine": "transformers",
        "scheme": None,
        "parameters": 370_000,
        "bleu": score(bleu),
        "slot_error_rate": {"score": slots, "low": 0.0, "high": 0.1, "signature": "slots|ours"},
        "latency_p50_ms": 12.4,
        "latency_p95_ms": 30.6,
        "peak_memory_mb": 401.2,
        "disk_mb": 1.51,
        "requests_per_s": 33.33,
        "cost_per_1k_requests_usd": 0.00123,
        "noisy": False,
        **more,
    }


FOUND = {
    "from_project": False,
    "leaked_references": 0.54,
    "data": {"name": "csv", "sha256": "ab", "prompts": 630},
    "machine": {"processor": "a processor", "threads": 1, "hourly_price_usd": 0.1},
    "seeds": {"student": ["student", "student_2"], "control": ["control"]},
    "winner": "ct2",
    "ladder": {
        "bleu": score(-0.5),
        "slot_error_rate": {"score": -0.08, "low": -0.1, "high": -0.06},
        "of_the_teacher": {"score": 1.03, "low": 1.01, "high": 1.05},
        "verdict": "inconclusive",
    },
    "rows": [
        row("baseline", 79.6, 0.018),
        row("teacher", 65.0, 0.02, parameters=1_480_000),
        row("student", 66.0, 0.003),
        row("student_2", 68.0, 0.005),
        row("control", 67.5, 0.1, noisy=True),
        row("ct2", 66.0, 0.003, engine="ctranslate2", scheme="float32"),
    ],
    "published": [
        {"name": "Large", "parameters": 37_000_000, "bleu": 70.0, "source": "A 2020"},
        {"name": "Old", "bleu": 65.9, "source": "B 2019"},
    ],
}


def test_a_row_says_who_how_good_how_large_and_how_fast():
    lines = render(FOUND).splitlines()
    assert (
        "| **`ct2`**, the winner (ctranslate2, float32) | 370,000 | 66.0 [65.0, 67.0] "
        "| 0.3 [0.0, 10.0] % | 1.5 | 401 | 12, 31 ms | 33.3 | 0.00123 |"
    ) in lines
    assert any(line.startswith("| `control`") and "31 ms, noisy" in line for line in lines)
    assert "| Large | 37,000,000 | 70.0 | – | 148 | – | – | – | – |" in lines
    assert "| Old | – | 65.9 | – | – | – | – | – | – |" in lines
    assert "nrefs:5|case:lc" in render(FOUND) and "630 prompts" in render(FOUND)
    assert "Written by `E2E_DIR=" in render(FOUND)
    assert "by `python -m benchmarks.e2e --project" in render({**FOUND, "from_project": True})


def test_the_verdicts_are_of_the_mean_of_the_seeds_and_say_where_it_loses():
    said = verdicts(FOUND)
    assert "67.0 BLEU in the mean of 2 seeds: 103.0 [101.0, 105.0] % of its teacher's" in said[0]
    assert "with 25% of the parameters" in said[0]
    assert "-0.5 [-1.5, 0.5] BLEU and -8.0 [-10.0, -6.0] points of slot errors" in said[1]
    assert said[1].endswith("inconclusive.")
    assert "To Large (70.0, with 100 times the parameters) the student's mean is -3.0" in said[2]
    assert "To Old (65.9) the student's mean is +1.1 BLEU." in said[3]
    assert "79.6 is leakage: 54%" in said[4]
    assert said[5].startswith("`noisy`")


def test_seeds_are_candidates_that_differ_by_a_number():
    names = ["baseline", "student", "student_2", "student_int8", "control", "control_3", "ct2"]
    assert seeds(names) == {
        "student": ["student", "student_2"],
        "control": ["control", "control_3"],
    }


@pytest.mark.parametrize(
    ("decision", "winner"),
    [
        ({"winners": {"cpu": {"candidate": "ct2"}}}, "ct2"),
        ({"winners": {"cpu": None}}, None),
    ],
)
def test_the_winner_is_that_of_the_cpu(decision, winner):
    assert winner_of(decision) == winner


def test_without_the_data_it_says_where_it_is(tmp_path):
    with pytest.raises(StillhouseError, match=r"E2E_DIR.*trainset\.csv.*e2e-dataset"):
        run_project(tmp_path)


def test_a_project_that_has_not_run_is_one_clear_error(tmp_path):
    with pytest.raises(StillhouseError, match=r"params\.yaml"):
        collect(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    with pytest.raises(StillhouseError, match=r"has other data: expected E2E's test split"):
        collect(tmp_path)


def test_the_committed_table_is_made_of_the_committed_figures():
    assert TABLE.read_text(encoding="utf-8") == render(json.loads(RESULTS.read_text()))
