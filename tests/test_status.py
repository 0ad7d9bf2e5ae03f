"""The status: what records say of champion, challenger and drift, and what DVC calls stale."""

import subprocess
import sys

import pytest

from serving.errors import StillhouseError
from stages import _io
from stages._challenges import Challenge
from stages._releases import FIELDS, SCHEMA_VERSION
from stages.status import describe_challenger, describe_stale, find_stale, gather

WINNER = {"candidate": "ct2", "folder": "models/variants/ct2", "model_sha256": "ab" * 32}
DRIFT = {
    "verdict": "drift",
    "verdicts": {"input": "drift", "quality": "no_evidence"},
    "rests_on": {"window": {"id": "w7", "planted": True}},
}


def record(number, serves=None, kind="release", previous=None):
    """A decision record with what the status reads."""
    found = dict.fromkeys(FIELDS) | {"schema_version": SCHEMA_VERSION, "release": number}
    found |= {"kind": kind, "serves": serves or number, "time": f"2026-01-0{number}T00:00:00Z"}
    winner = WINNER | {"candidate": f"model{number}"}
    found |= {"winners": {"cpu": winner, "cuda": None}, "images": {}}
    return found | {"previous_sha256": previous}


def write_chain(root, *records):
    """Records in releases/, each with the hash of the one before."""
    before = None
    for one in records:
        path = root / "releases" / f"{one['release']}.json"
        _io.write_json(path, one | {"previous_sha256": before})
        before = _io.sha256_file(path)


def challenge(after=1):
    content = {**record(2), "after": after}
    return {key: content.get(key) for key in Challenge.__annotations__ | content}


def test_an_empty_project_says_what_comes_first(tmp_path):
    (tmp_path / "releases").mkdir()
    found = gather(tmp_path)
    assert found["champion"] == ["nothing was released yet. Next: make release"]
    assert found["challenger"] == ["none stands against it"]
    assert found["drift"] == ["no window was compared yet. Next: dvc repro drift"]


def test_the_champion_is_what_is_in_force_after_a_rollback_too(tmp_path):
    write_chain(tmp_path, record(1), record(2), record(3, serves=1, kind="rollback"))
    first, winner = gather(tmp_path)["champion"]
    assert first == "release 1 of 2026-01-01T00:00:00Z, rolled back to by record 3"
    assert winner == "cpu: model1, models/variants/ct2, abababababab"


def test_a_challenge_stands_until_the_next_record(tmp_path):
    write_chain(tmp_path, record(1))
    _io.write_json(tmp_path / "releases/challenger.json", challenge(after=1))
    assert gather(tmp_path)["challenger"][0].startswith("cpu: model2")
    _io.write_json(tmp_path / "releases/challenger.json", challenge(after=0))
    assert gather(tmp_path)["challenger"] == ["none stands against it"]


@pytest.mark.parametrize(
    ("started", "told"),
    [
        ("2026-01-03T00:00:00+00:00", "the canary says hold: too few"),
        ("2026-01-01T00:00:00+00:00", "no canary has judged it. Next: make canary"),
    ],
)
def test_a_canary_counts_only_if_it_began_after_the_challenge(started, told):
    canary = {"verdict": "hold", "reason": "too few", "started": started}
    assert describe_challenger(challenge(), canary)[-1].endswith(told)


def test_drift_and_what_watch_made_of_it_are_told(tmp_path):
    (tmp_path / "releases").mkdir()
    _io.write_json(tmp_path / "reports/drift/drift.json", DRIFT)
    outcome = {"kind": "wait", "window": "w6", "reason": "1 of 3", "until": None}
    _io.write_json(tmp_path / "reports/watch/outcome.json", outcome)
    lines = [{"window": f"w{n}", "verdict": "no_evidence"} for n in range(5)]
    _io.write_jsonl(tmp_path / "data/windows/history.jsonl", lines)
    verdict, watch, windows = gather(tmp_path)["drift"]
    assert verdict.startswith("drift in window w7, planted to try the detectors (input drift")
    assert watch == "watch says wait of w6: 1 of 3"
    assert windows == "last windows of 5: w2 no_evidence, w3 no_evidence, w4 no_evidence"


def test_a_record_that_was_changed_is_refused(tmp_path):
    write_chain(tmp_path, record(1), record(2))
    _io.write_json(tmp_path / "releases/1.json", record(1) | {"reason": "another"})
    with pytest.raises(StillhouseError, match="changed after it was written"):
        gather(tmp_path)


def test_stale_stages_are_told_with_what_changed():
    changes = {"changed deps": {"a.py": "modified", "b.py": "modified", "c.py": "deleted"}}
    params = {"changed deps": {"params.yaml": {"label.top_k": "modified"}}}
    stale = {"label": [changes, "changed command"], "select": [params]}
    assert describe_stale(stale) == [
        "2 stages. Next: make repro",
        "label: changed deps a.py, b.py and 1 more; changed command",
        "select: changed deps label.top_k",
    ]
    many = describe_stale({f"s{n}": ["changed command"] for n in range(20)})
    assert len(many) == 10
    assert many[-1] == "and 12 more"
    assert describe_stale({})[0].startswith("nothing")
    assert describe_stale(None)[0].startswith("DVC cannot say")


@pytest.mark.slow
def test_dvc_is_asked_what_is_stale(tmp_path):
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: cp a b\n    deps: [a]\n    outs: [b]\n"
    )
    (tmp_path / "a").write_text("1")
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert find_stale(tmp_path) == {}
    (tmp_path / "a").write_text("2")
    assert list(find_stale(tmp_path)) == ["make"]
    assert find_stale(tmp_path / "..") is None  # no DVC project
