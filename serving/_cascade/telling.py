"""Who is told what of an answer of the cascade: series, sums per tenant, shadows, live records."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving._cascade.flow import Given
from serving._cascade.route import RungName
from serving._cascade.running import Tried
from serving._guard import Guarded
from serving._items import Choice
from serving._live.log import LiveLog
from serving._live.records import GuardFinding, LiveRecord
from serving._live.series import observe_answer, observe_shadows
from serving._live.shadow import Shadow, Shadowed
from serving._live.uncertainty import uncertainty_of
from serving._metrics import Metrics
from serving._spending.sums import Spendings


class Telling:
    """Tells of what was tried and given; nothing here can fail a request."""

    def __init__(
        self,
        metrics: Metrics,
        spendings: Spendings,
        models: Mapping[RungName, str],
        shadow: Shadow | None = None,
        live: LiveLog | None = None,
    ) -> None:
        """`models` are the digests of the rungs' models."""
        self._metrics, self._spendings, self._models = metrics, spendings, models
        self._shadow, self._live = shadow, live

    async def close(self) -> None:
        """End the shadows."""
        if self._shadow is not None:
            await self._shadow.close()

    def tried(self, one: Tried) -> None:
        """One rung, as soon as it was tried."""
        self._metrics.add("rung_answers_total", 1, one.rung, one.outcome)
        self._metrics.add("rung_cost_usd_total", one.cost_usd, one.rung)

    def spent(self, tenant: str, tried: Sequence[Tried]) -> None:
        """What a tenant's request has tried."""
        label = self._spendings.add(tenant, tried)
        self._metrics.add("tenant_requests_total", 1, label)
        for one in tried:
            self._metrics.add("tenant_cost_usd_total", one.cost_usd, label, one.rung)

    def given(self, given: Given) -> None:
        """What a caller got; other rungs are asked, too, for a share of them."""
        if given.source not in ("off", "miss"):
            label = self._spendings.add_cached(given.item.tenant)
            self._metrics.add("tenant_requests_total", 1, label)
        if given.source != "off":
            self._metrics.add("cache_requests_total", 1, given.source)
        if given.choice is None or given.rung is None:
            return
        rung, choice = given.rung, given.choice
        observe_answer(self._metrics, rung, choice, given.checked, given.uncertainty)

        def done(shadows: tuple[Shadowed, ...]) -> None:
            observe_shadows(self._metrics, shadows)
            if self._live is not None:
                self._live.write(_record(given, rung, choice, self._models, shadows))

        if self._shadow is None:
            done(())
        else:
            personal = given.guard_in.personal
            self._shadow.submit(given.item, rung, choice.text, done, personal=personal)


def _record(
    given: Given,
    rung: RungName,
    choice: Choice,
    models: Mapping[RungName, str],
    shadows: Sequence[Shadowed],
) -> LiveRecord:
    """All that is known of an answer."""
    baseline = [one.compared for one in shadows if one.rung == "baseline" and one.compared]
    record = LiveRecord(
        time=time.time(),
        item=given.item,
        choice=choice,
        rung=rung,
        models={str(name): digest for name, digest in models.items()},
        prompt_tokens=given.answer.prompt_tokens if given.answer else 0,
        checked=given.checked,
        uncertainty=given.uncertainty,
        sure=given.sure,
        cost_usd=given.usage["cost_usd"],
        latency_s=given.seconds,
        cache=given.source,
        guard_in=given.guard_in.state,
        guard_out=given.guard_out.state if given.guard_out else "not_run",
        guard_findings=(
            *_findings("in", given.guard_in),
            *_findings("out", given.guard_out),
        ),
        shadows=shadows,
    )
    if not baseline:
        return record
    more = uncertainty_of(choice, given.checked, baseline[0].similarity)
    return replace(record, uncertainty=more)


def _findings(side: str, guarded: Guarded | None) -> list[GuardFinding]:
    found = guarded.findings if guarded else ()
    return [GuardFinding(side, one.rule, one.kind, one.start, one.end) for one in found]
