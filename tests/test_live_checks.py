"""Checks, uncertainty, sentence BLEU and series of live answers, against figures made by hand."""

import asyncio
import math
import random

import pytest
import sacrebleu
from live_cases import choice, item

from serving._live.checks import AnswerChecks, Checked, Found
from serving._live.comparing import Compared, compared
from serving._live.overlap import sentence_bleu
from serving._live.series import LIVE_SERIES, observe_answer, observe_record, observe_shadows
from serving._live.shadow import Shadowed
from serving._live.uncertainty import uncertainty_of
from serving.slots import SlotSchema
from stages._incidents import IncidentCounts, generate
from tests.structure import ROOT, read_yaml

CHECKS = AnswerChecks(SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/incidents.yaml")))
FEW = IncidentCounts(train=4, validation=4, calibration=4, test=40)


def rows():
    return generate(5, FEW)["test"]


def test_clean_references_have_all_their_slots_and_both_checks_run():
    states = []
    for row in rows():
        for text in row["references"]:
            checked = CHECKS.check(item(prompt=row["prompt"]), text)
            states.append((checked.slots, checked.grounding))
            assert checked.slots_said == checked.slots_asked > 0

    assert len(states) == 200
    assert all(slots == "ok" for slots, _ in states)
    assert "not_run" not in {grounding for _, grounding in states}


def test_another_record_s_text_is_found_with_places_and_no_text():
    first, second = rows()[:2]
    asked, text = item(prompt=first["prompt"]), second["references"][0]

    checked = CHECKS.check(asked, text)

    assert checked.slots == "found"
    assert checked.slots_said < checked.slots_asked
    for one in checked.findings:
        assert one.slot is None or one.slot in {*CHECKS.schema.slots, "number"}
        assert one.start is None or 0 <= one.start < one.end <= len(text)


def test_a_check_that_did_not_run_or_not_to_the_end_is_never_ok():
    no_record = CHECKS.check(item(prompt="Tell a story."), "A story.")
    no_schema = AnswerChecks(None).check(item(), "A story.")
    too_long = CHECKS.check(item(), "checkout-api takes 1.8 s. " + "so it is " * 3_000)

    assert no_record.slots == no_schema.slots == "not_run"
    assert no_record.grounding == "ok"
    assert too_long.slots != "ok" and too_long.grounding != "ok"


def test_a_fault_in_a_check_is_a_check_that_did_not_run(caplog):
    broken = AnswerChecks("no schema")  # type: ignore[arg-type]

    checked = broken.check(item(), "secret")

    assert checked.slots == "not_run"
    assert checked.grounding != "not_run"
    assert "secret" not in caplog.text


def test_long_texts_are_checked_as_short_ones_are():
    asked = item(context="so it is " * 300)

    checked = asyncio.run(CHECKS.checked(asked, "checkout-api takes 1.9 s."))

    assert checked == CHECKS.check(asked, "checkout-api takes 1.9 s.")


def test_a_calibrated_confidence_alone_is_the_score():
    found = uncertainty_of(choice(confidence=0.8, mean_logprob=-2.0), Checked())

    assert found.as_field() == {"score": 0.2, "basis": "confidence", "parts": {"confidence": 0.2}}


def test_the_parts_join_as_chances_do():
    checked = Checked("found", "ok", (Found("slots", "missing", "value"),), slots_asked=4)
    given = choice(mean_logprob=math.log(0.8), min_logprob=math.log(0.5))

    found = uncertainty_of(given, checked, baseline_similarity=0.6)

    assert found.basis == "tokens"
    parts = {"tokens": 0.2, "weakest_token": 0.5, "slots": 0.25, "grounding": 0.0, "baseline": 0.4}
    assert found.parts == pytest.approx(parts)
    assert found.score == pytest.approx(1 - 0.8 * 0.75 * 0.9)


def test_uncertainty_is_unknown_where_nothing_is_known():
    assert uncertainty_of(choice(), Checked()) is None
    assert uncertainty_of(choice(mean_logprob=math.nan), Checked()).score == 1.0


TEXTS = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("It takes 1.8 s, i.e. 20% more!", "It took 1.8 s (20% more)."),
    ("a", "a b c d e"),
    ("one two", "two one"),
    ("none of it", "quite another text"),
    ("", "text"),
    ("text", ""),
    ("&quot;x&quot; &amp; y", '"x" & y'),
    ("line-\nbreak a\nb 1-2-3", "linebreak a b 1-2-3"),
]


def test_sentence_bleu_is_sacrebleu_s():
    draw = random.Random(3)
    words = ["the", "a", "cat", "sat", "on", "mat", "1.8", "s,", "20%", "(b)", "C-d"]
    pairs = [*TEXTS]
    pairs += [
        tuple(" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in "ab") for _ in range(300)
    ]
    for text, reference in pairs:
        expected = sacrebleu.sentence_bleu(text, [reference], lowercase=True).score / 100
        assert sentence_bleu(text, reference) == pytest.approx(expected), (text, reference)


def test_answers_are_compared_in_words_and_slots():
    row = rows()[0]
    asked, (one, other, *_) = item(prompt=row["prompt"]), row["references"]

    same, rewritten = compared(CHECKS, asked, one, one.upper()), compared(CHECKS, asked, one, other)

    assert same.exact and same.bleu == pytest.approx(1.0)
    assert not rewritten.exact
    assert rewritten.slots_equal


class Figures:
    """Takes what is told, as it is declared."""

    def __init__(self):
        self.series = {one.name: one for one in LIVE_SERIES}
        self.told = {}

    def add(self, name, by, *labels):
        self._tell("counter", name, by, labels)

    def observe(self, name, value, *labels):
        self._tell("histogram", name, value, labels)

    def _tell(self, kind, name, value, labels):
        series = self.series[name]
        assert series.kind == kind
        for label, values in zip(labels, series.labels.values(), strict=True):
            assert label in values
        self.told[name, *labels] = self.told.get((name, *labels), 0) + value


def test_an_answer_s_figures_are_told_under_declared_names_and_labels():
    figures = Figures()
    findings = (Found("slots", "missing", "value"), Found("grounding", "number", None, 1, 2))
    checked = Checked("found", "found", findings, slots_asked=4, slots_said=3, claims=2)
    given = choice(mean_logprob=-0.25)

    for _ in range(2):
        observe_answer(figures, "student", given, checked, uncertainty_of(given, checked))

    told = figures.told
    assert told["live_nats_per_token", "student"] == 0.5
    assert told["live_slot_checked_tokens_total", "student"] == 12
    assert told["live_correct_slots_total", "student"] == 6
    assert told["live_slot_errors_total", "student", "missing"] == 2
    assert told["live_ungrounded_claims_total", "student", "number"] == 2
    assert told["live_checks_total", "student", "slots", "found"] == 2


def test_shadows_and_records_are_told_too():
    figures = Figures()
    agreed = Compared(exact=True, slots_equal=None, similarity=1.0, bleu=0.5)
    shadows = [Shadowed("teacher", "answered", agreed, "", 1.0, 0.25)]
    shadows += [Shadowed("baseline", "dropped")]

    observe_shadows(figures, shadows)
    observe_record(figures, "written")

    told = figures.told
    assert told["live_shadows_total", "baseline", "dropped"] == 1
    assert told["live_shadow_cost_usd_total", "teacher"] == 0.25
    assert told["live_shadow_agreement_total", "teacher", "exact", "yes"] == 1
    assert ("live_shadow_agreement_total", "teacher", "slots", "no") not in told
    assert told["live_shadow_bleu", "teacher"] == 0.5
    assert told["live_records_total", "written"] == 1
