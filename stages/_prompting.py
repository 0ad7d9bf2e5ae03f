"""Which template, with how many examples in it, makes a prompted teacher best: tried on validation.

A variant is a template with a number of examples, which the baseline's retrieval picks from train
for every prompt anew. All variants answer the same validation prompts. The measure is BLEU less 100
times the slot error rate, so an error per slot weighs as much as all of BLEU. The best variant is
not simply taken: of those that it does not beat for certain (the paired bootstrap interval of the
difference contains 0) the one with the shortest prompts wins. That is the idea of the one standard
error rule (Breiman et al. 1984, "Classification and Regression Trees"): noise should not buy
a costlier model.

Examples travel in `Request.context`: `Choice.serving_template` has {context} where the template
says {shots}, and `Shots.context_for` fills it, when labels are made as in production.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving._retrieval import Index, build_index, retrieval_text
from serving.baseline import POOL, request_slots
from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer
from stages._duplicates import exact_key
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
MAX_FEATURES = 50_000  # of the index, as baseline.max_features is by default
SHOT = "Input: {prompt}\nOutput: {answer}\n\n"
# Part of the winner's hash: with another retrieval or format its figures would not hold.
RETRIEVAL = f"{SHOT}; nearest by TF-IDF cosine ({MAX_FEATURES} terms) last; none asks the same"

Example = Mapping[str, Any]
Ask = Callable[[list[str]], list[Completion]]
"""Takes rendered prompts, gives their answers in the same order."""


@dataclass(frozen=True)
class Choice:
    """The winner, and what all variants were worth."""

    template: str
    shots: int
    """Examples that every prompt shows [count]."""
    table: list[dict[str, Any]]
    """A row per variant, JSON-ready: scores with intervals, cost, difference to the best."""

    @property
    def serving_template(self) -> str:
        """The template as a contract holds it, with the examples as {context}."""
        return self.template.replace("{shots}", "{context}")

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides a prompt beside train: for a label manifest."""
        return _digest(self.template, self.shots)


@dataclass(frozen=True)
class Shots:
    """Training examples that can be shown, and how many are."""

    index: Index
    examples: Sequence[Example]
    keys: tuple[str, ...]
    """What each example asks, whatever the order and spelling."""
    count: int

    def context_for(
        self, requests: Sequence[Request], leave_out: Sequence[str | None] | None = None
    ) -> list[str]:
        """The examples to show with each request, as one text in the format `SHOT`.

        An example that asks what the request asks is never shown: in training it would give the
        answer away, and in production it must be no other than it was.

        Args:
            leave_out: for each request the id of a further example not to show, such as the one it
                was made from.

        Raises:
            StillhouseError: a request has a context of its own, where the examples would go.
        """
        if any(request.context for request in requests):
            raise StillhouseError(
                "a prompt with a context of its own has no place for examples. Write {context} "
                "instead of {shots} into prompting.templates, and set shots: [0]."
            )
        if self.count == 0 or not requests:
            return [""] * len(requests)
        ids = leave_out if leave_out is not None else [None] * len(requests)
        found = zip(self._nearest(requests), requests, ids, strict=True)
        return [self._text(rows, request, own) for rows, request, own in found]

    def _nearest(self, requests: Sequence[Request]) -> list[list[int]]:
        """Rows of the examples nearest to each request, the nearest first."""
        schema = self.index.schema
        texts = [retrieval_text(r.prompt, request_slots(r, schema), schema) for r in requests]
        wanted = min(POOL + self.count, len(self.examples))
        vectors = self.index.vectoriser.transform(texts)
        distances, rows = self.index.neighbours.kneighbors(vectors, wanted)
        # Equal distances are common among records; the row decides, not the search's inner order.
        order = np.lexsort((rows, distances.round(6)))
        return [list(map(int, row)) for row in np.take_along_axis(rows, order, axis=1)]

    def _text(self, rows: Sequence[int], request: Request, left_out: str | None) -> str:
        asked = exact_key(request.prompt, request_slots(request, self.index.schema))
        shown = [
            row
            for row in rows
            if self.keys[row] != asked and self.examples[row].get("id") != (left_out or "")
        ]
        return "".join(self._shot(row) for row in reversed(shown[: self.count]))

    def _shot(self, row: int) -> str:
        """The example with the reference that has the fewest slot errors, of equals the first."""
        example, schema = self.examples[row], self.index.schema
        answers: list[str] = example["references"]
        if schema is not None:
            answers = sorted(
                answers, key=lambda a: check_answer(a, example["slots"], schema).errors
            )
        return _fill(SHOT, {"{prompt}": example["prompt"], "{answer}": answers[0]})


