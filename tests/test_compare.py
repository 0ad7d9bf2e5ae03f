"""Both answers side by side, and the similarity that stands between them."""

import asyncio

import pytest
from sacrebleu.metrics import CHRF

from serving._compare import compare, cost_usd
from serving._items import Answer, Choice, ServiceError
from serving._text_similarity import similarity

TEXTS = [
    "The Eagle serves fish and dogs are welcome.",
    "At the Mill you get curry; dogs must stay outside.",
    "The Eagle serves fish; no dogs.",
    "é…",
    "fish",
]


def answer(text, **changes):
    choice = Choice(text=text, finish_reason="stop", completion_tokens=3)
    return Answer(id="x", choices=[choice], **changes)


async def later(result):
    if isinstance(result, Exception):
        raise result
    return result


def compared(student, baseline, price=0.0):
    async def both():
        return await compare(later(student), later(baseline), price)

    return asyncio.run(both())


def test_similarity_is_sacrebleus_chrf():
    scorer = CHRF()
    for text in TEXTS:
        for reference in TEXTS:
            expected = scorer.sentence_score(text, [reference]).score / 100
            assert similarity(text, reference) == pytest.approx(expected, abs=1e-9), (
                text,
                reference,
            )


def test_similarity_of_a_hand_worked_pair():
    # n=1: a, b shared of 3 and 2; n=2: ab shared of 2 and 1; precision 7/12, recall 1
    assert similarity("abc", "ab") == pytest.approx(5 * (7 / 12) / (4 * (7 / 12) + 1))


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("", "", 1.0), ("", "a", 0.0), ("a b", "ab", 1.0), ("a", "b", 0)]
)
def test_similarity_at_its_ends(one, other, expected):
    assert similarity(one, other) == expected


def test_both_answers_stand_side_by_side_with_their_costs():
    student = answer("fish", compute_s=0.36, batch_rows=4, queue_s=0.5)
    found = compared(student, answer("fish", compute_s=0.01, batch_rows=1), price=10.0)
    assert found["similarity"] == 1.0
    assert found["student"]["cost_usd"] == pytest.approx(0.36 / 4 * 10 / 3600)
    assert (found["student"]["queue_ms"], found["student"]["compute_ms"]) == (500.0, 360.0)
    assert found["baseline"]["text"] == "fish"
    assert found["baseline"]["latency_ms"] >= 0


@pytest.mark.parametrize(
    "refused",
    [ServiceError("overloaded", "full"), Answer(id="x", refusal="overloaded", message="full")],
    ids=["raised", "answered"],
)
def test_a_refusal_of_one_leaves_the_others_answer(refused):
    found = compared(refused, answer("fish"))
    assert found["student"]["error"] == {"code": "overloaded", "message": "full"}
    assert (found["baseline"]["text"], found["similarity"]) == ("fish", None)


def test_two_refusals_are_one():
    with pytest.raises(ServiceError) as caught:
        compared(ServiceError("expired", "late"), ServiceError("invalid_request", "wrong"))
    assert (caught.value.refusal, caught.value.message) == ("expired", "late")


def test_an_answer_without_a_batch_costs_nothing():
    assert cost_usd(answer("fish"), 10.0) == 0.0
