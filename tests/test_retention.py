"""What a variant keeps is rebuilt from its lines, and judged against the student."""

import pytest
from select_cases import evaluation, said

from serving.errors import StillhouseError
from stages._params.select import Gates
from stages._retention import Bootstrap, applies, check_pairs, measure, quality_gates, retention
from stages._scores import bootstrap_weights

SAME = tuple([0.9] * 240)
GATES = Gates(wrong_rise=0.006)


def measured(name, texts=None, similarity=None):
    return measure(name, *evaluation(texts or said(), similarity))


def without_records(name, scores, texts=None):
    """Free text: no slots, and a hallucination rate per prompt."""
    report, lines = evaluation(texts or said())
    bare = {"bleu": report["bleu"], "data": report["data"], "model": report["model"]}
    if scores:
        bare["hallucination_rate"] = {"score": sum(scores) / len(scores), "signature": "h"}
    kept = [{k: v for k, v in line.items() if not k.startswith("slot")} for line in lines]
    for number, line in enumerate(kept):
        line["scores"] = {"hallucination_rate": scores[number]} if scores else {}
    return measure(name, bare, kept)


def bootstrap(prompts=240):
    return Bootstrap(bootstrap_weights(prompts, 300, 20), 0.95)


def judged(student, variant, gates=GATES):
    found = quality_gates(gates, student, variant, bootstrap(len(student.lines)))
    return {gate.gate: gate for gate in found}


def test_statistics_come_out_as_in_the_headline():
    report, lines = evaluation(said(wrong=12))
    found = measure("int8", report, lines).statistics
    for metric in ("bleu", "slot_error_rate", "missing", "added", "wrong"):
        value = found[metric]
        assert float(value.combine(value.rows.sum(axis=0))) == pytest.approx(
            report[metric]["score"]
        )
    assert found["wrong"].rows.sum(axis=0).tolist() == [12, 720]


def test_slots_that_the_schema_does_not_know_are_not_counted():
    report, lines = evaluation(said())
    report = report | {"unknown_slots": {"dogs": 240}}
    assert measure("int8", report, lines).statistics["wrong"].rows[:, 1].tolist() == [2.0] * 240


def test_lines_of_another_run_are_refused():
    report, _ = evaluation(said(wrong=12))
    _, lines = evaluation(said())
    with pytest.raises(StillhouseError, match="evaluation of int8 does not fit its lines: bleu"):
        measure("int8", report, lines)


def test_similarities_that_are_not_those_of_the_headline_are_refused():
    report, lines = evaluation(said(), SAME)
    lines[0]["scores"]["semantic_similarity"] = 0.2
    with pytest.raises(
        StillhouseError, match=r"semantic_similarity 0\.9 where its lines give 0\.89"
    ):
        measure("int8", report, lines)


def test_another_signature_is_refused():
    report, lines = evaluation(said())
    report = report | {"bleu": report["bleu"] | {"signature": "nrefs:1"}}
    with pytest.raises(StillhouseError, match="bleu signed nrefs:1"):
        measure("int8", report, lines)


def test_other_prompts_are_not_paired():
    with pytest.raises(
        StillhouseError, match=r"int8 .* other prompts \(120\) than student \(240\)"
    ):
        check_pairs(measured("student"), measured("int8", said(prompts=120)))


def test_the_student_needs_no_sample_to_be_as_good_as_itself():
    student = measured("student", said(wrong=9, prompts=40))
    gates = judged(student, student)
    assert set(gates) == {"bleu_ratio", "slot_error_rate_rise", "wrong_rise"}
    assert {gate.verdict for gate in gates.values()} == {"pass"}


def test_a_variant_that_says_the_same_passes():
    gates = judged(measured("student", said(wrong=9)), measured("int8", said(wrong=9)))
    assert {gate.verdict for gate in gates.values()} == {"pass"}
    assert gates["wrong_rise"].high == pytest.approx(3.689 / 720, rel=1e-3)


