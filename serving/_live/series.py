"""The series of live quality, per rung, and what tells them.

    nats per token      live_nats_per_token        perplexity = exp(sum / count)
    tokens per answer   live_answer_tokens
    tokens per correct slot   live_slot_checked_tokens_total / live_correct_slots_total

The last two are counted over the same answers, those whose slots were checked, so that their
quotient is a ratio of sums: a mean of ratios would have none for an answer without a right slot.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from serving._cascade.route import RungName
from serving._items import Choice
from serving._live.checks import Checked, CheckName, CheckState
from serving._live.shadow import Outcome, Shadowed
from serving._live.uncertainty import Uncertainty
from serving._metric_series import Series
from serving.grounding import KINDS

RecordOutcome = Literal["written", "queue_full", "spool_full", "failed"]
SlotKind = Literal["missing", "added", "wrong"]
Agreement = Literal["exact", "slots"]

RUNGS: dict[str, Sequence[str]] = {"rung": get_args(RungName)}
NATS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
TOKENS = (8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0)
TENTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

LIVE_SERIES = (
    Series("live_nats_per_token", "histogram", "Of answers: -mean log-probability.", RUNGS, NATS),
    Series("live_answer_tokens", "histogram", "Tokens per answer.", RUNGS, TOKENS),
    Series("live_slot_checked_tokens_total", "counter", "Of answers with slots checked.", RUNGS),
    Series("live_asked_slots_total", "counter", "Slots asked of those answers.", RUNGS),
    Series("live_correct_slots_total", "counter", "Slots that those answers say.", RUNGS),
    Series(
        "live_slot_errors_total",
        "counter",
        "Slots missing, added or wrong.",
        {**RUNGS, "kind": get_args(SlotKind)},
    ),
    Series(
        "live_ungrounded_claims_total",
        "counter",
        "Claims that the prompt does not support.",
        {**RUNGS, "kind": KINDS},
    ),
    Series(
        "live_checks_total",
        "counter",
        "Checks of answers; not_run is no success.",
        {**RUNGS, "check": get_args(CheckName), "state": get_args(CheckState)},
    ),
    Series("live_uncertainty", "histogram", "The uncertainty that is told.", RUNGS, TENTHS),
    Series(
        "live_shadows_total",
        "counter",
        "Sampled answers per rung that was to answer, too.",
        {**RUNGS, "outcome": get_args(Outcome)},
    ),
    Series(
        "live_shadow_agreement_total",
        "counter",
        "Answered shadows that agree, in words or in slots.",
        {**RUNGS, "kind": get_args(Agreement), "agrees": ("yes", "no")},
    ),
    Series("live_shadow_similarity", "histogram", "chrF with the shadow.", RUNGS, TENTHS),
    Series("live_shadow_bleu", "histogram", "Sentence BLEU with the shadow.", RUNGS, TENTHS),
    Series("live_shadow_cost_usd_total", "counter", "What shadows cost.", RUNGS),
    Series(
        "live_records_total",
        "counter",
        "Records of answers, written or dropped.",
        {"outcome": get_args(RecordOutcome)},
    ),
)


class LiveMetrics(Protocol):
    """What takes the figures; labels come in the order of the series' own."""

    def add(self, series: str, by: float, *labels: str) -> None:
        """Count `by` more."""

    def observe(self, series: str, value: float, *labels: str) -> None:
        """Note a value in a histogram."""


def observe_answer(
    metrics: LiveMetrics,
    rung: RungName,
    choice: Choice,
    checked: Checked,
    uncertainty: Uncertainty | None,
) -> None:
    """One text that was given; from a cache, too: it is what callers see."""
    if choice.mean_logprob is not None:
        metrics.observe("live_nats_per_token", -choice.mean_logprob, rung)
    metrics.observe("live_answer_tokens", choice.completion_tokens, rung)
    if uncertainty is not None:
        metrics.observe("live_uncertainty", uncertainty.score, rung)
    metrics.add("live_checks_total", 1, rung, "slots", checked.slots)
    metrics.add("live_checks_total", 1, rung, "grounding", checked.grounding)
    if checked.slots != "not_run":
        metrics.add("live_slot_checked_tokens_total", choice.completion_tokens, rung)
        metrics.add("live_asked_slots_total", checked.slots_asked, rung)
        metrics.add("live_correct_slots_total", checked.slots_said, rung)
    for one in checked.findings:
        slots = one.check == "slots"
        series = "live_slot_errors_total" if slots else "live_ungrounded_claims_total"
        metrics.add(series, 1, rung, one.kind)


def observe_shadows(metrics: LiveMetrics, shadows: Sequence[Shadowed]) -> None:
    """What came of one sampled answer; the label is the rung that answered besides."""
    for one in shadows:
        metrics.add("live_shadows_total", 1, one.rung, one.outcome)
        metrics.add("live_shadow_cost_usd_total", one.cost_usd, one.rung)
        if one.compared is None:
            continue
        agreed = {"exact": one.compared.exact, "slots": one.compared.slots_equal}
        for kind, agrees in agreed.items():
            if agrees is not None:
                yes = "yes" if agrees else "no"
                metrics.add("live_shadow_agreement_total", 1, one.rung, kind, yes)
        metrics.observe("live_shadow_similarity", one.compared.similarity, one.rung)
        metrics.observe("live_shadow_bleu", one.compared.bleu, one.rung)


def observe_record(metrics: LiveMetrics, outcome: RecordOutcome) -> None:
    """One record of an answer."""
    metrics.add("live_records_total", 1, outcome)
