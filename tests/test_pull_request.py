"""The comment on a pull request: what it says, and that a stranger's facts cannot speak in it."""

import json
import subprocess
import sys

import pytest
from structure import ROOT

from serving.errors import StillhouseError
from stages._pull_request import MARKER, MAX_CHARACTERS, MAX_ROWS, code, number, read_facts, render

EVIL = [
    "`</code><script>alert(1)</script>",
    "a | b\n| c | d |\n\n# heading",
    "@everyone [click](https://example.com) ![x](https://example.com/x.png)",
    "\u202egnp.exe\u0000\ud800",
    "``` ~~~",
    "--> <!-- " + MARKER,
    "\\`\\|",
]


def facts(**changes):
    found = {
        "schema_version": 1,
        "commit": "c" * 40,
        "profile": "tiny",
        "winner": "ct2",
        "metrics": {"evaluate.ct2.bleu": 60.0, "evaluate.student.bleu": 61.0},
        "params": {"seed": 20, "teacher.training.steps": 60},
        "committed_params": {"seed": 20, "teacher.training.steps": 1300},
        "budgets": [budget("ct2", "latency_p95_ms", 12.5, 5000.0, "pass")],
        "stages": [{"stage": "prepare", "state": "cached", "seconds": 2.0}],
    }
    return found | changes


def budget(candidate, name, value, limit, verdict):
    found = {"candidate": candidate, "budget": name, "value": value}
    return found | {"limit": limit, "verdict": verdict}


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| `")]


def test_it_begins_with_the_line_by_which_it_is_found_again():
    assert render(facts(), None, "success").splitlines()[0] == MARKER


def test_metrics_that_differ_are_shown_with_their_change_and_the_winner_s_first():
    base = facts(metrics={"evaluate.ct2.bleu": 59.5, "evaluate.student.bleu": 62.0})
    text = render(facts(), base, "success")
    assert "**Metrics**: 2 of 2 changed" in text
    assert rows(text)[:2] == [
        "| `evaluate.ct2.bleu` | 59.5 | 60 | +0.5 |",
        "| `evaluate.student.bleu` | 62 | 61 | -1 |",
    ]


def test_params_show_the_committed_change_and_what_only_the_profile_has():
    changed = {"seed": 20, "teacher.training.steps": 1500}
    base = facts(params={"seed": 21, "teacher.training.steps": 60}, committed_params=changed)
    text = render(facts(), base, "success")
    assert "**Params**: 2 changed" in text
    assert "| `teacher.training.steps` | `1500` | `1300` |" in text
    assert "| `seed` (profile `tiny`) | `21` | `20` |" in text


def test_budgets_that_fail_stand_first():
    kept = budget("ct2", "bleu_ratio", 1.0, 0.95, "pass")
    missed = budget("student", "latency_p95_ms", 9000.0, 5000.0, "fail")
    text = render(facts(budgets=[kept, missed]), facts(budgets=[]), "success")
    assert "**Budgets**: 1 of 2 kept" in text
    assert rows(text)[0] == "| `student: latency_p95_ms` | 5,000 | – | 9,000 | **fail** |"


def test_stages_say_what_ran_and_what_the_cache_gave():
    ran = {"stage": "teacher", "state": "ran", "seconds": 15.0}
    head = facts(stages=[*facts()["stages"], ran])
    text = render(head, facts(), "success")
    assert "**Stages**: 1 of 2 ran" in text
    assert "| `prepare` | cached | 2 | 2 |" in text
    assert "| `teacher` | ran | – | 15 |" in text


def test_without_facts_the_outcome_alone_is_told():
    text = render(None, facts(), "failure", "https://example.com/run")
    assert "[pipeline-smoke](https://example.com/run): `failure`" in text
    assert "left no facts" in text


@pytest.mark.parametrize("evil", EVIL)
def test_a_stranger_s_text_stays_in_a_code_span(evil):
    head = facts(
        profile=evil,
        commit=evil,
        winner=evil,
        metrics={evil: 1.0},
        committed_params={evil: evil},
        params={evil: [evil]},
        budgets=[budget(evil, evil, 1.0, evil, evil)],
        stages=[{"stage": evil, "state": evil, "seconds": evil}],
    )
    text = render(head, facts(), "success")
    text.encode("utf-8")  # no lone surrogate
    assert [line for line in text.splitlines() if line.startswith("<!--")] == [MARKER]
    outside = "".join(part for n, part in enumerate(text.split("`")) if n % 2 == 0)
    for sign in ("script", "@everyone", "click", "# heading", "\u202e", "~~~", "-->\n<"):
        assert sign not in outside
    for row in rows(text):
        assert row.count("`") % 2 == 0
        assert row.count("|") in (4, 5, 6)  # two to five cells, none added


@pytest.mark.parametrize(
    "wrong",
    [{"metrics": [1]}, {"metrics": {"a": "b", "c": True, "d": float("nan"), "e": 10**400}}]
    + [{key: value} for key in ("params", "budgets", "stages") for value in (None, 3, "x", [[]])],
)
def test_fields_of_another_kind_are_left_out(wrong):
    for head, base in ((facts(), facts(**wrong)), (facts(**wrong), facts())):
        text = render(head, base, "success")
        assert "**Stages**" in text
        assert "nan" not in text


def test_a_long_report_is_cut_and_says_so():
    many = {f"m{n}": float(n) for n in range(1000)}
    text = render(facts(metrics=many), facts(metrics={}), "success")
    assert f"{1000 - MAX_ROWS} more are in the run's artefact" in text
    text = render(facts(profile="x" * 200_000), facts(), "y" * 200_000)
    assert len(text) <= MAX_CHARACTERS + 100


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "{", '{"schema_version": 2}', "[]", " " * 1_000_001],
    ids=["deep", "torn", "newer", "list", "large"],
)
def test_a_file_that_holds_no_facts_is_refused(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_text(content)
    with pytest.raises(StillhouseError):
        read_facts(path)


def test_what_cannot_be_read_is_told_in_the_comment(tmp_path):
    (tmp_path / "facts.json").write_text("no `facts`")
    command = [sys.executable, "-S", "-m", "stages._pull_request", "--head", "facts.json"]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    text = (tmp_path / "scratch/pull_request/comment.md").read_text()
    assert text.startswith(MARKER)
    assert "`facts.json is not JSON.`" in text


def test_a_code_span_is_never_empty_or_longer_than_its_cell():
    assert code("") == "–"
    assert code(" \n") == "–"
    assert code(json.loads("null")) == "`null`"
    assert len(code("x" * 500)) == 82


def test_figures_have_four_digits():
    assert [number(value) for value in (12345.6, 0.00012345, -0.0, None, True)] == [
        "1.235e+04",
        "0.0001234",
        "0",
        "–",
        "–",
    ]
