"""What an answer of a rung costs, from its price: time, requests and tokens.

Inside, money is whole nano-dollars, so that sums are exact whatever their order; beyond these
modules it is dollars. A part of a nano-dollar counts as a whole one: what is counted is never less
than what was used, and at most a dollar more in a thousand million requests.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol

from serving._cascade.route import Price, RungName

PriceOf = Callable[[RungName, float, int, int], float]
"""Of rung, compute share [s], prompt tokens and completion tokens: US dollars."""

NANO = 10**9
MOST_USD = 1_000_000.0
"""Of one budget: what Redis counts in doubles is exact to 9 million dollars."""


class Used(Protocol):
    """What one try of a rung has used, as `Tried` of the cascade says it."""

    @property
    def rung(self) -> RungName:
        """Whose try."""

    @property
    def compute_s(self) -> float:
        """Its share of the micro-batch's time [s]."""

    @property
    def prompt_tokens(self) -> int:
        """Read."""

    @property
    def completion_tokens(self) -> int:
        """Written."""

    @property
    def cost_usd(self) -> float:
        """What it cost."""


def price_of(prices: Mapping[RungName, Price]) -> PriceOf:
    """What an answer costs at these prices; a rung without a price is free [USD].

    The compute share of an answer is its micro-batch's time over the rows that shared it.
    """

    def price(
        rung: RungName, compute_s: float, prompt_tokens: int, completion_tokens: int
    ) -> float:
        if (one := prices.get(rung)) is None:
            return 0.0
        return one.cost(compute_s, prompt_tokens, completion_tokens)

    return price


def most_usd(
    prices: Mapping[RungName, Price], *, seconds: float, prompt_tokens: int, completion_tokens: int
) -> float:
    """The most that a request can cost which goes through all rungs in turn [USD].

    All of its tokens at each rung, and all of its time at the dearest: the time is shared by them.
    Work that began just in time may end after it, so that the truth can be a little more.

    Args:
        prices: Of the rungs that may be asked.
        seconds: Until the request's deadline.
        prompt_tokens: Of all its prompts, or an upper bound.
        completion_tokens: Room for all its answers.
    """
    dearest = max(
        (one.cost(seconds, 0, 0) - one.cost(0, 0, 0) for one in prices.values()), default=0.0
    )
    return dearest + sum(one.cost(0, prompt_tokens, completion_tokens) for one in prices.values())


def usage_of(tried: Iterable[Used]) -> dict[str, Any]:
    """Fields for an answer's usage: `cost_usd`, `compute_s` and `cost_by_rung` [USD].

    The cost is the one that budget and sums are charged, to the nano-dollar.
    """
    nano: dict[RungName, int] = {}
    compute_s = 0.0
    for one in tried:
        nano[one.rung] = nano.get(one.rung, 0) + nano_usd(one.cost_usd)
        compute_s += one.compute_s
    return {
        "cost_usd": dollars(sum(nano.values())),
        "compute_s": compute_s,
        "cost_by_rung": {rung: dollars(cost) for rung, cost in nano.items()},
    }


def nano_usd(usd: float) -> int:
    """Whole nano-dollars, a part counted as one.

    Raises:
        ValueError: negative, not finite, or more than MOST_USD.
    """
    if not 0.0 <= usd <= MOST_USD:
        raise ValueError(f"a sum of money is 0 to {MOST_USD:,.0f} USD, not {usd}")
    return int((Decimal(repr(usd)) * NANO).to_integral_value(ROUND_CEILING))


def dollars(nano: int) -> float:
    """The same in dollars, the nearest number there is; `nano_usd` of it is `nano` again."""
    return nano / NANO
