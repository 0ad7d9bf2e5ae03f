"""The reference as rows of a window: calibration prompts, answered and checked as live ones are.

A live window is answered by the cascade, so its reference is the cascade's answers, too: each rung
that is sure enough by models/route.json answers, as in the service. The winner alone would look
surer or less sure than the part of the traffic that reaches it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from serving._cascade.route import Route, Rung
from serving._cascade.scoring import checked_score, is_suspect
from serving._items import Item
from serving._live.checks import AnswerChecks
from serving.errors import StillhouseError
from serving.slots import SlotSchema

Example = Mapping[str, Any]
Answers = Mapping[str, Example]
"""A model's answers by the id of the prompt."""


def winner_rows(
    examples: Sequence[Example], answers: Answers, sha256: str, schema: SlotSchema | None
) -> list[dict[str, Any]]:
    """Every prompt with the winner's answer, as rows of a window.

    Raises:
        StillhouseError: a prompt has no answer.
    """
    checks = AnswerChecks(schema)
    chosen = [_answer_to(example, answers, "the winner") for example in examples]
    return [
        _row(example, answer, "student", sha256, checks)
        for example, answer in zip(examples, chosen, strict=True)
    ]


def cascade_rows(
    examples: Sequence[Example],
    answers: Mapping[str, Answers],
    route: Route,
    schema: SlotSchema | None,
) -> list[dict[str, Any]]:
    """Every prompt with the answer that the cascade would give, as rows of a window.

    Args:
        answers: of each rung of the route, by its name.

    Raises:
        StillhouseError: a prompt has no answer of a rung.
    """
    checks = AnswerChecks(schema)
    rows = []
    for example in examples:
        rung, answer = _first_sure(example, answers, route, schema)
        rows.append(_row(example, answer, rung.name, rung.model_sha256, checks))
    return rows


def _first_sure(
    example: Example, answers: Mapping[str, Answers], route: Route, schema: SlotSchema | None
) -> tuple[Rung, Example]:
    """The first rung that is sure enough; where none is, the last one that may answer.

    With `otherwise: abstain` such a request has no answer at all in the service; a live record
    keeps what the last rung said.
    """
    given = [(rung, _answer_to(example, answers[rung.name], rung.name)) for rung in route.rungs]
    for rung, answer in given:
        if rung.threshold is None:
            return rung, answer
        score = _score(rung, example, answer, schema)
        if score is not None and score >= rung.threshold:
            return rung, answer
    return given[-1]


def _score(
    rung: Rung, example: Example, answer: Example, schema: SlotSchema | None
) -> float | None:
    if rung.score != "checked":
        value = answer.get(rung.score)
        return None if value is None else float(value)
    suspect = is_suspect(answer["text"], example.get("slots"), schema)
    return checked_score(answer.get("min_logprob"), answer.get("confidence"), is_suspect=suspect)


def _answer_to(example: Example, answers: Answers, name: str) -> Example:
    if example["id"] not in answers:
        raise StillhouseError(
            f"{name} has no answer to the calibration prompt {example['id']!r} (it has "
            f'{len(answers)}). Run "dvc repro answer" to answer the present calibration split.'
        )
    return answers[example["id"]]


def _row(
    example: Example, answer: Example, rung: str, sha256: str, checks: AnswerChecks
) -> dict[str, Any]:
    """One row; checks are those that the service makes of every answer."""
    prompt, context, slots = example["prompt"], example.get("context"), example.get("slots")
    item = Item(id=str(example["id"]), prompt=prompt, context=context, slots=slots)
    checked = checks.check(item, answer["text"])
    has_slots, has_claims = checked.slots != "not_run", checked.grounding != "not_run"
    return {
        "id": example["id"],
        "prompt": prompt,
        "context": context,
        "slots": slots,
        "slot_names": list(slots) if slots else None,
        "answer": answer["text"],
        "rung": rung,
        "model_sha256": sha256,
        "cache": None,
        "prompt_chars": len(prompt),
        "answer_chars": len(answer["text"]),
        "slots_asked": checked.slots_asked if has_slots else None,
        "slot_errors": checked.count("slots") if has_slots else None,
        "claims": checked.claims if has_claims else None,
        "ungrounded": checked.count("grounding") if has_claims else None,
        **{
            name: answer.get(name)
            for name in ("finish_reason", "confidence", "mean_logprob", "min_logprob")
        },
    }
