"""`make release`: the winner comes into force once, whatever interrupts it; nothing else does."""

import json
import subprocess
import sys

import pytest
from release_cases import (
    COMMAND,
    SCORE,
    aliases,
    bring_into_force,
    copy_store,
    make_model,
    make_project,
    versions,
    win,
)
from tracking_cases import VARIABLES

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._releases import read_chain, read_current
from stages.release import main

CLOSED_PORT = 9  # "discard": nothing listens there


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in (*VARIABLES, "GITHUB_ACTOR", "GITLAB_USER_LOGIN"):
        monkeypatch.delenv(name, raising=False)
    copy_store(tmp_path)
    return make_project(tmp_path)


def refused(project, said, **arguments):
    """Release, expecting a refusal in one line that leaves nothing behind."""
    before = sorted(path.name for path in (project / "releases").iterdir())
    with pytest.raises(StillhouseError, match=said) as caught:
        bring_into_force(project, **arguments)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (project / "releases").iterdir()) == before


def second_release(project):
    """Put int8 into force, then nf4."""
    bring_into_force(project)
    win(project, "nf4")
    return bring_into_force(project)


def test_the_first_release_writes_record_versions_and_aliases(project, capsys):
    record = bring_into_force(project)
    assert (
        read_current(project / "releases/current.json")
        == record
        == read_chain(project / "releases")[-1]
    )
    assert (record["release"], record["kind"], record["incumbent"]) == (1, "release", None)
    assert aliases(project) == {"challenger": "int8", "champion": "int8"}
    assert versions(project) == ["student", "int8", "nf4"]
    out = capsys.readouterr().out
    assert "release 1: cpu: int8, models/variants/int8" in out
    assert 'git add releases && git commit -m "Release 1"' in out


def test_a_record_says_what_won_on_what_evidence_and_who_did_it(project):
    record = bring_into_force(project)
    winner = record["winners"]["cpu"]
    assert winner["model_sha256"] == digest(project / winner["folder"])
    assert record["scores"] == {"cpu": {"bleu": SCORE}}
    assert record["benchmark"]["cpu"]["latency_ms"] == {"p50": 9.0, "p95": 11.0}
    assert record["data"] == {"name": "pubs", "sha256": "7" * 64, "examples": 640}
    assert record["decision"] == _io.read_json(project / "reports/select/decision.json")
    assert record["reason"] == "int8 is the cheapest of those that pass"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True)
    assert record["git"] == {"commit": head.stdout.strip(), "dirty": False}
    assert (record["command"], bool(record["by"])) == (COMMAND, True)
    assert str(project) not in json.dumps(record)


def test_the_second_release_knows_the_first(project):
    record = second_release(project)
    assert (record["release"], record["incumbent"]["release"]) == (2, 1)
    assert record["incumbent"]["winners"]["cpu"]["candidate"] == "int8"
    assert aliases(project) == {"challenger": "nf4", "champion": "nf4", "previous": "int8"}
    assert len(versions(project)) == 3, "each model once"


def test_the_same_winner_makes_no_second_release(project, capsys):
    first = bring_into_force(project)
    assert bring_into_force(project) == first
    assert "release 1 has these winners already: no new release" in capsys.readouterr().out
    assert not (project / "releases/2.json").exists()
    assert len(versions(project)) == 3


def test_a_crash_before_the_record_leaves_nothing_in_force(project):
    path = project / "reports/benchmark/int8.json"
    good = path.read_text()
    path.write_text(good.replace("11.0", "NaN"))  # which no record can hold
    with pytest.raises(ValueError, match="not JSON compliant"):
        bring_into_force(project)
    assert aliases(project) == {"challenger": "int8"}
    assert read_chain(project / "releases") == []
    path.write_text(good)
    assert bring_into_force(project)["release"] == 1
    assert aliases(project)["champion"] == "int8"
    assert len(versions(project)) == 3


def test_a_crash_between_record_and_current_file_is_mended(project, capsys):
    second_release(project)
    first = _io.read_json(project / "releases/1.json")
    _io.write_json(project / "releases/current.json", first)
    assert bring_into_force(project)["release"] == 2
    assert _io.read_json(project / "releases/current.json")["release"] == 2
    assert "current.json lagged behind 2.json: mended" in capsys.readouterr().out


def test_a_crash_between_record_and_registry_is_mended(project):
    second_release(project)
    for name in ("mlflow.db", "mlflow.db.version"):
        (project / name).unlink()
    copy_store(project)  # a registry that has seen nothing
    bring_into_force(project)
    assert aliases(project) == {"challenger": "nf4", "champion": "nf4", "previous": "int8"}


def test_without_a_winner_there_is_no_release(project):
    (project / "models/winner.json").unlink()
    refused(project, r"winner\.json is missing: no candidate passed every gate")
    _io.write_json(project / "models/winner.json", {"cpu": None, "cuda": None})
    refused(project, "names no winner for cpu")


