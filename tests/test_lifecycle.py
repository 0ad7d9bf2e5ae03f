"""A process is ready when it is warm, and on SIGTERM it loses nothing that it took."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gate_cases import END, Client, chunk, gate

from serving._items import ServiceError
from serving._lifecycle import DrainLimits, Lifecycle
from serving._probes import LifecycleGate
from serving._request_log import RequestRecord
from serving.errors import StillhouseError

ROOT = Path(__file__).parent.parent
AT_ONCE = DrainLimits(notice_s=0.0, limit_s=0.0, last_word_s=0.0)
PATIENT = DrainLimits(notice_s=0.0, limit_s=60.0)


async def ask(app, path="/generate"):
    """Status, headers and body of one request to an ASGI app."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app({"type": "http", "path": path, "headers": []}, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_readiness_waits_for_the_warm_up_and_then_is_asked_of_the_service():
    life = Lifecycle()
    gate = LifecycleGate(answer, life)
    before = asyncio.run(ask(gate, "/readyz"))
    life.mark_ready()
    after = asyncio.run(ask(gate, "/readyz"))
    assert (before[0], json.loads(before[2])) == (503, {"state": "starting"})
    assert (after[0], after[2]) == (200, b"/readyz")


def test_it_is_alive_while_it_starts_and_drains_and_not_when_it_is_broken():
    life = Lifecycle()
    gate = LifecycleGate(answer, life)
    assert asyncio.run(ask(gate, "/livez"))[0] == 200
    life.state = "draining"
    assert asyncio.run(ask(gate, "/livez"))[0] == 200
    life.mark_broken("the model's thread has ended")
    status, _, body = asyncio.run(ask(gate, "/livez"))
    assert (status, json.loads(body)["why"]) == (503, "the model's thread has ended")
    assert asyncio.run(ask(gate, "/readyz"))[0] == 503


def test_a_broken_or_draining_process_does_not_become_ready():
    for state in ("draining", "stopped", "broken"):
        life = Lifecycle()
        life.state = state
        life.mark_ready()
        assert life.state == state


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("starting", "unavailable"), ("draining", "draining"), ("stopped", "draining")],
)
def test_new_work_is_refused_unless_it_is_ready(state, refusal):
    life = Lifecycle()
    life.state = state
    with pytest.raises(ServiceError) as refused:
        life.check_open()
    assert (refused.value.refusal, refused.value.status) == (refusal, 503)
    assert refused.value.retry_after_s


def test_draining_waits_for_what_is_under_way_and_closes_its_connection():
    async def scenario():
        life, go = Lifecycle(limits=PATIENT), asyncio.Event()
        life.mark_ready()

        async def slow(scope, receive, send):
            await go.wait()
            await answer(scope, receive, send)

        request = asyncio.create_task(ask(LifecycleGate(slow, life)))
        await asyncio.sleep(0)
        drain = asyncio.create_task(life.drain())
        done, _ = await asyncio.wait({drain}, timeout=0)
        assert not done
        assert life.under_way == 1
        go.set()
        await drain
        assert life.state == "stopped"
        return await request

    status, headers, _ = asyncio.run(scenario())
    assert (status, headers[b"connection"]) == (200, b"close")


