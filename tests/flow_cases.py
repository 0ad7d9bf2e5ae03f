"""A whole flow over rungs that answer as they are told: budgets, cache, guard, what is told."""

from cascade_cases import RUNGS, Rungs, answer, item
from response_cache_cases import memory_cache

from serving._cascade.flow import Flow, Parts
from serving._cascade.route import Price, Route
from serving._guard import BlockedList, Guard, GuardPolicy
from serving._items import ServiceError
from serving._live.checks import AnswerChecks
from serving._spending.budgets import open_budgets
from serving._spending.periods import Budget
from serving._spending.prices import price_of

SURE = answer("a sure fish", mean=-0.1)
UNSURE = answer("perhaps a fish", mean=-0.9)
DOUBT = answer("some fish", confidence=0.1)
TAUGHT = answer("a learned fish", mean=-0.1)
PRICES = {
    "baseline": Price(usd_per_request=0.01),
    "student": Price(usd_per_request=0.1),
    "teacher": Price(usd_per_request=1.0),
}
MOST_USD = 1.11
"""Of a request that goes through all three."""
PENNY = 1e-6
"""Sums of floats differ by less [USD]."""


class Way:
    """A flow, its rungs, and what it has told."""

    def __init__(
        self, student=SURE, teacher=TAUGHT, policy="", phrases=None, usd=None, cached=True, **route
    ):
        self.usd, self.given, self.spent = usd, [], []
        fields = {"otherwise": "abstain", "prices": PRICES, "sha256": "f" * 64} | route
        made = Route(RUNGS, alpha=0.1, delta=0.05, error="slots", **fields)
        self.rungs = Rungs(DOUBT, student, teacher, priced=price_of(PRICES), **fields)
        blocked = BlockedList(phrases) if phrases else None
        self.budgets = open_budgets(lambda _: None if self.usd is None else Budget(self.usd))
        self.parts = Parts(
            route=made,
            cascade=self.rungs.cascade,
            guard=Guard(GuardPolicy.from_text(policy), blocked),
            budgets=self.budgets,
            checks=AnswerChecks(None),
            template="{prompt}",
            longest_s=30.0,
            longest_answer=24,
            cache=memory_cache() if cached else None,
            tell=self.given.append,
            spend=lambda tenant, tried: self.spent.append((tenant, [one.rung for one in tried])),
        )
        self.flow = Flow(self.parts)

    async def ask(self, prompt="fish", cacheable=True, **changes):
        return await self.flow.answer(item(prompt, **changes), cacheable=cacheable)

    async def has_left(self, usd):
        """Whether just so much of the budget is left; what is tried is given back."""
        return await self._may_spend(usd - PENNY) and not await self._may_spend(usd + PENNY)

    async def _may_spend(self, usd):
        try:
            kept = await self.budgets.reserve("anonymous", usd)
        except ServiceError:
            return False
        await self.budgets.settle(kept, 0.0)
        return True

    def asked(self):
        return self.rungs.asked()


def phrase_list(folder, *phrases):
    """A list of blocked phrases."""
    file = folder / "blocked.txt"
    file.write_text("".join(f"{one}\n" for one in phrases), encoding="utf-8")
    return file
