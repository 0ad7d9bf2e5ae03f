"""Who wins, and who must not, from report files written by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from select_cases import FIGURES, Case, said, write_model

from serving.errors import StillhouseError
from stages import _io
from stages._coverage import weight_bytes
from stages.select import select

ROOT = Path(__file__).parent.parent
CHEAP = {"cost_per_1k_requests_usd": 0.001}


def run(case):
    return select(case.params(), *case.paths())


def entry(case, name, device="cpu"):
    found = case.decision()["candidates"]
    return next(c for c in found if (c["name"], c["device"]) == (name, device))


def failures(case, name):
    return {gate["gate"]: gate for gate in entry(case, name)["failed"]}


def project(root, **select):
    """A student, and a variant that says the same at half the cost."""
    case = Case(root, **select)
    case.add("student", said(), {})
    case.add("int8", said(), CHEAP)
    return case


def test_the_cheapest_of_those_that_pass_wins(tmp_path):
    case = project(tmp_path)
    metrics = run(case)
    assert metrics == {"passed_cpu": 2}
    winner = case.winner()
    assert winner["cuda"] is None
    assert winner["cpu"]["candidate"] == "int8"
    assert winner["cpu"]["folder"] == case.candidates["int8"]
    assert winner["cpu"]["model_sha256"] == entry(case, "int8")["model_sha256"]
    assert case.decision()["winners"] == {"cpu": "int8", "cuda": None}
    variant = weight_bytes(Path(case.candidates["int8"]))
    float32 = 4 * (1 + len("student"))  # of its numbers, which are stored in 16 bits
    assert case.decision()["retention"]["int8"]["size_ratio"] == variant / float32
    assert "0.001 against 0.002 of student" in case.decision()["reason"]


def test_values_that_are_rotated_keep_bleu_and_fail_on_slots(tmp_path):
    case = project(tmp_path)
    case.add("rotated", said(wrong=14), {"cost_per_1k_requests_usd": 0.0001})
    run(case)
    failed = failures(case, "rotated")
    assert set(failed) == {"slot_error_rate_rise", "wrong_rise"}
    assert failed["wrong_rise"]["verdict"] == "fail"
    assert failed["wrong_rise"]["value"] == pytest.approx(14 / 720)
    assert case.decision()["retention"]["rotated"]["bleu_ratio"]["low"] > 0.95
    assert case.winner()["cpu"]["candidate"] == "int8"


def test_an_undersized_test_set_is_inconclusive_and_keeps_the_student(tmp_path):
    case = Case(tmp_path)
    case.add("student", said(prompts=100), {})
    case.add("int8", said(prompts=100), CHEAP)
    run(case)
    verdicts = {name: gate["verdict"] for name, gate in failures(case, "int8").items()}
    assert verdicts == dict.fromkeys(
        ("bleu_ratio", "slot_error_rate_rise", "wrong_rise"), "inconclusive"
    )
    reason = failures(case, "int8")["bleu_ratio"]["reason"]
    assert "no resample of 100 prompts differs, and a verdict needs 200" in reason
    assert case.winner()["cpu"]["candidate"] == "student"


def test_none_passes_lists_every_failed_gate_and_leaves_no_winner(tmp_path, capsys):
    case = project(tmp_path, gates={"latency_p95_ms": 9.0, "disk_mb": 1.0})
    case.add("rotated", said(wrong=14), {})
    _io.write_json(tmp_path / "models" / "winner.json", {"cpu": "of an earlier run"})
    with pytest.raises(StillhouseError) as error:
        run(case)
    line = str(error.value)
    assert "\n" not in line
    assert "student: latency_p95_ms 10 against 9 (fail), disk_mb 2 against 1 (fail)" in line
    assert "rotated: slot_error_rate_rise 0.01944" in line
    assert not (tmp_path / "models" / "winner.json").exists()
    assert case.decision()["winners"] == {"cpu": None, "cuda": None}
    assert "cpu: int8: 2 gates not passed" in capsys.readouterr().out


def test_the_stage_exits_with_one_where_none_passes(tmp_path):
    case = project(tmp_path, gates={"peak_memory_mb": 1.0})
    sections = {"answer": {"candidates": case.candidates}, "select": case.select}
    _io.write_json(tmp_path / "params.yaml", sections)
    done = subprocess.run(
        [sys.executable, "-m", "stages.select"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "STILLHOUSE_TRACKING": "off", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "peak_memory_mb 400 against 1 (fail)" in done.stderr


@pytest.mark.parametrize("name", ["baseline", "teacher", "control"])
def test_only_the_student_and_its_variants_can_win(tmp_path, name):
    case = project(tmp_path)
    case.add(name, said(), {"cost_per_1k_requests_usd": 1e-6})
    run(case)
    assert case.winner()["cpu"]["candidate"] == "int8"
    assert not entry(case, name)["eligible"]
    assert not entry(case, name)["passed"]
    assert entry(case, name)["pareto"]


def test_a_tie_goes_to_the_next_objective(tmp_path):
    case = project(tmp_path)
    near = {"cost_per_1k_requests_usd": 0.00104, "latency_ms": {"p95": 5.0}}
    case.add("nf4", said(), near)
    run(case)
    assert case.winner()["cpu"]["candidate"] == "nf4"
    assert "after a tie, latency_p95_ms, 5 against 10 of int8" in case.decision()["reason"]


def test_the_objective_is_the_one_that_is_stated(tmp_path):
    case = project(tmp_path, objectives=["disk_mb"])
    case.add("nf4", said(), {"disk_mb": 0.5, "cost_per_1k_requests_usd": 1.0})
    run(case)
    assert case.winner()["cpu"]["candidate"] == "nf4"


def test_a_variant_without_benchmark_cannot_win(tmp_path):
    case = project(tmp_path)
    case.add("nf4", said())
    run(case)
    gate = failures(case, "nf4")["cost_per_1k_requests_usd_measured"]
    assert (gate["verdict"], gate["value"]) == ("inconclusive", None)


def test_a_figure_that_a_ceiling_needs_and_nobody_measured_is_not_passed(tmp_path):
    case = project(tmp_path, gates={"peak_memory_mb": 500.0})
    case.add("nf4", said(), {"peak_memory_mb": None, "cost_per_1k_requests_usd": 0.0001})
    run(case)
    assert failures(case, "nf4")["peak_memory_mb"]["verdict"] == "inconclusive"
    assert case.winner()["cpu"]["candidate"] == "int8"


def test_a_noisy_benchmark_is_told(tmp_path):
    case = project(tmp_path)
    case.add("nf4", said(), {"machine": {"noisy": True}})
    run(case)
    assert entry(case, "nf4")["noisy"]
    assert "while it measured nf4: benchmark again" in case.decision()["reason"]


@pytest.mark.parametrize("where", ["evaluate", "benchmark"])
def test_what_was_measured_must_be_what_would_be_shipped(tmp_path, where):
    case = project(tmp_path)
    path = tmp_path / "reports" / where / "int8.json"
    report = _io.read_json(path)
    if where == "evaluate":
        report["model"]["sha256"] = "0" * 64
    else:
        report["model_sha256"] = "0" * 64
    _io.write_json(path, report)
    with pytest.raises(StillhouseError, match=r"not what would be shipped: int8 was .*00000"):
        run(case)
    assert not (tmp_path / "models" / "winner.json").exists()


def test_a_model_made_again_after_the_measurements_is_refused(tmp_path):
    case = project(tmp_path)
    write_model(Path(case.candidates["int8"]), "other weights", case.student)
    with pytest.raises(StillhouseError, match=r"int8 was evaluated as .* benchmarked on cpu as"):
        run(case)


def test_a_variant_of_an_earlier_student_is_refused(tmp_path):
    case = project(tmp_path)
    case.student = "0" * 64
    case.add("nf4", said(), {})
    with pytest.raises(StillhouseError, match=r"nf4 was made of 000000000000, the student is"):
        run(case)


@pytest.mark.parametrize("name", ["student", "int8"])
def test_a_folder_without_its_contract_ends_in_one_line(tmp_path, name):
    case = project(tmp_path)
    (Path(case.candidates[name]) / "contract.json").unlink()
    with pytest.raises(
        StillhouseError, match=rf"{name} has no contract\.json \(found: model"
    ) as error:
        run(case)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models" / "winner.json").exists()


def test_a_winner_with_a_changed_file_is_refused(tmp_path):
    case = project(tmp_path)
    (Path(case.candidates["int8"]) / "model.safetensors").write_text("tampered", encoding="utf-8")
    with pytest.raises(StillhouseError, match=r"model\.safetensors was changed"):
        run(case)
    assert not (tmp_path / "models" / "winner.json").exists()


def test_cuda_has_a_winner_of_its_own_on_engines_that_its_service_carries(tmp_path):
    case = project(tmp_path)
    on_cuda = {"device": "cuda", "cost_per_1k_requests_usd": 0.01}
    case.add("nf4", said(), {"by_device": {"cpu": {}, "cuda": on_cuda}})
    case.add("ct2", said(), {"device": "cuda", "cost_per_1k_requests_usd": 0.001}, "ctranslate2")
    run(case)
    assert case.decision()["winners"] == {"cpu": "int8", "cuda": "nf4"}
    assert case.winner()["cuda"]["figures"]["cost_per_1k_requests_usd"] == 0.01
    assert not entry(case, "ct2", "cuda")["eligible"]


def test_the_incumbent_stays_where_nothing_beats_it_by_more_than_a_tie(tmp_path):
    case = project(tmp_path)
    run(case)
    case.release(case.winner()["cpu"])
    case.add("nf4", said(), {"cost_per_1k_requests_usd": 0.00097})
    run(case)
    assert case.winner()["cpu"]["candidate"] == "int8"
    incumbent = case.decision()["incumbent"]
    assert (incumbent["release"], incumbent["serves"]) == (4, 3)
    assert incumbent["cpu"]["verdict"] == "same"
    case.add("ct2", said(), {"cost_per_1k_requests_usd": 0.0009})
    run(case)
    assert case.winner()["cpu"]["candidate"] == "ct2"
    assert case.decision()["incumbent"]["cpu"]["verdict"] == "replace"
    assert case.decision()["incumbent"]["cpu"]["candidate"] == "int8"


def test_before_the_first_release_there_is_no_incumbent(tmp_path):
    case = project(tmp_path)
    run(case)
    assert case.decision()["incumbent"] is None


def test_a_missing_evaluation_ends_in_one_line(tmp_path):
    case = Case(tmp_path)
    case.add("int8", said(), {})
    with pytest.raises(StillhouseError, match=r"no evaluation of student .*evaluate") as error:
        run(case)
    assert "\n" not in str(error.value)
    case.add("student", said(), {})
    case.candidates["nf4"] = "models/variants/nf4"
    with pytest.raises(StillhouseError, match="no evaluation of nf4"):
        run(case)


def test_the_comparison_has_a_row_per_model_and_not_for_the_control(tmp_path):
    case = project(tmp_path)
    for name in ("baseline", "teacher", "control"):
        case.add(name, said(wrong=2), {})
    _io.write_json(tmp_path / "reports" / "benchmark" / "speculative.json", FIGURES)
    run(case)
    rows = _io.read_json(tmp_path / "reports" / "select" / "comparison.json")["rows"]
    roles = {row["name"]: row["role"] for row in rows}
    students = {"student": "student", "int8": "student"}
    others = {"baseline": "traditional", "teacher": "LLM", "speculative": "other"}
    assert roles == students | others
    assert rows[0]["requests_per_s"] == 50.0
    assert "| int8 |" in (tmp_path / "reports" / "select" / "comparison.md").read_text(
        encoding="utf-8"
    )


def test_the_same_files_give_the_same_bytes(tmp_path):
    case = project(tmp_path)
    run(case)
    files = [
        tmp_path / "models" / "winner.json",
        *sorted((tmp_path / "reports" / "select").iterdir()),
    ]
    first = [path.read_bytes() for path in files]
    run(case)
    assert [path.read_bytes() for path in files] == first
    assert len(files) == 4
    json.loads(first[0])


def test_what_the_teacher_verifies_is_no_variant_of_the_student(tmp_path):
    case = Case(tmp_path)
    case.add("student", said(), {"cost_per_1k_requests_usd": 0.01})
    case.add("drafted", said(), {"cost_per_1k_requests_usd": 0.001}, engine="speculative")
    run(case)
    assert case.winner()["cpu"]["candidate"] == "student"
