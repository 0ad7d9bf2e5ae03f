"""Money of requests to the student alone: reserved before the work, charged by its compute time.

The cascade does the same for itself (serving/_cascade/flow.py), since it may ask several models.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving._cascade.route import Price
from serving._compare import cost_usd
from serving._entry_items import Prepared
from serving._items import Answer, Refusal, ServiceError
from serving._spending.budgets import Budgets
from serving._spending.prices import dollars, most_usd, nano_usd

UNBEGUN: frozenset[Refusal] = frozenset({"invalid_request", "prompt_too_long", "overloaded"})
"""Refusals of a model that has not computed anything for it."""


@dataclass
class Bill:
    """What a request has come to so far."""

    answers: list[Answer]
    known: bool = False
    """Whether these are all that it has used; else all that was reserved counts."""


class Paying:
    """Reserves and charges what requests cost at the machine's price."""

    def __init__(self, budgets: Budgets, usd_per_hour: float, longest_s: float) -> None:
        """`longest_s`: deadline of a request that has none [s]."""
        self._budgets, self._usd_per_hour, self._longest_s = budgets, usd_per_hour, longest_s

    @asynccontextmanager
    async def paid(self, prepared: Prepared, made: list[Answer]) -> AsyncIterator[Bill]:
        """Keep the most that a request can cost, and in the end charge what `made` cost.

        Raises:
            ServiceError: budget_exceeded, unavailable.
        """
        reservation = await self._budgets.reserve(prepared.items[0].tenant, self._most(prepared))
        bill = Bill(made)
        try:
            yield bill
        except ServiceError as error:
            bill.known = bill.known or error.refusal in UNBEGUN
            raise
        finally:
            usd = self.cost_usd(bill.answers) if bill.known else None
            await self._budgets.settle(reservation, usd)

    def cost_usd(self, answers: Sequence[Answer]) -> float:
        """Of some answers, to the nano-dollar."""
        return dollars(sum(nano_usd(cost_usd(one, self._usd_per_hour)) for one in answers))

    def used(self, answers: Sequence[Answer]) -> dict[str, object]:
        """Fields of an answer's usage."""
        cost = self.cost_usd(answers)
        compute_s = sum(one.compute_s / max(one.batch_rows, 1) for one in answers)
        return {"cost_usd": cost, "compute_s": compute_s, "cost_by_rung": {"student": cost}}

    def _most(self, prepared: Prepared) -> float:
        left_s = prepared.items[0].timeout_s
        seconds = self._longest_s if left_s is None else left_s
        price = {"student": Price(usd_per_hour=self._usd_per_hour)}
        return len(prepared.items) * most_usd(
            price,  # type: ignore[arg-type]  # a literal's dict
            seconds=seconds,
            prompt_tokens=0,
            completion_tokens=0,
        )
