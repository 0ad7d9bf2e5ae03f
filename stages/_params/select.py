"""Section `select`: gates and objective that choose the winner."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section, Share

Objective = Literal["cost_per_1k_requests_usd", "latency_p95_ms", "peak_memory_mb", "disk_mb"]
Limit = float | None


class Gates(Section):
    """What a candidate must show. A null gate is off; one without its figure is not passed."""

    min_prompts: int = Field(200, ge=1)
    """Fewest test prompts for a verdict [count]; fewer are inconclusive. Of 200 prompts without a
    change, the share that would change can still be 1.8 % (95 % interval)."""
    bleu_ratio: Limit = Field(0.95, gt=0.0, le=1.0)
    """Least BLEU over that of the unquantized student: the lower bound of the paired ratio."""
    slot_error_rate_rise: Limit = Field(0.01, ge=0.0)
    """Most slot errors per slot above the student's: the upper bound of the paired difference.
    Gates on slots apply to data with records."""
    wrong_rise: Limit = Field(0.005, ge=0.0)
    """Most wrong values per slot above the student's: the upper bound of the paired difference. A
    rise that is proven (lower bound above 0) fails however small it is."""
    semantic_similarity_fall: Limit = Field(0.02, ge=0.0)
    """Most similarity below the student's: the paired difference; applies where it is measured."""
    hallucination_rate_rise: Limit = Field(0.02, ge=0.0)
    """Most hallucination rate above the student's: the paired difference; applies to data without
    records, and wherever it is measured."""
    slot_error_rate: Limit = Field(None, ge=0.0)
    """Most slot errors per slot, whatever the student's: the upper bound of the interval."""
    latency_p95_ms: Limit = Field(1000.0, gt=0.0)
    """Slowest 95th percentile at batch 1 [ms]."""
    peak_memory_mb: Limit = Field(2000.0, gt=0.0)
    """Largest peak resident memory [MB]."""
    disk_mb: Limit = Field(None, gt=0.0)
    """Largest model folder [MB]."""


class Retrained(Section):
    """What a retrained candidate must show against the model that serves, where that is a candidate
    named incumbent. A null gate is off."""

    old_slot_error_rate_rise: Limit = Field(0.01, ge=0.0)
    """Most slot errors per slot above the incumbent's, on the prompts that were tested before any
    window: the upper bound of the paired difference. More was forgotten."""
    old_bleu_fall: Limit = Field(3.0, ge=0.0)
    """Most BLEU points below the incumbent's, on the same prompts; two trainings that differ by
    their seed alone are points apart."""
    window_slot_error_rate_rise: Limit = Field(0.03, ge=0.0)
    """The same as `old_slot_error_rate_rise`, on the test prompts of each window."""
    window_bleu_fall: Limit = Field(5.0, ge=0.0)
    """The same as `old_bleu_fall`, on the test prompts of each window."""
    window_prompts: int = Field(20, ge=1)
    """Fewest test prompts of a window for a verdict [count]; fewer are inconclusive."""


class Prices(Section):
    """Assumptions of the cost comparison; none is measured. Set them to your provider's."""

    spot_share: Share = 0.4
    """Price of a machine that the provider may take back, as a share of the hourly price on demand,
    which the benchmarks state (`benchmark.hourly_price_usd`)."""
    maintenance_usd_per_month: float = Field(500.0, ge=0.0)
    """People's time for a model that one hosts: updates, alarms, retraining [USD/month]."""
    api_maintenance_usd_per_month: float = Field(100.0, ge=0.0)
    """People's time for a hosted API: prompts, changes of its model [USD/month]."""
    api_input_usd_per_million_tokens: float = Field(0.15, ge=0.0)
    """Price of an API's input [USD per million tokens]."""
    api_output_usd_per_million_tokens: float = Field(0.60, ge=0.0)
    """Price of its output [USD per million tokens]."""
    api_instruction_tokens: int = Field(300, ge=0)
    """Instructions and examples that an API needs with every prompt [tokens]."""
    characters_per_token: float = Field(4.0, gt=0.0)
    """Turns texts into an API's tokens; about 4 for English in large vocabularies."""
    utilisation: float = Field(0.6, gt=0.0, le=1.0)
    """Share of the measured throughput that a replica is planned for; the rest is for peaks."""
    requests_per_s: tuple[float, ...] = Field((1.0, 10.0, 100.0, 1000.0), strict=False)
    """Rates that the table has a column for [requests/s]."""


class Select(Section):
    """Gates and objective that choose the winner."""

    gates: Gates = Gates()
    """What a candidate must show to be allowed to win."""
    retrained: Retrained = Retrained()
    """What it must show against the model that serves, after retraining."""
    objectives: tuple[Objective, ...] = Field(
        ("cost_per_1k_requests_usd", "latency_p95_ms", "peak_memory_mb", "disk_mb"),
        min_length=1,
        strict=False,
    )
    """What is least of those that pass: the first, then the others in this order where it ties."""
    tie_share: float = Field(0.05, ge=0.0, lt=1.0)
    """Figures this close to the least one tie: timings vary by as much. What ties with the
    incumbent does not replace it."""
    cuda_engines: tuple[str, ...] = Field(("transformers",), min_length=1, strict=False)
    """Engines that the CUDA service carries."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""
    prices: Prices = Prices()
    """For the comparison of traditional model, students and LLM."""