def build_shots(train: Sequence[Example], schema: SlotSchema | None, count: int) -> Shots:
    """Index the training examples to show `count` of them with every request."""
    keys = tuple(exact_key(example["prompt"], example.get("slots")) for example in train)
    return Shots(build_index(train, schema, MAX_FEATURES), train, keys, count)


def choose_prompt(
    ask: Ask,
    settings: Prompting,
    train: Sequence[Example],
    validation: Sequence[Example],
    schema: SlotSchema | None,
    seed: int,
) -> Choice:
    """Try every variant on the first validation prompts, and choose (see the module's text).

    A template without {shots} is tried once, without examples. The seed draws the bootstrap.

    Raises:
        StillhouseError: templates that do not work, all in one line.
    """
    variants = _variants(settings)
    asked = validation[: settings.validation_prompts]
    shots = build_shots(train, schema, 0)
    progress = report_progress("prompts", len(variants))
    measured = []
    for number, (template, count) in enumerate(variants, start=1):
        prompts = render_prompts(template, asked, replace(shots, count=count))
        measured.append(_measure(ask(prompts), asked, schema))
        progress(number)
    weights = bootstrap_weights(len(asked), RESAMPLES, seed)
    table = [
        {"template": template, "shots": count, "digest": _digest(template, count)}
        | {name: corpus_score(s, weights, CONFIDENCE).to_dict() for name, s in found.items()}
        for (template, count), found in zip(variants, measured, strict=True)
    ]
    winner = _choose(table, [found["quality"] for found in measured], weights)
    return Choice(*variants[winner], table)


def render_prompts(template: str, examples: Sequence[Example], shots: Shots) -> list[str]:
    """What a teacher reads: the template with each prompt and its examples filled in."""
    requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]
    ids = [example.get("id") for example in examples]
    several = "{shots}" in template
    contexts = shots.context_for(requests, ids) if several else [r.context or "" for r in requests]
    return [
        _fill(template, {"{prompt}": r.prompt, "{context}": c, "{shots}": c})
        for r, c in zip(requests, contexts, strict=True)
    ]


def _variants(settings: Prompting) -> list[tuple[str, int]]:
    templates, counts = dict.fromkeys(settings.templates), sorted(set(settings.shots))
    problems = [
        f"{template!r} needs {{prompt}} once and at most one of {{shots}} and {{context}}"
        for template in templates
        if template.count("{prompt}") != 1
        or template.count("{shots}") + template.count("{context}") > 1
    ]
    if not templates or not counts or min(counts) < 0:
        problems.append(f"{len(templates)} templates and shots {counts} leave nothing to try")
    elif max(counts) > 0 and not any("{shots}" in template for template in templates):
        problems.append(f"shots {counts} are asked for, and no template has {{shots}}")
    if problems:
        raise StillhouseError(f"prompting: {'; '.join(problems)}. Correct it in params.yaml.")
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


def _choose(table: list[dict[str, Any]], quality: Sequence[Statistics], weights: Rows) -> int:
    """Number of the winner; adds to every row its difference to the best and whether it won."""
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
    return winner


def _fill(template: str, values: Mapping[str, str]) -> str:
    """All placeholders at once: what a value spells is text and no placeholder."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], template)


def _digest(template: str, shots: int) -> str:
    content = json.dumps([template, shots, RETRIEVAL], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
