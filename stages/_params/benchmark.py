"""Section `benchmark`: speed, memory and cost of every candidate."""

from typing import Annotated, Literal

from pydantic import Field

from stages._params.base import Section, Share

Price = Annotated[float, Field(ge=0.0)]
"""US dollars per hour of the machine that is rented."""


class HourlyPrice(Section):
    """What an hour of the machine costs, by the device that a candidate is measured on."""

    cpu: Price = 0.1
    """A machine like this one [USD/h]; about what clouds ask for two virtual cores on demand."""
    cuda: Price = 2.5
    """A machine with one such accelerator [USD/h]."""


class Benchmark(Section):
    """Speed, memory and cost of every candidate."""

    prompts: int = Field(64, ge=1)
    """Calibration prompts drawn by the seed, the same for every candidate [count]."""
    seconds: float = Field(0.7, gt=0.0)
    """Time of each measurement after its warm-up [s]: latency, throughput, attention, caches."""
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8, 16, 32, 64), min_length=1, strict=False
    )
    """Requests handed over at once, for the throughput [count]."""
    attention: tuple[Literal["eager", "sdpa", "flash_attention_2"], ...] = Field(
        ("eager", "sdpa", "flash_attention_2"), strict=False
    )
    """Attention of the transformers engine: prefill and decode with each that the device has."""
    caches: tuple[Literal["dynamic", "static", "quantized"], ...] = Field(
        ("dynamic", "static", "quantized"), strict=False
    )
    """Key and value caches of the transformers engine, measured in the same way."""
    kinds_batch: int = Field(8, ge=1)
    """Prompts at once in the measurements of attention and caches [count]."""
    hourly_price_usd: HourlyPrice = HourlyPrice()
    """What an hour of the machine costs [USD/h]."""
    max_machine_change: Share = 0.1
    """The run is flagged as noisy where a fixed product got faster or slower by more than this."""
    paid_endpoint: bool = False
    """True measures a candidate behind an endpoint, which costs money for every request."""
