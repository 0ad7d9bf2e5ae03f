"""Which template, with how many examples in it, makes a prompted teacher best: tried on validation.

A variant is a template with a number of examples, which the predictor retrieves from train for
every prompt anew (serving/_shots.py). All variants answer the same validation prompts. The measure
is BLEU less 100 times the slot error rate, so an error per slot weighs as much as all of BLEU. The
best variant is not simply taken: of those that it does not beat for certain (the paired bootstrap
interval of the difference contains 0) the one with the shortest prompts wins. That is the idea of
the one standard error rule (Breiman et al. 1984, "Classification and Regression Trees"): noise
should not buy a costlier model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving._shots import prompt_digest
from serving.completion import Completion
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer
from stages._params import Prompting
from stages._progress import report_progress
from stages._scores import (
    Rows,
    Statistics,
    bleu_statistics,
    bootstrap_weights,
    corpus_score,
    mean_statistics,
    paired_difference,
    slot_statistics,
)

RESAMPLES, CONFIDENCE = 1000, 0.95
PLACES = ("{prompt}", "{context}", "{shots}")

Example = Mapping[str, Any]
Ask = Callable[[str, int, Sequence[Example]], tuple[list[Completion], float]]
"""Answers prompts by a template with so many examples in it, and says what that cost [USD]."""


@dataclass(frozen=True)
class Choice:
    """The winner, and what all variants were worth."""

    template: str
    """The whole text of a prompt, as a contract holds it."""
    shots: int
    """Examples that every prompt shows [count]."""
    why: str
    table: list[dict[str, Any]]
    """A row per variant, JSON-ready: scores with intervals, cost, difference to the best."""

    def to_dict(self) -> dict[str, Any]:
        """The form in which the stage's report carries it."""
        return {
            "template": self.template,
            "shots": self.shots,
            "prompt_sha256": prompt_digest(self.template, self.shots),
            "why": self.why,
            "cost_usd": sum(row["cost_usd"] for row in self.table),
            "variants": self.table,
        }


def choose_prompt(
    ask: Ask,
    settings: Prompting,
    complete: Callable[[str], str],
    validation: Sequence[Example],
    schema: SlotSchema | None,
    seed: int,
) -> Choice:
    """Try every variant on the first validation prompts, and choose (see the module's text).

    A template without {shots} is tried once, without examples. The seed draws the bootstrap.

    Args:
        complete: puts a template of the settings into the text that the model wants around it.

    Raises:
        StillhouseError: a completed template that does not work, or no prompts; nothing is asked.
    """
    variants = _variants(settings, complete)
    asked = validation[: settings.validation_prompts]
    if not asked:
        raise StillhouseError(
            f"prompting: {len(variants)} variants and no validation prompt to try them on. Give "
            f"validation some data, or remove teacher.prompting."
        )
    weights = bootstrap_weights(len(asked), RESAMPLES, seed)
    progress = report_progress("teacher's prompts", len(variants))
    table: list[dict[str, Any]] = []
    quality = []
    for template, count in variants:
        answers, cost_usd = ask(template, count, asked)
        measured = _measure(answers, asked, schema)
        quality.append(measured["quality"])
        digest = prompt_digest(template, count)
        table.append(
            {"template": template, "shots": count, "prompt_sha256": digest, "cost_usd": cost_usd}
            | {n: corpus_score(s, weights, CONFIDENCE).to_dict() for n, s in measured.items()}
        )
        progress(len(table))
    winner, why = _choose(table, quality, weights)
    return Choice(*variants[winner], why, table)


def _variants(settings: Prompting, complete: Callable[[str], str]) -> list[tuple[str, int]]:
    """Whole templates with their numbers of examples, each pair once."""
    templates = [complete(template) for template in dict.fromkeys(settings.templates)]
    for template in templates:
        twice = [place for place in PLACES if template.count(place) > 1]
        if twice:
            raise StillhouseError(
                f"prompting: {template!r} has {', '.join(twice)} more than once. Leave it out of "
                f"teacher.prompting.templates, or of the template around them."
            )
    counts = sorted(set(settings.shots))
    return [(t, count) for t in templates for count in (counts if "{shots}" in t else [0])]


def _measure(
    answers: Sequence[Completion], asked: Sequence[Example], schema: SlotSchema | None
) -> dict[str, Statistics]:
    texts = [answer.text for answer in answers]
    bleu = bleu_statistics(texts, [example["references"] for example in asked])
    found = {"bleu": bleu, "quality": bleu}
    if schema is not None:
        pairs = zip(texts, asked, strict=True)
        checks = [check_answer(text, example["slots"], schema) for text, example in pairs]
        found["slot_error_rate"] = slot_statistics(checks)["slot_error_rate"]
        found["quality"] = _quality(bleu, found["slot_error_rate"])
    for name in ("prompt_tokens", "completion_tokens"):
        counts = [float(getattr(answer, name)) for answer in answers]
        found[f"{name}_per_answer"] = mean_statistics(counts, "tokens of the teacher's engine")
    return found


def _quality(bleu: Statistics, slots: Statistics) -> Statistics:
    """BLEU less 100 times the slot error rate, both of the same sums over prompts."""
    width = bleu.rows.shape[1]

    def combine(sums: Rows) -> Rows:
        return bleu.combine(sums[..., :width]) - 100.0 * slots.combine(sums[..., width:])

    rows = np.concatenate([bleu.rows, slots.rows], axis=1)
    return Statistics(rows, combine, f"{bleu.signature}, less 100 x {slots.signature}")


def _choose(
    table: list[dict[str, Any]], quality: Sequence[Statistics], weights: Rows
) -> tuple[int, str]:
    """Number of the winner, and why; adds to every row its difference to the best."""
    numbers = range(len(table))
    best = max(numbers, key=lambda n: table[n]["quality"]["score"])
    for row, statistics in zip(table, quality, strict=True):
        difference = paired_difference(statistics, quality[best], weights, CONFIDENCE)
        row["quality_to_best"] = difference.to_dict()
    equals = [n for n in numbers if table[n]["quality_to_best"]["high"] >= 0.0]
    winner = min(
        equals,
        key=lambda n: (
            table[n]["prompt_tokens_per_answer"]["score"],
            -table[n]["quality"]["score"],
        ),
    )
    for number, row in enumerate(table):
        row |= {"best": number == best, "chosen": number == winner}
    if len(table) == 1:
        return winner, "the only variant"
    why = f"shortest prompts of the {len(equals)} variants that the best does not beat for certain"
    return winner, "beats every other variant for certain" if equals == [best] else why