def test_a_folder_that_holds_another_model_than_the_one_judged_is_refused(project):
    make_model(project, "int8", "trained again")
    refused(project, r"variants/int8 holds \w{12}, but int8 won as \w{12}")


def test_a_tampered_folder_is_refused(project):
    (project / "models/variants/int8/weights.txt").write_text("tampered")
    refused(project, r"weights\.txt was changed")


def test_any_candidate_that_is_not_what_was_evaluated_is_refused(project):
    report = _io.read_json(project / "reports/evaluate/nf4.json")
    report["model"]["sha256"] = "e" * 64
    _io.write_json(project / "reports/evaluate/nf4.json", report)
    refused(project, r"variants/nf4 holds \w{12}, but nf4 was evaluated as eeeeeeeeeeee")


def test_failed_gates_are_refused_by_name_and_cannot_be_overruled(project):
    gates = [{"gate": "bleu_ratio", "value": 0.9, "threshold": 0.95}, {"gate": "wrong_rise"}]
    verdict = {"name": "int8", "device": "cpu", "passed": False, "failed": gates}
    win(project, "int8", candidates=[verdict])
    said = r"int8 did not pass every gate on cpu \(bleu_ratio, wrong_rise\)"
    refused(project, said, despite="we need it")


def test_a_decision_that_never_judged_the_winner_is_refused(project):
    win(project, "int8", candidates=[])
    refused(project, r"did not pass every gate on cpu \(no verdict\)")
    win(project, "int8", winners={"cpu": "nf4", "cuda": None})
    refused(project, "names int8 for cpu, reports/select/decision.json names nf4")


def test_a_decision_against_another_incumbent_is_refused(project):
    bring_into_force(project)
    win(project, "nf4", incumbent=None)
    refused(project, r"made against no release, but releases/current\.json holds record 1")


def test_uncommitted_files_need_a_reason(project):
    (project / "params.yaml").write_text("seed: 21\n")
    refused(project, r"not committed: params\.yaml\. .*--despite")
    record = bring_into_force(project, despite="the demonstration")
    assert record["git"]["dirty"] is True
    assert record["reason"].startswith("the demonstration (despite: not committed: params.yaml)")


def test_records_that_are_not_committed_yet_are_no_objection(project):
    assert second_release(project)["git"]["dirty"] is False


def test_a_verdict_that_keeps_what_serves_needs_a_reason(project):
    bring_into_force(project)
    kept = {"release": 1, "cpu": {"verdict": "keep", "reason": "the incumbent is better in bleu"}}
    win(project, "nf4", incumbent=kept)
    refused(project, "on cpu select keeps release 1: the incumbent is better in bleu")
    assert bring_into_force(project, despite="half the price")["release"] == 2


def test_a_registry_that_is_off_or_away_refuses_the_release(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{CLOSED_PORT}")
    refused(project, "cannot be opened")
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    refused(project, "STILLHOUSE_TRACKING is off")


def test_a_winner_on_cuda_has_its_own_aliases_scores_and_figures(project):
    gpu = {"device": "cuda", "latency_ms": {"p95": 3.0}}
    report = _io.read_json(project / "reports/benchmark/nf4.json") | {
        "by_device": {"cpu": {}, "cuda": gpu}
    }
    _io.write_json(project / "reports/benchmark/nf4.json", report)
    won = _io.read_json(project / "models/winner.json")["cpu"]
    sha256 = digest(project / "models/variants/nf4")
    nf4 = {"candidate": "nf4", "folder": "models/variants/nf4", "model_sha256": sha256}
    passed = {"passed": True, "failed": []}
    entries = [{"name": n, "device": d, **passed} for n, d in (("int8", "cpu"), ("nf4", "cuda"))]
    win(project, "int8", winners={"cpu": "int8", "cuda": "nf4"}, candidates=entries)
    _io.write_json(project / "models/winner.json", {"cpu": won, "cuda": nf4})
    record = bring_into_force(project)
    assert record["benchmark"]["cuda"]["latency_ms"] == gpu["latency_ms"]
    assert record["scores"]["cuda"] == {"bleu": SCORE}
    shown = aliases(project)
    assert (shown["champion"], shown["champion-cuda"]) == ("int8", "nf4")


def test_the_bento_of_the_winner_is_named_and_no_other(project):
    packed = {"bento_tag": "stillhouse:abc", "model_sha256": "e" * 64}
    _io.write_json(project / "reports/package/release.json", {"bentos": {"cpu": packed}})
    assert bring_into_force(project)["bento"] is None
    win(project, "nf4")
    packed["model_sha256"] = digest(project / "models/variants/nf4")
    _io.write_json(project / "reports/package/release.json", {"bentos": {"cpu": packed}})
    assert bring_into_force(project)["bento"] == "stillhouse:abc"


def test_the_program_ends_in_one_line_and_exit_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["release"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value).startswith("error: release: params.yaml is missing")