def test_a_variant_that_keeps_silent_fails_on_bleu_and_errors_but_not_on_wrong_values():
    silent = tuple(text if number % 2 else "Dogs." for number, text in enumerate(said()))
    gates = judged(measured("student"), measured("int8", silent))
    assert gates["bleu_ratio"].verdict == gates["slot_error_rate_rise"].verdict == "fail"
    assert gates["wrong_rise"].verdict == "pass"


def test_a_gate_that_is_null_is_off():
    gates = Gates(bleu_ratio=None, wrong_rise=None)
    assert set(judged(measured("student"), measured("int8"), gates)) == {"slot_error_rate_rise"}


def test_records_without_a_slot_check_are_inconclusive():
    report, lines = evaluation(said())
    report = {key: report[key] for key in ("bleu", "data", "model")}
    sides = [measure(name, report, lines) for name in ("student", "int8")]
    gates = judged(*sides)
    assert gates["slot_error_rate_rise"].verdict == gates["wrong_rise"].verdict == "inconclusive"
    assert gates["wrong_rise"].reason == "wrong was not measured of both"


def test_free_text_owes_hallucinations_and_no_slots():
    calm, wild = [0.0] * 240, [1.0] * 30 + [0.0] * 210
    student = without_records("student", calm)
    gates = judged(student, without_records("int8", wild))
    assert set(gates) == {"bleu_ratio", "hallucination_rate_rise"}
    assert gates["hallucination_rate_rise"].verdict == "fail"
    assert gates["hallucination_rate_rise"].value == pytest.approx(30 / 240)
    missing = judged(without_records("student", None), without_records("int8", None))
    assert missing["hallucination_rate_rise"].verdict == "inconclusive"


def test_similarity_is_judged_where_it_is_measured():
    student, lower = measured("student", None, SAME), tuple([0.85] * 240)
    assert "semantic_similarity_fall" not in judged(measured("student"), measured("int8"))
    near, far = (measured("int8", None, s) for s in (tuple([0.89] * 240), lower))
    gate = judged(student, near)["semantic_similarity_fall"]
    assert (gate.verdict, gate.value) == ("pass", pytest.approx(0.01))
    assert judged(student, far)["semantic_similarity_fall"].verdict == "fail"
    unmeasured = judged(student, measured("int8"))["semantic_similarity_fall"]
    assert unmeasured.verdict == "inconclusive"


def test_similarities_of_two_backends_are_not_compared():
    report, lines = evaluation(said(), SAME)
    other = report | {"semantic_similarity": report["semantic_similarity"] | {"backend": "svd"}}
    with pytest.raises(StillhouseError, match="scored alike"):
        judged(measure("student", report, lines), measure("int8", other, lines))


def test_an_absolute_limit_binds_the_student_too():
    student = measured("student", said(wrong=12))
    gates = Gates(slot_error_rate=0.02)
    gate = judged(student, student, gates)["slot_error_rate"]
    # 12 of 720: 0.0167, whose Poisson interval reaches 20.96 / 720 = 0.0291.
    assert (gate.verdict, gate.value) == ("inconclusive", pytest.approx(12 / 720))
    assert gate.high == pytest.approx(20.96 / 720, rel=1e-3)
    assert (
        judged(student, student, Gates(slot_error_rate=0.03))["slot_error_rate"].verdict == "pass"
    )


def test_a_student_without_any_bleu_decides_nothing():
    nothing = measured("student", tuple(["§"] * 240))
    gate = judged(nothing, measured("int8"))["bleu_ratio"]
    assert (gate.verdict, gate.value) == ("inconclusive", None)


def test_retention_has_ratio_and_rises_with_their_intervals():
    kept = retention(measured("student"), measured("int8", said(wrong=14)), bootstrap())
    assert kept["bleu_ratio"]["low"] < kept["bleu_ratio"]["score"] < 1.0
    assert kept["slot_error_rate_delta"]["score"] == pytest.approx(14 / 720)
    assert kept["wrong_delta"]["low"] > 0
    assert "semantic_similarity_delta" not in kept


def test_what_is_measured_of_one_is_owed_by_both():
    assert applies("semantic_similarity", measured("student", None, SAME), measured("int8"))
    assert not applies("hallucination_rate", measured("student"))