def test_a_stream_is_told_when_its_time_is_up_and_says_its_last_word():
    async def scenario():
        life, told = Lifecycle(limits=DrainLimits(0.0, 0.0, 60.0)), asyncio.Event()

        async def stream(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            with life.told_to_end(told.set):
                await told.wait()
            await send({"type": "http.response.body", "body": b"draining"})

        request = asyncio.create_task(ask(LifecycleGate(stream, life)))
        await asyncio.sleep(0)
        await life.drain()
        return (await request)[2]

    assert asyncio.run(scenario()) == b"draining"


def test_a_stream_that_begins_too_late_is_told_at_once():
    life, told = Lifecycle(limits=AT_ONCE), []
    asyncio.run(life.drain())
    with life.told_to_end(lambda: told.append("now")):
        assert told == ["now"]


def test_what_will_not_end_is_cut_and_answered_with_503():
    async def scenario():
        life = Lifecycle(limits=AT_ONCE)

        async def never(scope, receive, send):
            await asyncio.Event().wait()

        request = asyncio.create_task(ask(LifecycleGate(never, life)))
        await asyncio.sleep(0)
        await life.drain()
        return await request

    assert asyncio.run(scenario())[0] == 503


async def leave_while_sending(_):
    return Client(chunk(b"x", True), END)


async def leave_before_the_answer(begun):
    caller = Client()

    async def leave():
        await begun.wait()
        caller.leave.set()

    caller.leaving = asyncio.create_task(leave())
    return caller


@pytest.mark.parametrize("path", ["/generate", "/metrics"])
@pytest.mark.parametrize("leave", [leave_while_sending, leave_before_the_answer])
def test_who_leaves_before_the_first_byte_is_answered_all_the_same(leave, path):
    """Or BentoML would wait for that byte until its timeout."""

    async def main():
        begun = asyncio.Event()

        async def route(scope, receive, send):
            begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass

        caller, life = await leave(begun), Lifecycle()
        caller.scope["path"] = path
        await caller.ask(LifecycleGate(gate(route), life))
        return caller, life.under_way

    caller, under_way = asyncio.run(main())
    assert [message["type"][14:] for message in caller.sent] == ["start", "body"]
    assert (caller.status, caller.body, under_way) == (499, b"", 0)


@pytest.mark.parametrize("path", ["/generate", "/metrics"])
def test_a_route_that_raises_is_a_500_that_tells_nobody_what_the_error_says(path, caplog):
    async def fail(scope, receive, send):
        scope["state"] = {"record": RequestRecord(id="r-1")}
        raise ZeroDivisionError("a secret prompt")

    with caplog.at_level(logging.ERROR):
        status, headers, body = asyncio.run(ask(LifecycleGate(fail, Lifecycle()), path))
    error = json.loads(body)["error"]
    assert (status, error["code"], headers[b"x-request-id"]) == (500, "internal_error", b"r-1")
    assert "request r-1 failed: ZeroDivisionError at " in caplog.text
    assert "secret" not in caplog.text + body.decode()


def test_a_route_that_raises_after_its_first_byte_is_not_answered_twice():
    sent = []

    async def break_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "path": "/generate", "headers": []}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(LifecycleGate(break_off, Lifecycle())(scope, None, send))
    assert sent == ["http.response.start"]


@pytest.mark.slow
def test_a_model_goes_on_until_the_entry_has_gone(tmp_path):
    script = (
        "import asyncio, sys; from pathlib import Path; from serving._lifecycle import Lifecycle\n"
        "async def main(): life.watch_signals(Path(sys.argv[1])); print('held', flush=True);"
        " sys.stdin.read()\n"
        "life = Lifecycle(); asyncio.run(main())"
    )

    async def scenario():
        life = Lifecycle("model", PATIENT)
        life.watch_signals(tmp_path)
        try:
            drain = asyncio.create_task(life.drain())
            await asyncio.sleep(0)
            assert not drain.done(), "it waits as long as the entry lives"
            entry.stdin.close()
            entry.wait(20)
            await drain
        finally:
            for number, handler in life._servers.items():
                signal.signal(number, handler)

    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as entry:
        assert entry.stdout.readline() == b"held\n"
        asyncio.run(scenario())


def test_a_signal_turns_readiness_false_and_reaches_the_server_after_the_work():
    async def scenario():
        life, stopped = Lifecycle(limits=PATIENT), asyncio.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        try:
            life.watch_signals()
            life.mark_ready()
            with life.working():
                signal.raise_signal(signal.SIGTERM)
                assert life.state == "draining"
                await asyncio.sleep(0)
                assert not stopped.is_set()
            await stopped.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
            signal.signal(signal.SIGINT, life._servers[signal.SIGINT])

    with LeaveQuietly():
        asyncio.run(scenario())


class LeaveQuietly:
    """Stops the timers that would end a process in which a thread hangs."""

    def __enter__(self):
        self.before = set(threading.enumerate())

    def __exit__(self, *_):
        for thread in set(threading.enumerate()) - self.before:
            thread.cancel()


def test_limits_come_from_the_environment():
    found = DrainLimits.from_environment({"STILLHOUSE_DRAIN_LIMIT_S": "7.5"})
    assert (found.limit_s, found.notice_s) == (7.5, 2.0)
    for wrong in ({"LIMIT": "soon"}, {"LIMIT": "nan"}, {"NOTICE": "-1"}, {"NOTICE": "30"}):
        names = {f"STILLHOUSE_DRAIN_{name}_S": value for name, value in wrong.items()}
        with pytest.raises(StillhouseError, match="STILLHOUSE_DRAIN_"):
            DrainLimits.from_environment(names)


def test_a_process_whose_thread_died_is_broken_and_ends():
    code = (
        "from serving._lifecycle import DrainLimits, Lifecycle\n"
        "life = Lifecycle('model', DrainLimits(last_word_s=0.01))\n"
        "life.give_up()\n"
        "print(life.state, life.why_broken, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "broken the model's thread has ended\n")
