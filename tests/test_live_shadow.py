"""Shadows: a repeatable share, bounded, never to a remote rung with what may be personal."""

import asyncio

import pytest
from live_cases import choice, item

from serving._items import Answer
from serving._live.checks import AnswerChecks
from serving._live.shadow import Shadow, ShadowLimits, ShadowRung, is_sampled

ALL = ShadowLimits(share=1.0, at_once=1, waiting=1, deadline_s=5.0, usd_per_hour=1.0)
GIVEN = "checkout-api takes 1.8 s."


class Scripted:
    """A model that answers when it is let, and keeps what it was asked."""

    def __init__(self, text=GIVEN, gate=None, fault=None, refusal=None):
        self.text, self.gate, self.fault, self.refusal = text, gate, fault, refusal
        self.asked = []

    async def answer(self, item):
        self.asked.append(item)
        if self.gate:
            await self.gate.wait()
        if self.fault:
            raise self.fault
        choices = [] if self.refusal else [choice(self.text)]
        return Answer(id=item.id, choices=choices, compute_s=1.0, refusal=self.refusal)


def shadow_of(*rungs, limits=ALL, price=lambda *_: 0.0, clock=lambda: 0.0):
    return Shadow(rungs, AnswerChecks(None), price, limits, clock=clock)


def submit(shadow, request_id="request-1", personal=False, answered_by="student"):
    """The results, once they are there."""
    done = asyncio.get_running_loop().create_future()
    asked = item(request_id)
    shadow.submit(asked, answered_by, GIVEN, done.set_result, personal=personal)
    return done


def outcomes(results):
    return [(one.rung, one.outcome) for one in results]


def test_the_same_requests_are_sampled_every_time():
    ids = [f"request-{number}" for number in range(20_000)]

    chosen = [one for one in ids if is_sampled(one, 0.01)]

    assert 150 < len(chosen) < 250
    assert chosen == [one for one in ids if is_sampled(one, 0.01)]
    assert set(chosen) < {one for one in ids if is_sampled(one, 0.05)}
    assert chosen != [one for one in ids if is_sampled(one, 0.01, "salt")]
    assert is_sampled("é", 1.0) and not is_sampled("é", 0.0)


def test_the_sample_does_not_change_between_versions():
    assert [n for n in range(300) if is_sampled(f"request-{n}", 0.01)] == [40, 151, 245]


def test_the_rungs_that_did_not_answer_are_asked_and_compared():
    baseline, student = Scripted("Checkout-api  takes 1.8 s."), Scripted()

    async def serve():
        rungs = [
            ShadowRung("baseline", "local", baseline),
            ShadowRung("student", "local", student),
            ShadowRung("teacher", "remote", Scripted("Another text.")),
        ]
        return await submit(shadow_of(*rungs))

    first, second = asyncio.run(serve())
    assert outcomes([first, second]) == [("baseline", "answered"), ("teacher", "answered")]
    assert first.compared.exact and first.compared.similarity > 0.9
    assert not second.compared.exact and second.compared.bleu < 0.2
    assert student.asked == []
    assert baseline.asked[0].id == "request-1-shadow-baseline"
    assert baseline.asked[0].timeout_s == ALL.deadline_s


@pytest.mark.parametrize("personal", [True, None])
def test_no_remote_rung_gets_what_is_personal_or_was_not_checked(personal):
    local, remote = Scripted(), Scripted()

    async def serve():
        rungs = ShadowRung("baseline", "local", local), ShadowRung("teacher", "remote", remote)
        return await submit(shadow_of(*rungs), personal=personal)

    found = outcomes(asyncio.run(serve()))
    assert found == [("baseline", "answered"), ("teacher", "remote_forbidden")]
    assert remote.asked == []
    assert len(local.asked) == 1


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        (Scripted(fault=RuntimeError("secret")), "failed"),
        (Scripted(refusal="overloaded"), "refused"),
        (Scripted(fault=TimeoutError()), "expired"),
    ],
)
def test_a_fault_is_an_outcome(model, outcome, caplog):
    async def serve():
        return await submit(shadow_of(ShadowRung("baseline", "local", model)))

    assert outcomes(asyncio.run(serve())) == [("baseline", outcome)]
    assert "secret" not in caplog.text


def test_a_rung_that_takes_too_long_is_left():
    async def serve():
        limits = ShadowLimits(share=1.0, deadline_s=0.01)
        rung = ShadowRung("baseline", "local", Scripted(gate=asyncio.Event()))
        return await submit(shadow_of(rung, limits=limits))

    assert outcomes(asyncio.run(serve())) == [("baseline", "expired")]


def test_no_more_run_or_wait_than_allowed_and_the_rest_is_dropped():
    async def serve():
        gate = asyncio.Event()
        model = Scripted(gate=gate)
        shadow = shadow_of(ShadowRung("baseline", "local", model))
        running, waiting, dropped = (submit(shadow, f"r{n}") for n in range(3))
        assert outcomes(await dropped) == [("baseline", "dropped")]
        assert not running.done() and not waiting.done()
        await asyncio.sleep(0)
        assert len(model.asked) == 1
        gate.set()
        return outcomes(await running) + outcomes(await waiting)

    assert asyncio.run(serve()) == [("baseline", "answered")] * 2


def test_the_budget_of_an_hour_is_kept_and_comes_back():
    now = [0.0]

    async def serve():
        price = lambda rung, seconds, *_: 0.6 * seconds  # noqa: E731
        rung = ShadowRung("baseline", "local", Scripted())
        shadow = shadow_of(rung, price=price, clock=lambda: now[0])
        found = [(await submit(shadow, str(n)))[0] for n in range(3)]
        now[0] = 3600.0
        return [*found, (await submit(shadow, "later"))[0]]

    results = asyncio.run(serve())
    assert [one.outcome for one in results] == ["answered", "answered", "over_budget", "answered"]
    assert [one.cost_usd for one in results] == [0.6, 0.6, 0.0, 0.6]


def test_closing_tells_all_that_wait_or_run():
    async def serve():
        shadow = shadow_of(ShadowRung("baseline", "local", Scripted(gate=asyncio.Event())))
        under_way = [submit(shadow, f"r{n}") for n in range(2)]
        await asyncio.sleep(0)
        await shadow.close()
        under_way.append(submit(shadow, "late"))
        return [outcomes(await one) for one in under_way]

    assert asyncio.run(serve()) == [[("baseline", "stopped")]] * 3


def test_what_is_not_sampled_is_done_at_once():
    async def serve():
        model = Scripted()
        limits = ShadowLimits(share=0.0)
        done = submit(shadow_of(ShadowRung("baseline", "local", model), limits=limits))
        assert done.done()
        return await done, model.asked

    assert asyncio.run(serve()) == ((), [])
