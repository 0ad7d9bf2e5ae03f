"""The stage `report`: everything told where it is there, absent with a reason where it is not."""

import re
from html.parser import HTMLParser

import pytest
from huggingface_hub import ModelCard
from report_cases import ATTACK, project, run

from stages import _io
from stages.report import INPUTS

VOID = {"meta", "br", "link"}


class Checked(HTMLParser):
    """Notes tags that are not closed in order, and what is shown."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.seen, self.shown = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.shown += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Metrics, page and card of a project with every report."""
    root = project(tmp_path_factory.mktemp("report"))
    return root, *run(root)


def test_every_part_is_told(made):
    _, metrics, page, _ = made
    assert metrics["absent"] == 0
    assert metrics["parts"] == 13
    assert "Not told" not in page
    assert "ct2 is the model to ship" in page


def test_the_page_is_whole_html_and_texts_never_run(made):
    page = Checked(made[2])
    assert (page.open, page.wrong) == ([], [])
    assert ATTACK in page.shown
    assert "script" not in page.seen
    assert "default-src &#39;none&#39;" in made[2]


def test_nothing_is_loaded_from_elsewhere(made):
    loaded = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)|url\(|@import", made[2])
    assert all(one.startswith(("#", "data:")) for one in loaded)
    assert "https:" not in made[2]


def test_wide_tables_scroll_by_themselves(made):
    body = made[2].partition("<footer")[0]
    assert body.count("<table>") == len(re.findall(r'class="wide"[^>]*><table>', body)) >= 6


def test_the_same_reports_give_the_same_bytes(made, tmp_path):
    again = run(project(tmp_path))
    paths = [re.sub(r"<td>[^<]*/reports", "<td>reports", text) for text in (made[2], again[1])]
    parts = [re.sub(r"<footer.*", "", text, flags=re.S) for text in paths]
    assert parts[0] == parts[1]
    assert made[3] == again[2]


def test_no_report_at_all_is_a_page_that_says_so(tmp_path):
    metrics, page, card = run(tmp_path)
    assert metrics["parts"] == 1  # the pipeline, each of its stages without a report
    assert "No winner yet" in page
    assert page.count("Not told") == metrics["absent"] - 1  # the headline has words of its own
    assert "There is no model to tell of" in card
    tables = sorted(path.name for path in (tmp_path / "reports/report").glob("*.csv"))
    assert tables == ["batching.csv", "loss_budget.csv", "pareto.csv"]


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (("counts", "baseline", "label", "detectors", "load", "quantize"), {"load", "detectors"}),
        (
            ("teacher", "ladder", "route", "release", "drift"),
            {"ladder", "losses", "cascade", "drift"},
        ),
        (("benchmark",), {"batching"}),
        (("decision",), {"headline", "examples", "decision"}),
        (("evaluate",), {"headline", "quality", "examples", "batching"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_report_may_be_missing_and_the_other_parts_are_told(names, absent, tmp_path, capsys):
    root = project(tmp_path)
    for name in names:
        path = root / INPUTS[name]
        path.rename(path.with_name(f"{path.name}.gone"))
    page = run(root)[1]
    told = re.findall(r"^(\w+): not told: ", capsys.readouterr().out, re.M)
    assert set(told) == absent
    assert all(INPUTS[name].name in page for name in names)  # which file it was


def test_a_broken_report_is_absent_with_the_reason(tmp_path):
    root = project(tmp_path)
    (root / INPUTS["ladder"]).write_text("{")
    _, page, _ = run(root)
    assert re.search(r"Not told: [^<]*ladder.json is not JSON", page)


def test_broken_answers_are_absent_and_the_other_parts_are_told(tmp_path):
    root = project(tmp_path)
    (root / "reports/evaluate/ct2.jsonl").write_text("{\n")
    metrics, page, _ = run(root)
    assert metrics["absent"] == 1
    assert re.search(r"Not told: [^<]*ct2.jsonl, line 1, is not JSON", page)


def test_a_winner_whose_evaluation_is_broken_is_told_as_such(tmp_path):
    root = project(tmp_path)
    (root / "reports/evaluate/ct2.json").write_text("{")
    _, page, card = run(root)
    assert re.search(r"No winner yet</h1>\s*<p[^>]*>[^<]*ct2.json is not JSON", page)
    assert "There is no model to tell of" in card


@pytest.mark.parametrize(("planted", "limits"), [(True, 0), (False, 1)])
def test_drift_that_was_planted_is_no_limit_of_the_model(planted, limits, tmp_path):
    root = project(tmp_path)
    drift = _io.read_json(root / INPUTS["drift"]) | {"verdict": "drift"}
    drift["rests_on"]["window"]["planted"] = planted
    _io.write_json(root / INPUTS["drift"], drift)
    assert run(root)[2].count("The last window of traffic differed") == limits


def test_without_a_schema_claims_are_marked_that_the_prompt_does_not_support(tmp_path):
    root = project(tmp_path)
    _io.write_json(root / INPUTS["slots"], None)
    lines = _io.read_jsonl(root / "reports/evaluate/ct2.jsonl")
    for line in lines:
        del line["slots"], line["slot_findings"]
    lines[7] |= {"unsupported": [{"kind": "name", "found": "serves"}]}
    _io.write_jsonl(root / "reports/evaluate/ct2.jsonl", lines)
    page = run(root)[1]
    assert '<mark class="unsupported" title="not in the prompt">serves</mark>' in page
    assert "The data has no slot schema" in page


def test_the_number_of_examples_is_bounded(made):
    _, metrics, page, _ = made
    assert metrics["examples"] == 5
    assert page.count('<article class="card example">') == 5


def test_tables_for_dvc_hold_what_the_page_draws(made):
    folder = made[0] / "reports/report"
    points = (folder / "pareto.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in points[1:]] == [
        "baseline",
        "teacher",
        "student",
        "control",
        "ct2",
    ]
    hops = (folder / "loss_budget.csv").read_text().splitlines()
    assert hops[1].startswith("teacher to student,3,-1,8,1,0.2,2")
    assert (folder / "batching.csv").read_text().splitlines()[1] == "1,200,200,200,200"


def test_the_card_can_be_read_by_the_hub_s_library(made):
    card = ModelCard(made[3])
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.datasets is None  # the built-in data are not on the hub
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    told = _io.read_json(made[0] / "reports/evaluate/ct2.json")
    assert results["slot_error_rate"] == pytest.approx(told["slot_error_rate"]["score"], abs=1e-4)
    assert "That distilling beats plain training is not shown" in card.text
    assert "The machine was busy while it measured student" in card.text


def test_a_licence_that_nobody_named_is_unknown_and_said_at_the_head(tmp_path):
    pretrained = {"model": "someone/model", "revision": "a" * 40}
    teacher = {"source": "pretrained", "pretrained": pretrained}
    card = ModelCard(run(project(tmp_path), teacher=teacher)[2])
    assert card.data.license == "unknown"
    assert card.data.base_model == "someone/model"
    assert "**The licence of the teacher is unknown" in card.text
    assert card.text.index("licence of the teacher is unknown") < card.text.index("## Data")


def test_a_student_s_own_start_is_its_base_and_counts_for_its_licence(tmp_path):
    base = {"model": "someone/small", "revision": "b" * 40}
    recipes = {"student": {"init": "pretrained"}, "control": {"method": "sft"}}
    distill = {"pretrained": base, "recipes": recipes}
    card = ModelCard(run(project(tmp_path), distill=distill)[2])
    assert (card.data.base_model, card.data.license) == ("someone/small", "unknown")
    assert "teacher, data and the model it starts from" in card.text
    local = {"distill": distill | {"pretrained": {"model": "/here/small", "tuning": "full"}}}
    text = run(tmp_path / "project", **local)[2]
    assert ModelCard(text).data.base_model is None
    assert "/here" not in text


def test_licences_that_params_name_are_taken_over(tmp_path):
    given = {"licence": "cc-by-sa-4.0", "teacher_licence": "mit", "data_licence": "cc-by-sa-4.0"}
    card = ModelCard(run(project(tmp_path), report=given)[2])
    assert card.data.license == "cc-by-sa-4.0"
    assert "unknown" not in card.text.partition("## Evaluation")[0]
    assert "Licence: **mit** (report.teacher_licence)" in card.text
