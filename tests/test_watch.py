"""`make watch`: a line per window, never two, never torn; what to do follows from all of them."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from retrain_cases import Project, asked, make_window, pub, write_drift
from window_cases import window_row, write_window

from serving.errors import StillhouseError
from stages import _io
from stages._params.watch import Watch
from stages._retraining.labels import count_labels
from stages._retraining.records import append_line, read_attempts, read_history, read_lines
from stages._windows.reading import summarise
from stages.watch import tell, watch

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
ONE = Watch(windows=1, alarms=1, min_gold=20)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def look(project, folder, verdict="drift", rules=ONE, now=NOW):
    write_drift(project.root, folder, verdict)
    return watch(project.root, folder.name, rules, 20, now)


def lines(project):
    return _io.read_jsonl(project.windows / "history.jsonl")


def test_a_window_in_drift_with_labels_asks_for_retraining(project):
    folder = project.window()
    outcome = look(project, folder)
    assert (outcome.kind, outcome.window) == ("retrain", folder.name)
    [line] = lines(project)
    assert (line["window"], line["verdict"], line["rows"]) == (folder.name, "drift", 60)
    assert line["kinds"] == {"input": "drift"}
    assert line["time"] == "2026-11-23T08:00:00+00:00"
    assert line["drift_sha256"] == _io.sha256_file(project.root / "reports/drift/drift.json")


def test_the_same_window_twice_is_one_line_and_the_first_verdict_stays(project, capsys):
    folder = project.window()
    look(project, folder)
    before = (project.windows / "history.jsonl").read_bytes()
    outcome = look(project, folder, "no_evidence", now=NOW + timedelta(days=1))
    assert (project.windows / "history.jsonl").read_bytes() == before
    assert outcome.kind == "retrain"
    assert "noted before" in capsys.readouterr().out


def test_alarms_are_counted_over_windows(project):
    rules = Watch(windows=3, alarms=2, min_gold=20)
    folders = [project.window(start=start) for start in (0, 100, 200)]
    kinds = [
        look(project, folder, said, rules).kind
        for folder, said in zip(folders, ("drift", "no_evidence", "drift"), strict=True)
    ]
    assert kinds == ["wait", "nothing", "retrain"]


def test_a_window_without_gold_has_no_new_labels_until_people_give_some(project):
    folder = project.window(gold=0)
    outcome = look(project, folder)
    assert outcome.kind == "no_new_labels"
    assert "0 new prompts with gold" in outcome.reason
    gold = [{"id": f"row-{n:06d}", "references": ["Right."]} for n in range(20)]
    _io.write_jsonl(folder / "gold.jsonl", gold)
    assert look(project, folder).kind == "retrain"


def test_a_window_without_texts_teaches_nothing(project):
    folder = make_window(project.windows, [window_row(n, prompt_chars=9) for n in range(60)])
    assert look(project, folder).kind == "no_new_labels"


def test_prompts_that_the_models_know_are_not_new(project):
    known = [row["prompt"] for row in _io.read_jsonl(project.root / "data/prepared/train.jsonl")]
    rows = [asked(n, prompt=prompt, slots=None) for n, prompt in enumerate(known)]
    rows += [asked(100), asked(101), asked(101, id="again")]
    rows += [asked(102), asked(103, prompt=None)]
    folder = make_window(project.windows, rows)
    prepared = project.root / "data/prepared"
    assert count_labels(folder, folder.name, prepared, 20).prompts == 3
    _io.write_jsonl(prepared / "windows.jsonl", [pub(100) | {"window": "earlier"}])
    assert count_labels(folder, folder.name, prepared, 20).prompts == 2
    _io.write_jsonl(prepared / "windows.jsonl", [pub(100) | {"window": folder.name}])
    assert count_labels(folder, folder.name, prepared, 20).prompts == 3


def test_a_report_of_another_window_is_refused(project):
    first, second = project.window(), project.window(start=100, rows=61)
    write_drift(project.root, first)
    with pytest.raises(StillhouseError, match="is of 60 rows until"):
        watch(project.root, second.name, ONE, 20, NOW)
    assert not (project.windows / "history.jsonl").exists()


def test_a_report_of_other_answers_at_the_same_times_is_refused(project):
    """The planted window is answered anew by every winner, and drift may not have looked yet."""
    folder = write_window(project.windows / "planted", [asked(n) for n in range(60)])
    before = summarise(folder)
    shutil.rmtree(folder)
    write_window(folder, [asked(n, answer="No.", confidence=0.5) for n in range(60)])
    write_drift(project.root, folder)
    path = project.root / "reports/drift/drift.json"
    _io.write_json(path, _io.read_json(path) | {"window": before})
    with pytest.raises(StillhouseError, match=r"other rows .* differ in missing, quantiles\. Run"):
        watch(project.root, "planted", ONE, 20, NOW)
    _io.write_json(path, _io.read_json(path) | {"window": summarise(folder)})
    assert watch(project.root, "planted", ONE, 20, NOW).kind == "no_new_labels"


def test_gold_counts_where_it_can_be_learned_from(project):
    train = _io.read_jsonl(project.root / "data/prepared/train.jsonl")[0]
    known = asked(0, prompt=train["prompt"], slots=None)
    rows = [known, asked(1, prompt=None), asked(2), asked(2, id="row-000003"), asked(4)]
    folder = make_window(project.windows, rows, gold=range(4))
    labels = count_labels(folder, folder.name, project.root / "data/prepared", 20)
    assert (labels.prompts, labels.gold) == (2, 1)


def test_a_file_without_any_gold_is_told_from_none(project):
    folder = project.window(gold=0)
    prepared = project.root / "data/prepared"
    assert count_labels(folder, folder.name, prepared, 20).gold_sha256 is None
    (folder / "gold.jsonl").touch()
    digest = count_labels(folder, folder.name, prepared, 20).gold_sha256
    assert digest == _io.sha256_file(folder / "gold.jsonl")


def test_a_verdict_that_nobody_knows_is_refused(project):
    folder = project.window()
    with pytest.raises(StillhouseError, match="has the verdict 'maybe'"):
        look(project, folder, "maybe")


def test_the_planted_window_is_named_by_its_content(project):
    folder = write_window(project.windows / "planted", [asked(n) for n in range(60)])
    outcome = look(project, folder, rules=Watch(windows=1, alarms=1, min_gold=0))
    content = _io.read_json(folder / "window.json")["content_sha256"]
    assert outcome.window == f"planted-{content[:10]}"
    assert outcome.kind == "retrain"


def test_a_torn_last_line_is_passed_over_and_goes_with_the_next(project):
    first, second = project.window(), project.window(start=100)
    look(project, first, "no_evidence")
    path = project.windows / "history.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"window": "half', b"\x00\x00\x00", b'{"window": "x"'):
        path.write_bytes(whole + torn)
        assert [one.window for one in read_history(project.windows)] == [first.name]
    look(project, second)
    assert [line["window"] for line in lines(project)] == [first.name, second.name]
    assert path.read_bytes().startswith(whole)


def test_a_last_line_that_only_lacks_its_end_counts(project):
    folder = project.window()
    look(project, folder)
    path = project.windows / "history.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [one.window for one in read_history(project.windows)] == [folder.name]


@pytest.mark.parametrize(
    "line", ["{broken", "[1]", "", '{"window": "w"}', '{"verdict": "drift", "window": "w"}']
)
def test_any_other_broken_line_is_told(tmp_path, line):
    good = {"window": "w", "first": "2026-11-21", "last": "2026-11-21", "verdict": "drift"}
    text = "\n".join([json.dumps(good), line, json.dumps(good)]) + "\n"
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(StillhouseError, match=r"history\.jsonl, line 2,"):
        read_history(tmp_path)


def test_lines_are_only_added(tmp_path):
    path = tmp_path / "lines.jsonl"
    for number in range(3):
        append_line(path, {"n": number})
    assert read_lines(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [p.name for p in tmp_path.iterdir()] == ["lines.jsonl"]


def test_a_retraining_is_its_start_and_its_end(tmp_path):
    path = tmp_path / "retrainings.jsonl"
    line = {"window": "w", "last": "2026-11-21T10:00:00", "gold_sha256": None}
    first = line | {"started": "2026-11-22T10:00:00+00:00"}
    second = line | {"started": "2026-11-23T10:00:00+00:00"}
    for one in (first, second, first | {"outcome": "refused"}):
        append_line(path, one)
    attempts = read_attempts(tmp_path)
    assert [one.ending for one in attempts] == ["refused", None]
    assert attempts[0].last == datetime(2026, 11, 21, 10, tzinfo=UTC)
    append_line(path, first | {"outcome": "great"})
    with pytest.raises(StillhouseError, match="line 4, cannot be understood"):
        read_attempts(tmp_path)


def test_the_outcome_is_told_and_written(project, capsys):
    outcome = look(project, project.window(gold=0))
    tell(outcome, project.root)
    written = _io.read_json(project.root / "reports/watch/outcome.json")
    assert (written["kind"], written["until"]) == ("no_new_labels", None)
    assert "Next: give references of some of its rows" in capsys.readouterr().out


def test_help_loads_neither_torch_nor_pyarrow():
    code = "import sys; sys.argv[1:] = ['--help']; import stages.{0} as s\ntry:\n s.main()\n"
    code += (
        "except SystemExit: pass\nassert not {{'torch', 'pyarrow', 'sklearn'}} & set(sys.modules)"
    )
    for name in ("watch", "retrain"):
        done = subprocess.run([sys.executable, "-c", code.format(name)], cwd=ROOT)
        assert done.returncode == 0
